"""Sliders: one LoRA for every value of a placeholder."""

from __future__ import annotations

import hashlib
import math
import random
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from spec_texts import load, only
from stub_plugins import stubs
from test_engine import build

from dualproc import Engine, TaskSpec, resolve
from dualproc.cli import main
from dualproc.engine import FitResult, calibration, lora, sliders
from dualproc.engine.evaluate import evaluate, monitor
from dualproc.engine.reload import load_engine, load_generator, load_several
from dualproc.errors import DualprocError, SpecError
from dualproc.report.charts import calibration_chart
from dualproc.run import RunFolder
from dualproc.run.folder import RESOLVED, WEIGHTS
from dualproc.spec import Lora, Slider, json_schema, spec_from_dict
from dualproc.spec.sliders import complete
from dualproc.types import Calibration, CalibrationPoint, Measurement, Score

SPECS = Path(__file__).parents[1] / "specs" / "sliders"
ROW = Slider.model_validate({"from": 0.26, "to": 0.66})


def make_spec(**changes: Any) -> TaskSpec:
    data: dict[str, Any] = {
        "name": "horizon",
        "sliders": {"row": {"from": 0.26, "to": 0.66}},
        "description": "The horizon is at {row}.",
        "prompts": {"template": "a cartoon of {subject}", "train": ["a cat", "a dog"], "eval": ["an owl"]},
        "question": {"template": "Is the line at {row} aligned with the horizon behind {subject}?"},
        "preserve": {"template": "Is this a drawing of {subject}?"},
        "visual_prompt": {"layers": [{"type": "line", "from": [0, "{row}"], "to": [1, "{row}"], "width": 0.04}]},
        "referee": {"type": "tiny-referee"},
        "scorers": [{"type": "horizon", "target": "{row}"}],
        "anchor": {"type": "base_denoise"},
        "train": {"steps": 3, "batch": 1, "lr": 1e-2, "watch": {"every": 2, "images": 3}, "lora": {"rank": 2}},
        "evaluation": {"seeds": 2},
    }
    return spec_from_dict(data | changes)


# --- the spec ---------------------------------------------------------------------------------------------------


def test_values_fill_visual_prompt_question_and_scorer() -> None:
    spec = make_spec()
    at = spec.at({"row": 0.42})
    assert at.visual_prompt is not None
    assert at.visual_prompt.layers[0].params["from"] == [0, 0.42]
    assert at.questions[0].template == "Is the line at 0.42 aligned with the horizon behind {subject}?"
    assert at.scorers[0].params == {"target": 0.42}
    assert (at.description, at.sliders) == ("The horizon is at 0.42.", {})
    assert at.prompts == spec.prompts
    assert spec.at({}).scorers[0].params == {"target": 0.46}  # the middle


