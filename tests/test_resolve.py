"""Building live plugins from a spec, with the fake distributions in tests/fake_plugins."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dualproc.errors import PluginError, SpecError
from dualproc.registry import failure, find
from dualproc.resolve import build, check_plugins, installed_schema, load_spec, read_checked
from dualproc.spec import PluginRef, TaskSpec, spec_from_dict

Install = Callable[..., None]

SPEC = """\
schema_version: 1
name: demo
prompts: {train: [a cat], eval: [an owl]}
question: {template: "Is it thick?"}
reward: {type: half}
visual_prompt:
  layers:
    - {type: line, from: [0, 0.9], to: [1, 0.9], width: "{width}"}
    - {type: points, points: [{at: [0.1, 0.2], label: A}]}
variants: {thin: {width: 0.01}, thick: {width: 0.05}}
generator: {type: painter}
judge: {type: oracle}
scorers: [{type: brightness}]
anchor: {type: leash, weight: 2.0}
"""


@pytest.fixture
def spec_file(tmp_path: Path, install: Install) -> Path:
    install("good")
    file = tmp_path / "demo.yaml"
    file.write_text(SPEC)
    return file


def problems(spec_file: Path, *overrides: str, variant: str | None = None) -> dict[str, str]:
    """Message and hint of every mistake, by path."""
    with pytest.raises(SpecError) as caught:
        load_spec(spec_file, overrides=overrides, variant=variant)
    found = caught.value.problems
    assert len({problem.path for problem in found}) == len(found)
    return {problem.path: f"{problem.message} | {problem.hint}" for problem in found}


# load_spec


def test_a_correct_spec_is_loaded(spec_file: Path) -> None:
    spec = load_spec(spec_file, overrides=["train.steps=7"], variant="thin")
    assert (spec.name, spec.variant, spec.train.steps) == ("demo", "thin", 7)
    assert spec.visual_prompt is not None
    assert spec.visual_prompt.layers[0].params["width"] == 0.01


def test_without_a_chosen_variant_all_are_checked_and_none_is_loaded(spec_file: Path) -> None:
    assert read_checked(spec_file).variants == ("thin", "thick")
    assert problems(spec_file) == {"variants": "no variant is chosen | choose one of: thin, thick"}
    found = problems(spec_file, "variants.thick.width=5")
    assert found == {"visual_prompt.layers.0.width": "expected a number of at most 1.0, found 5 | None"}
    assert load_spec(spec_file, overrides=["variants.thick.width=5"], variant="thin").variant == "thin"


def test_every_mistake_is_reported_with_its_place(spec_file: Path) -> None:
    text = SPEC.replace("width:", "widht:", 1).replace("{type: oracle}", "{type: orakle}")
    spec_file.write_text(text.replace("label: A", "label: A, size: 2").replace("name: demo", "name: de mo"))
    with pytest.raises(SpecError) as caught:
        load_spec(spec_file, variant="thin")
    found = [(problem.path, problem.line, problem.column) for problem in caught.value.problems]
    layer, points = SPEC.splitlines()[7:9]
    assert found == [
        ("name", 2, 7),
        ("visual_prompt.layers.0.width", 8, layer.index("{") + 1),
        ("visual_prompt.layers.0.widht", 8, layer.index("width") + 1),
        ("visual_prompt.layers.1.points.0.size", 9, points.index("}") + 3),
        ("judge.type", 12, 15),
    ]
    hints = {problem.path: problem.hint or "" for problem in caught.value.problems}
    assert hints["visual_prompt.layers.0.widht"] == "did you mean `width`?"
    assert hints["judge.type"].startswith("did you mean `oracle`?")


def test_a_mistake_in_all_variants_is_reported_once(spec_file: Path) -> None:
    found = problems(spec_file, "visual_prompt.layers.0.color=redd")
    assert found == {"visual_prompt.layers.0.color": "unknown colour 'redd'; did you mean `red`? | None"}


def test_an_unfilled_placeholder_in_a_plugin_parameter_is_reported_once(spec_file: Path) -> None:
    found = problems(spec_file, 'visual_prompt.layers.0.width="{widht}"', variant="thin")
    assert found == {"visual_prompt.layers.0.width": "unknown placeholder {widht} | did you mean `width`?"}


def test_naming_a_broken_plugin_is_a_mistake_of_the_spec(spec_file: Path, install: Install) -> None:
    install("broken")
    found = problems(spec_file, "reward.type=needs_missing", variant="thin")
    assert "No module named 'surely_not_installed' | run `pip install surely_not_installed`" in found["reward.type"]


def test_a_broken_plugin_that_is_not_named_has_no_effect(spec_file: Path, install: Install) -> None:
    install("broken", "garbled_file", "garbled_line", "twin_a", "twin_b")
    assert load_spec(spec_file, variant="thin").name == "demo"


def test_a_plugin_name_in_two_distributions_needs_the_distribution(spec_file: Path, install: Install) -> None:
    install("twin_a", "twin_b")
    assert "'twin-a/twin' or 'twin-b/twin'" in problems(spec_file, "reward.type=twin", variant="thin")["reward.type"]
    assert load_spec(spec_file, overrides=["reward.type=twin-a/twin"], variant="thin").reward.type == "twin-a/twin"


def test_invalid_parameters_of_a_preset_are_reported_at_its_type(spec_file: Path) -> None:
    found = problems(spec_file, "reward.type=outdated", variant="thin")
    assert list(found) == ["reward.type"]
    assert "is a preset with invalid parameters: worth: Extra inputs" in found["reward.type"]


def test_a_spec_overrides_the_parameters_of_a_preset(spec_file: Path) -> None:
    assert problems(spec_file, "reward.value=-1", variant="thin")["reward.value"].startswith("expected a number of at")
    assert build("rewards", load_spec(spec_file, overrides=["reward.value=3"], variant="thin").reward).params.value == 3


def test_checking_a_spec_does_not_import_torch(spec_file: Path) -> None:
    folder = Path(__file__).parent / "fake_plugins" / "good"
    code = (
        f"import sys; sys.path.insert(0, {str(folder)!r})\n"
        f"from dualproc import load_spec; load_spec({str(spec_file)!r}, variant='thin')\n"
        "assert 'acme_good' in sys.modules\n"
        "assert not {'torch', 'PIL', 'numpy'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_reward_that_compares_candidates_needs_two(spec_file: Path) -> None:
    one = ("question.answer=Pink", "reward.type=yes_no_gap")
    found = problems(spec_file, *one, variant="thin")
    assert list(found) == ["question.answer"]
    assert "compares 2 or more candidates, but the question has only Pink" in found["question.answer"]
    assert "`candidates: [Pink, ...]`" in found["question.answer"]
    found = problems(spec_file, *one, "question.candidates=[Pink]", "train.steps=fast", variant="thin")
    assert set(found) == {"question.candidates", "train.steps"}
    both = load_spec(spec_file, overrides=[*one, "question.candidates=[Pink, Red]"], variant="thin")
    assert both.questions[0].suffix == "Answer with Pink or Red."
    assert load_spec(spec_file, overrides=one[:1], variant="thin").questions[0].suffix == ""


def test_a_misspelt_key_of_a_reference_is_suggested(spec_file: Path) -> None:
    found = problems(spec_file, "judge=[{type: oracle, wieght: 2}]", "anchor.wieght=2", variant="thin")
    assert {path: "did you mean `weight`?" in text for path, text in found.items()} == {
        "judge.0.wieght": True, "anchor.wieght": True,
    }  # fmt: skip
    assert "`weight`" not in problems(spec_file, "judge.wieght=2", variant="thin")["judge.wieght"]


# check_plugins


def python_spec(**changes: object) -> TaskSpec:
    data = {
        "name": "demo",
        "prompts": {"train": ["a cat"], "eval": ["an owl"]},
        "question": {"template": "Is it thick?"},
        "generator": {"type": "painter"},
        "judge": {"type": "oracle"},
    }
    return spec_from_dict({**data, **changes})


def test_mistakes_of_a_spec_built_in_python_have_paths(install: Install) -> None:
    install("good")
    check_plugins(python_spec())
    wrong = python_spec(judge={"type": "oracle", "strictness": "x"}, scorers=[{"type": "darkness"}])
    with pytest.raises(SpecError) as caught:
        check_plugins(wrong)
    assert {problem.path for problem in caught.value.problems} == {"judge.strictness", "scorers.0.type"}


# build


def test_a_plugin_is_built_from_a_preset_and_parameters(install: Install) -> None:
    install("good")
    reward = build("rewards", PluginRef(type="half_as_text", unit="pence"))
    assert (type(reward).__name__, reward.params.value, reward.params.unit) == ("Constant", 0.5, "pence")


def test_errors_in_parameters_name_the_kind_and_the_key(install: Install) -> None:
    install("good")
    with pytest.raises(SpecError) as caught:
        build("visual_prompts", PluginRef(type="dot", att=[0, 0]))
    assert {problem.path for problem in caught.value.problems} == {"visual_prompts.at", "visual_prompts.att"}


def test_a_failing_constructor_is_reported_with_its_origin(install: Install) -> None:
    install("good")
    with pytest.raises(PluginError, match=r"'moody' \(acme-good 1.2.*OSError: no weights on this planet"):
        build("rewards", PluginRef(type="moody"))


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory")])
def test_a_model_that_does_not_fit_while_it_is_loaded_needs_settings_and_no_reinstallation(error: Exception) -> None:
    found = failure(find("generators", "tiny"), error)
    assert type(error).__name__ in found.message
    assert found.hint == "not enough memory: `dp plan` shows settings that need less"


def test_a_plugin_error_of_a_constructor_is_not_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PluginError) as caught:
        build("visual_prompts", PluginRef(type="image", path="nowhere.png"))
    assert caught.value.message == "no such file: nowhere.png"


# installed_schema


def test_the_schema_has_every_plugin_that_can_be_loaded(install: Install) -> None:
    install("good", "broken", "twin_a", "twin_b")
    schema, broken = installed_schema()
    definitions = schema["$defs"]
    assert {"visual_prompts.line", "rewards.half", "rewards.twin-a/twin", "rewards.twin-b/twin"} <= set(definitions)
    assert "rewards.raises" not in definitions
    assert any("the moon is in the wrong phase" in str(error) for error in broken)


def test_the_parameters_of_a_preset_are_defaults_in_the_schema(install: Install) -> None:
    install("good")
    text = str(installed_schema()[0]["$defs"]["rewards.half_as_text"])
    assert "'default': 'marks'" in text
    assert "'default': 0.5" in text