@pytest.mark.parametrize("path", sorted(SPECS.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_specs_measure_every_value_of_every_slider(path: Path) -> None:
    spec = resolve.load_spec(path)
    assert set(spec.sliders) <= {str(ref.params.get("target")).strip("{}") for ref in spec.scorers}
    assert spec.evaluation.seeds == 2 * sliders.GRID  # two images of every prompt at every value


def test_spec_with_a_slider_survives_writing_and_reading(tmp_path: Path) -> None:
    from dualproc.spec import to_yaml

    spec = make_spec(sliders={"row": {"from": 0.26, "to": 0.66, "degree": 2}})
    assert "  row:\n    from: 0.26\n    to: 0.66\n    degree: 2\n" in to_yaml(spec)
    assert load(tmp_path, to_yaml(spec)).require() == spec


TEXT = """\
name: horizon
sliders: {row: {from: 0.26, to: 0.66}}
prompts: {train: [a cat, a dog], eval: [an owl]}
question: {template: "Is the line at the horizon of {prompt}?"}
visual_prompt: {layers: [{type: line, from: [0, "{row}"], to: [1, "{row}"]}]}
"""


@pytest.mark.parametrize(
    ("old", "new", "path", "message"),
    [
        ("to: 0.66", "to: 0.2", "sliders.row.to", "`to` is not above `from`"),
        ("from: 0.26, to: 0.66", "from: -1.7e308, to: 1.7e308", "sliders.row.to", "the range is too large"),
        (", to: 0.66", "", "sliders.row.to", "`to` is missing"),
        ("from: 0.26", "form: 0.26, from: 0", "sliders.row.form", "unknown key `form`"),
        ("to: 0.66", "to: 0.66, degree: 3", "sliders.row.degree", "expected a number of at most 2, found 3"),
        ("to: 0.66}", "to: 0.66}, x: {from: 0, to: 1}", "sliders.x", "used nowhere in training"),
        ("sliders: {row: ", "sliders: {subject: {from: 0, to: 1}, row: ", "prompts", "`subject` is also a slider"),
        ("question:", "variants: {a: {row: 1}}\nvariant: a\nquestion:", "variants.a.row", "`row` is also a slider"),
        ("prompts: {", "prompts: {template: 'x {row} {subject}', ", "prompts.template", "unknown placeholder {row}"),
        ("visual_prompt: {", 'visual_prompt: {opacity: "{row}", ', "visual_prompt.opacity", "{row} of a slider is not"),
    ],
)
def test_mistakes_are_located(tmp_path: Path, old: str, new: str, path: str, message: str) -> None:
    assert TEXT.count(old) == 1
    problem = only(load(tmp_path, TEXT.replace(old, new)))
    assert problem.path == path
    assert message in problem.message
    assert problem.line is not None


def test_parameters_of_plugins_are_checked_at_both_ends(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(TEXT.replace("to: 0.66", "to: 3"))
    with pytest.raises(SpecError, match=r"layers\.0\.to\.1: expected a number of at most .*, found 3"):
        resolve.load_spec(tmp_path / "spec.yaml")


def test_sliders_are_usable_beside_variants(tmp_path: Path) -> None:
    text = TEXT.replace("prompts:", "variants: {thin: {width: 0.01}, thick: {width: 0.1}}\nprompts:")
    loaded = load(tmp_path, text.replace("type: line,", 'type: line, width: "{width}",'), variant="thick")
    at = loaded.require().at({"row": 0.3})
    assert at.visual_prompt is not None
    assert at.visual_prompt.layers[0].params == {"width": 0.1, "from": [0, 0.3], "to": [1, 0.3]}


def test_schema_has_sliders_and_their_placeholders() -> None:
    import jsonschema

    line = resolve.installed_schema()[0]
    validator = jsonschema.Draft202012Validator(line)
    data = {
        "name": "horizon", "sliders": {"row": {"from": 0.26, "to": 0.66}}, "question": {"template": "{row}?"},
        "prompts": {"train": ["a cat"], "eval": ["an owl"]}, "scorers": [{"type": "horizon", "target": "{row}"}],
    }  # fmt: skip
    assert not list(validator.iter_errors(data))
    assert list(validator.iter_errors(data | {"sliders": {"row": {"low": 0.26, "to": 0.66}}}))
    assert json_schema({})["$defs"]["Slider"]["properties"].keys() == {"from", "to", "degree"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"row": 0.7}, "row=0.7 is outside the slider's range, 0.26 to 0.66"),
        ({"row": math.nan}, "outside the slider's range"),
        ({"rwo": 0.3}, "there is no slider `rwo`"),
    ],
)
def test_values_that_were_not_trained_are_refused(values: dict[str, float], message: str) -> None:
    with pytest.raises(DualprocError, match=message):
        complete({"row": ROW}, values)


def test_positions_and_values_are_inverse() -> None:
    assert [ROW.value(u) for u in (-1, 0, 1)] == [0.26, 0.46, 0.66]
    wide = Slider.model_validate({"from": 10, "to": 250})
    for slider in (ROW, wide):
        for u in (-1.0, -0.371, 0.0, 0.5, 1.0):
            assert slider.position(slider.value(u)) == pytest.approx(u, abs=2e-3)
    assert ROW.value(0.1234567) == 0.4847  # short enough for a question


# --- values -----------------------------------------------------------------------------------------------------


def test_training_draws_every_part_of_the_range_in_random_order() -> None:
    spec = make_spec()
    values = [sliders.drawn(spec, step, random.Random(f"0/{step}"))["row"] for step in range(16)]
    assert values == [sliders.drawn(spec, step, random.Random(f"0/{step}"))["row"] for step in range(16)]
    assert len(set(values)) == 16
    for eight in (values[:8], values[8:]):
        assert [int((value - 0.26) / 0.05) for value in sorted(eight)] == list(range(8))
        assert eight != sorted(eight)


def test_grid_gives_every_prompt_every_value_and_mixes_sliders() -> None:
    spec = make_spec(
        sliders={"row": {"from": 0, "to": 1}, "width": {"from": 0, "to": 1}},
        visual_prompt={"layers": [{"type": "line", "from": [0, "{row}"], "width": "{width}"}]},
        scorers=[],
    )
    places = sliders.grid(spec, 11 * 11)
    assert len({place["row"] for place in places[:11]}) == 11 >= 9
    assert {place["row"] for place in places} == {place["width"] for place in places}
    assert len({tuple(place.values()) for place in places}) == 11 * 11


# --- the LoRA ---------------------------------------------------------------------------------------------------


def test_weights_are_those_of_centre_slope_and_second_order() -> None:
    curved = ROW.model_copy(update={"degree": 2})
    assert lora.weights_at({"row": ROW}, {"row": 0.36}) == {"dualproc": 1, "dualproc-row": pytest.approx(-0.5)}
    assert list(lora.weights_at({"row": curved}, {"row": 0.36}).values()) == pytest.approx([1, -0.5, 0.25])
    assert lora.weights_at({}, {}) == {"dualproc": 1}
    assert [lora.folder(name) for name in lora.adapters({"row": curved})] == ["", "sliders/row", "sliders/row-2"]


def test_combined_lora_is_the_weighted_sum() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(5, 3))
    base, names, spec = module[0].weight.detach().clone(), ["dualproc", "dualproc-a", "dualproc-a-2"], Lora(rank=2)
    weights = lora.attach(module, spec, ["0"], seed=0, adapters=names)
    assert len(weights) == 6
    with torch.no_grad():
        for weight in weights:
            weight.normal_()
    at = dict(zip(names, (1.0, -0.4, 0.16), strict=True))
    lora.set_weights(module, spec, at)
    one = lora.combined(module, spec, at)
    first, second = one["0.lora_A.weight"], one["0.lora_B.weight"]
    assert (first.shape, second.shape) == ((6, 5), (3, 6))
    x = torch.randn(4, 5)
    torch.testing.assert_close(module(x), x @ (base + second @ first).T + module[0].bias)


# --- training ---------------------------------------------------------------------------------------------------


def test_a_step_asks_for_its_own_value(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(make_spec(), build=stubs())
    asked: list[str] = []
    original = type(engine.judge).answer_log_likelihoods

    def recorded(self: Any, images: torch.Tensor, questions: Any) -> Any:
        asked.append(questions[0][0].text)
        return original(self, images, questions)

    monkeypatch.setattr(type(engine.judge), "answer_log_likelihoods", recorded)
    list(engine.steps())
    expected = [sliders.drawn(engine.spec, step, random.Random(f"0/{step}"))["row"] for step in range(3)]
    assert [float(text.split()[4]) for text in asked] == expected
    assert len(set(expected)) == 3


def test_both_adapters_are_trained_and_the_value_changes_images_and_view() -> None:
    engine = Engine(make_spec(), build=stubs())
    before = [weight.detach().clone() for weight in engine.weights]
    list(engine.steps())
    assert len(before) == 4
    assert sum(not torch.equal(a, b) for a, b in zip(before, engine.weights, strict=True)) == 4
    views = []
    for row in (0.3, 0.6, 0.3):
        task = engine.at({"row": row})
        images = task.generator.sample(["a"], [1]).images
        views.append((images, task.judge_view(images)))
    assert not torch.equal(views[0][0], views[1][0])
    assert all(torch.equal(one, other) for one, other in zip(views[0], views[2], strict=True))
    assert (views[0][1] != views[0][0]).any(1).nonzero()[:, 1].unique().tolist() == [4, 5]  # rows .25 to .375
    with pytest.raises(DualprocError, match="outside"):
        engine.at({"row": 0.7})


def test_resumed_training_gives_the_same_lora() -> None:
    def numbers(engine: Engine) -> list[torch.Tensor]:
        list(engine.steps())
        return [weight.detach().clone() for weight in engine.weights]

    whole, half, again = (Engine(make_spec(), build=stubs()) for _ in range(3))
    half.step()
    again.restore(*half.state())
    assert again.done == 1
    assert all(torch.equal(a, b) for a, b in zip(numbers(whole), numbers(again), strict=True))


def test_without_sliders_the_loop_is_the_same_at_every_step() -> None:
    plain = make_spec(
        sliders={}, description="", question={"template": "Is it?"}, scorers=[], visual_prompt=None, referee=None
    )
    engine = Engine(plain, build=stubs())
    assert engine.at({}) is engine
    assert len(engine.weights) == 2
    assert sliders.drawn(plain, 3, random.Random(0)) == {}
    with pytest.raises(DualprocError, match="there is no slider `row`"):
        engine.at({"row": 0.3})


# --- the evaluation ---------------------------------------------------------------------------------------------


def measurement(values: tuple[float, ...], row: float, *, kept: float = 1.0) -> Measurement:
    accepted = (row - 0.05, row + 0.05)
    share = sum(accepted[0] <= value <= accepted[1] for value in values) / len(values)
    score = Score("horizon", "of the height", "target", values, row, accepted, share)
    count = len(values)
    return Measurement((score,), (0.5,) * count, None, (kept,) * count, hack_meter=row, diversity=0.5)


def test_calibration_compares_asked_and_measured() -> None:
    spec = make_spec()
    places = [{"row": row} for row in (0.3, 0.5, 0.3, 0.5)]
    parts = [([0, 2], measurement((0.31, 0.29), 0.3)), ([1, 3], measurement((0.5, 0.6), 0.5, kept=0.0))]
    whole = calibration.merged(parts, spec, places)
    assert whole.scores[0].values == (0.31, 0.5, 0.29, 0.6)
    assert whole.preserved == (1, 0, 1, 0)
    assert (whole.scores[0].target, whole.scores[0].accepted, whole.scores[0].on_target) == (None, None, 0.75)
    assert whole.hack_meter == pytest.approx(0.4)
    (found,) = whole.calibration
    assert (found.slider, found.scorer, found.unit) == ("row", "horizon", "of the height")
    assert found.error == pytest.approx((0.01 + 0.01 + 0 + 0.1) / 4)
    assert found.spread == pytest.approx(0.0406202, abs=1e-6)
    assert found.spearman == pytest.approx(0.894427, abs=1e-6)
    low, high = found.points
    assert (low.asked, low.measured, low.error) == (0.3, pytest.approx(0.3), pytest.approx(0.01))
    assert (low.on_target, low.kept, high.on_target, high.kept) == (1, 1, 0.5, 0)


def test_effects_separate_sliders_that_move_together() -> None:
    line = {"type": "line", "from": [0, "{row}"], "to": [1, "{row}"], "width": "{width}"}
    ranges = {"width": {"from": 0.01, "to": 0.05}, "row": {"from": 0.26, "to": 0.66}}
    spec = make_spec(sliders=ranges, visual_prompt={"layers": [line]})
    places = [{"row": row, "width": width} for row, width in ((0.26, 0.01), (0.46, 0.02), (0.66, 0.05), (0.26, 0.04))]
    values = [2 * place["row"] + 10 * place["width"] + 7 for place in places]
    assert calibration.effects(spec, places, values) == {"width": pytest.approx(0.4), "row": pytest.approx(0.8)}
    unknown = calibration.effects(spec, places[:2], values[:2])
    assert all(math.isnan(value) for value in unknown.values())


def test_images_without_a_value_are_left_out_of_the_error() -> None:
    places = [{"row": 0.3}, {"row": 0.5}, {"row": 0.3}]
    parts = [([0, 2], measurement((math.nan, 0.32), 0.3)), ([1], measurement((0.5,), 0.5))]
    (found,) = calibration.merged(parts, make_spec(), places).calibration
    assert found.error == pytest.approx(0.01)
    assert found.spearman == pytest.approx(1)
    assert math.isnan(calibration.spearman([0.3, 0.3], [0.1, 0.2]))


def test_evaluation_draws_on_the_grid_and_keeps_the_order() -> None:
    engine = Engine(make_spec(evaluation={"seeds": 22}), build=stubs())
    list(engine.steps())
    evaluation, images = evaluate(engine)
    assert evaluation.asked["row"] == tuple(place["row"] for place in sliders.grid(engine.spec, 22))
    for index in (0, 5, 21):
        task = engine.at({"row": evaluation.asked["row"][index]})
        alone = task.generator.sample(["an owl"], [evaluation.seeds[index]]).images
        torch.testing.assert_close(images.trained[index], alone[0])
        torch.testing.assert_close(images.judge_view[index], task.judge_view(alone)[0])
    assert len(evaluation.trained.judge) == 22
    assert evaluation.trained.diversity > 0
    assert images.strips["row"].shape[0] == sliders.STRIP
    assert monitor(engine)[0] is not None


def test_calibration_chart_has_a_dot_per_image_and_the_means() -> None:
    points = tuple(CalibrationPoint(row, row + 0.01, 0.0, 0.01, 1.0, 1.0, math.nan) for row in (0.3, 0.5))
    known = Calibration("row", "horizon", "of the height", 0.01, 0.0, 1.0, points)
    chart = calibration_chart(known, (0.3, 0.5, 0.5), (0.31, 0.51, math.nan))
    assert chart is not None
    text = "".join(chart.marks)
    assert text.count('class="dot base"') == 2
    assert text.count("asked 0.") == 2
    assert calibration_chart(known, (0.3,), (math.nan,)) is None


# --- a run of the shipped models --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> FitResult:
    """A fit of the shipped models with a second-order slider."""
    train = {"steps": 3, "batch": 1, "lr": 1e-3, "lora": {"rank": 4}}
    question = {"template": "Is the overlaid red line aligned with the horizon of the scene?"}
    spec = make_spec(sliders={"row": {"from": 0.26, "to": 0.66, "degree": 2}}, train=train, question=question)
    return Engine(spec, build=build).fit(tmp_path_factory.mktemp("runs") / "horizon")


def images_at(result: FitResult, row: float) -> torch.Tensor:
    result.at(row=row)
    return result.generator.sample(["a cartoon of an owl"], [5]).images


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    return (one - other).abs().max().item()


def test_run_has_a_lora_for_the_centre_and_for_every_power(done: FitResult) -> None:
    for folder in ("", "sliders/row", "sliders/row-2"):
        assert (done.run / folder / WEIGHTS).exists()
    assert (done.run / "samples/strip_row.png").exists()
    assert difference(images_at(done, 0.3), images_at(done, 0.6)) > 0.01
    report, card = (done.run / "report.html").read_text(), (done.run / "README.md").read_text()
    assert "Slider row" in report
    assert "row, measured by horizon" in report
    assert "The horizon is at 0.26 to 0.66." in report
    assert "slider row: error" in card
    evaluation = RunFolder.open(done.run).read_evaluation()
    assert evaluation is not None
    assert evaluation.asked == done.evaluation.asked
    assert evaluation.trained.calibration[0].points[0].asked == 0.26
    with pytest.raises(DualprocError, match="outside"):
        done.at(row=0.7)


def test_reloaded_run_draws_the_same_images_at_a_value(done: FitResult) -> None:
    expected = images_at(done, 0.31)
    generator = load_generator(done.run)
    sliders.set_sliders(generator, done.spec, {"row": 0.31})
    assert difference(generator.sample(["a cartoon of an owl"], [5]).images, expected) < 1e-5
    engine = load_engine(done.run)[1].at({"row": 0.31})
    assert difference(engine.generator.sample(["a cartoon of an owl"], [5]).images, expected) < 1e-5


def plain_image(pipe: Any) -> torch.Tensor:
    settings = {"height": 64, "width": 64, "num_inference_steps": 1, "guidance_scale": 0.0, "max_sequence_length": 14}
    seed = torch.Generator().manual_seed(5)
    images: torch.Tensor = pipe("a cartoon of an owl", generator=seed, output_type="pt", **settings).images
    return images


def test_exported_value_and_set_adapters_draw_the_same_in_plain_diffusers(done: FitResult, tmp_path: Path) -> None:
    main_ok("export", str(done.run), "--at", "row=0.31", "--out", str(tmp_path / "one"))
    blocks = re.findall(r"```python\n(.*?)```", (done.run / "README.md").read_text(), flags=re.DOTALL)
    scope: dict[str, Any] = {}
    exec(blocks[0].replace("path/to/this/folder", str(done.run)), scope)
    card = blocks[1].replace("path/to/this/folder", str(done.run)).replace("row = 0.46", "row = 0.31")
    exec(card, scope)
    pipe = scope["pipe"]
    both = plain_image(pipe)
    pipe.unload_lora_weights()
    base = plain_image(pipe)
    pipe.load_lora_weights(str(tmp_path / "one"))
    exported = plain_image(pipe)
    assert difference(exported, both) < 1e-4
    assert difference(exported, base) > 0.01
    done.at(row=0.31)
    assert difference(exported, plain_image(done.pipeline)) < 1e-4
    with safe_open(tmp_path / "one" / WEIGHTS, "pt") as file:
        facts = file.metadata()
    assert (facts["dualproc.at"], facts["dualproc.rank"]) == ("row=0.31", "12")
    assert facts["dualproc.spec_sha256"] == hashlib.sha256((done.run / RESOLVED).read_bytes()).hexdigest()
    for path in (tmp_path / "one" / WEIGHTS, done.run / "sliders" / "row" / WEIGHTS):
        assert path.stat().st_mode == (done.run / RESOLVED).stat().st_mode  # others may read it, too


def test_runs_with_sliders_add_up_at_each_value(
    done: FitResult, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generator, set_lora = load_several([done.run, done.run])
    assert difference(images_at(done, 0.31), images_at(done, 0.46)) > 1e-3
    for values, row in (({}, 0.46), ({"row": 0.31}, 0.31), ({"row": 0.5}, 0.5)):
        set_lora(values, [0.25, 0.75])
        assert difference(generator.sample(["a cartoon of an owl"], [5]).images, images_at(done, row)) < 1e-5
    twice = (str(done.run), str(done.run), "an owl", "--out", str(tmp_path))
    main_ok("generate", *twice, "--at", "row=0.3..0.6", "-n", "2", "--strength", "0,0.5")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "000-an-owl-seed0-row0.3-horizon0-horizon0.png", "000-an-owl-seed0-row0.3-horizon0.5-horizon0.5.png",
        "000-an-owl-seed0-row0.6-horizon0-horizon0.png", "000-an-owl-seed0-row0.6-horizon0.5-horizon0.5.png",
        "000-an-owl-seed0-strip-horizon0_0.5-horizon0_0.5.png",
    ]  # fmt: skip
    base = [path.read_bytes() for path in sorted(tmp_path.iterdir()) if "horizon0-" in path.name]
    assert len(base) == 2
    assert base[0] == base[1]
    capsys.readouterr()
    for value, message in (("row=0.1", "outside the slider's range"), ("column=0.1", "there is no slider `column`")):
        with pytest.raises(SystemExit):
            main(("generate", *twice, "--at", value))
        assert message in capsys.readouterr().err


def test_training_starts_from_the_middle_of_a_run_with_sliders(
    done: FitResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(done.run.parent)
    train = {"steps": 1, "lora": {"rank": 4, "init": done.run.name}}
    engine = Engine(make_spec(sliders={"row": {"from": 0.2, "to": 0.7}}, train=train), build=build)
    middle = images_at(done, 0.46)
    for row in (0.2, 0.6):  # the new slider starts without an effect
        assert difference(engine.at({"row": row}).generator.sample(["a cartoon of an owl"], [5]).images, middle) < 1e-5


def main_ok(*arguments: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 0


def test_generate_draws_one_value_or_a_strip(
    done: FitResult, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main_ok("generate", str(done.run), "an owl", "--at", "row=0.3..0.6", "-n", "3", "--out", str(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "000-an-owl-seed0-row0.3.png", "000-an-owl-seed0-row0.45.png", "000-an-owl-seed0-row0.6.png",
        "000-an-owl-seed0-strip.png",
    ]  # fmt: skip
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 4
    capsys.readouterr()
    for value, message in (
        ("row=0.7", "row=0.7 is outside the slider's range, 0.26 to 0.66"),
        ("row", "expected --at SLIDER=VALUE"),
        ("row=0.3..0.5", "a range needs several images"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["generate", str(done.run), "an owl", "--at", value])
        assert ended.value.code == 2
        assert message in capsys.readouterr().err


def test_plan_counts_all_adapters() -> None:
    from dualproc.plan.dry_run import dry_run

    spec = make_spec(referee=None, preserve=None, question={"template": "Is the line aligned with the horizon?"})
    one = dry_run(spec.at({}), gpu=False)
    assert dry_run(spec, gpu=False).lora_parameters == 2 * one.lora_parameters
