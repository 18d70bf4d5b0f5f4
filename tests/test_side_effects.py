"""Side effects: the scorer `tone`, changes in standard deviations, and the matrix of a bench."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from run_examples import SPEC, evaluation, measurement, score

from dualproc.engine.evaluators import Evaluators
from dualproc.engine.side_effects import changes, scorers_of
from dualproc.errors import DualprocError
from dualproc.kit.regions import layouts
from dualproc.plugins.scorers.tone import Tone
from dualproc.report import side_effects
from dualproc.report.bench import BenchRow
from dualproc.report.numeric import change_beyond, standardised_change
from dualproc.report.samples import write_samples
from dualproc.report.side_effects import Effect
from dualproc.report.summary import summary_rows
from dualproc.run import RunFolder
from dualproc.run.records import fits_together
from dualproc.spec import PluginRef, TaskSpec
from dualproc.types import ScoreContext
from dualproc.wording import MISSING

NOTHING = ScoreContext(prompts=(), seeds=())


def tone(of: str, images: torch.Tensor) -> list[float]:
    return Tone(Tone.Params(of=of)).score(images, NOTHING).tolist()  # type: ignore[arg-type]


def test_tone_of_plain_images() -> None:
    black, white, red = torch.zeros(3, 16, 16), torch.ones(3, 16, 16), torch.zeros(3, 16, 16)
    red[0] = 1
    images = torch.stack([black, white, red])
    assert tone("lightness", images) == pytest.approx([0, 100, 53.2], abs=0.1)
    assert tone("chroma", images) == pytest.approx([0, 0, 104.6], abs=0.1)
    assert tone("contrast", images) == pytest.approx([0, 0, 0], abs=1e-3)


def test_contrast_of_half_black_half_white() -> None:
    half = torch.zeros(1, 3, 64, 64)
    half[..., 32:] = 1
    assert tone("contrast", half) == pytest.approx([50], abs=0.1)


def test_outlines_are_left_out_of_the_tone() -> None:
    images = torch.full((3, 3, 64, 64), 0.7)
    images[1, :, 20:22] = images[2, :, 20:25] = 0.0  # black lines, of two and five pixels
    assert tone("lightness", images) == pytest.approx(tone("lightness", images[:1]) * 3, abs=0.1)
    assert tone("contrast", images) == pytest.approx([0, 0, 0], abs=0.1)


def test_tone_has_a_target_only_with_both_limits() -> None:
    assert Tone(Tone.Params(of="chroma")).accepted is None
    assert Tone(Tone.Params(of="chroma", low=0, high=8)).accepted == (0, 8)
    for wrong in ({"low": 3}, {"high": 3}, {"low": 5, "high": 4}):
        with pytest.raises(ValidationError):
            Tone.Params(of="chroma", **wrong)


def test_a_change_is_in_standard_deviations_of_the_base() -> None:
    assert standardised_change([1, 3], [3, 5]) == 2
    assert standardised_change([1, 3, math.nan], [3, math.nan]) == 1
    assert math.isnan(standardised_change([1, 1], [2, 2]))
    assert math.isnan(standardised_change([1, 3], [math.nan]))


def test_what_goes_with_the_task_in_base_images_is_no_change_beyond_it() -> None:
    task, step = [float(i % 10) for i in range(40)], [0.1, -0.1, 0.05, -0.05]
    follows = [2 * x + step[i % 4] for i, x in enumerate(task)]
    reached = [8.0] * 40
    expected = [16.0] * 40
    assert standardised_change(follows, expected) > 1
    assert change_beyond(follows, expected, task, reached) == pytest.approx(0, abs=0.05)
    assert change_beyond(follows, [value + 5.8 for value in expected], task, reached) == pytest.approx(1, abs=0.05)
    assert change_beyond(follows, [9.0] * 40, task, reached) == 0  # unchanged, or half of what goes with the task
    assert change_beyond(follows, [12.5] * 40, task, reached) == 0
    assert change_beyond(follows, [9.0 - 5.8] * 40, task, reached) == pytest.approx(-1, abs=0.05)
    far = [12.0] * 40  # no base image shows what goes with this
    assert change_beyond(follows, expected, task, far) == standardised_change(follows, expected)
    unrelated = [float((7 * i + i // 10) % 4) for i in range(40)]
    assert change_beyond(unrelated, expected, task, reached) == standardised_change(unrelated, expected)
    constant = [3.0] * 40
    assert math.isnan(change_beyond(constant, expected, task, reached))
    assert change_beyond(follows, expected, constant, constant) == standardised_change(follows, expected)
    gaps = [math.nan, *task[1:]]
    assert change_beyond(follows, expected, gaps, reached) == pytest.approx(0, abs=0.05)


def test_the_largest_side_effects_are_in_the_table_of_results() -> None:
    def scores(*means: float) -> tuple:
        names = ("tone lightness", "tone chroma", "horizon", "tone contrast")
        pairs = zip(names, means, strict=True)
        return tuple(score((mean - 1, mean + 1, mean - 1, mean + 1), name=name) for name, mean in pairs)

    one = evaluation(measurement(side_effects=scores(1, 2, 3, 4)), side_effects=scores(1.5, 1, 3.2, 6))
    rows = [row for row in summary_rows(one) if row.label.startswith("side effect")]
    assert [row.label for row in rows] == [
        "side effect: tone contrast", "side effect: tone chroma", "side effect: tone lightness",
    ]  # fmt: skip
    assert rows[1].note == "-1.0 standard deviations of the base images"


def test_side_effects_of_other_scorers_or_images_make_an_evaluation_damaged() -> None:
    four, three = (score((0.1,) * count, name="tone chroma") for count in (4, 3))
    assert fits_together(evaluation(measurement(side_effects=(four,)), side_effects=(four,)))
    assert not fits_together(evaluation(measurement(side_effects=(four,)), side_effects=()))
    assert not fits_together(evaluation(measurement(side_effects=(three,)), side_effects=(three,)))


def spec(**changed: object) -> TaskSpec:
    prompts = {"template": "a cartoon of {subject}", "train": ["a cat"], "eval": ["a dog"]}
    question = {"template": "Is the sky blue?", "answer": "Yes"}
    return TaskSpec.model_validate({"name": "x", "prompts": prompts, "question": question} | changed)


def test_a_spec_does_not_count_its_own_scorers_as_side_effects() -> None:
    own = [{"type": "line_weight", "target": 0.02}, {"type": "tone", "of": "chroma", "low": 0, "high": 5}]
    watched = [{"type": "tone", "of": "chroma"}, {"type": "tone", "of": "lightness"}, {"type": "line_weight"}]
    evaluators = Evaluators(spec(scorers=own, evaluation={"side_effects": watched}))
    assert [name for name, _ in evaluators.side_effects] == ["tone lightness"]
    assert [name for name, _ in Evaluators(spec()).side_effects] == ["tone lightness", "tone chroma", "tone contrast"]
    assert Evaluators(spec(evaluation={"side_effects": []})).side_effects == []


def test_scorers_of_many_specs_are_measured_once() -> None:
    colours = {"high": ["red"], "low": ["blue"]}
    specs = [
        spec(
            scorers=[{"type": "horizon", "target": row}, {"type": "palette", "colors": colours[name]}],
            variants={name: {"v": 1}}, variant=name, evaluation={"side_effects": [{"type": "horizon"}]},
        )
        for name, row in (("high", 0.3), ("low", 0.6))
    ]  # fmt: skip
    assert list(scorers_of(specs)) == ["horizon", "palette (high)", "palette (low)"]


def run_with_images(path: Path, base: torch.Tensor, trained: torch.Tensor) -> None:
    with RunFolder.create(path, spec_text=SPEC, resolved_text=SPEC) as run:
        one = evaluation()
        write_samples(run.samples, base, trained, prompts=[prompt.text for prompt in one.prompts], seeds=one.seeds)
        run.write_evaluation(one)


def test_changes_are_measured_on_the_images_of_a_run(tmp_path: Path) -> None:
    grey = torch.linspace(0.4, 0.6, 4)[:, None, None, None].expand(4, 3, 32, 32)
    run_with_images(tmp_path / "run", grey, grey + 0.3)
    refs = {
        "light": PluginRef.model_validate({"type": "tone", "of": "lightness"}),
        "field": PluginRef.model_validate({"type": "region_color", "region": "sky", "field": "nothing"}),
    }
    found = changes(tmp_path / "run", refs)
    assert found["light"].change > 3
    assert math.isnan(found["field"].change)  # the prompts have no such field
    next((tmp_path / "run/samples/trained").glob("*.png")).unlink()
    with pytest.raises(DualprocError):
        changes(tmp_path / "run", refs)


def test_the_matrix_names_what_is_above_half_a_standard_deviation() -> None:
    rows = [
        BenchRow("horizon", "high", "horizon/high", result=object()),  # type: ignore[arg-type]
        BenchRow("palette", None, "palette", result=object()),  # type: ignore[arg-type]
    ]
    measured = {
        "horizon/high": {
            "horizon": Effect(3.0, 3.0), "tone chroma": Effect(-0.7, -0.2), "depth_order": Effect(math.nan, math.nan),
        },
        "palette": {"horizon": Effect(0.1, 0.1), "tone chroma": Effect(0.5, 0.5), "depth_order": Effect(0.2, 0.2)},
    }  # fmt: skip
    own = {"horizon/high": frozenset({"horizon"}), "palette": frozenset[str]()}
    assert side_effects.table(rows, measured, own) == [
        ("task", "horizon", "tone chroma", "depth_order"),
        ("horizon/high", "task", "-0.7 (-0.2)", MISSING),
        ("palette", "+0.1", "+0.5", "+0.2"),
    ]
    sentence = side_effects.conclusion(rows, measured, own)
    assert "1 of 2 tasks. Largest side effect of the others: horizon/high tone chroma 0.70." in sentence
    assert sentence.endswith("Side effects beyond the task of at most 0.5 standard deviations: 2 of 2 tasks.")
    seeds = [replace(row, seed=seed, folder=f"{row.folder}{seed}") for row in rows[1:] for seed in (0, 1)]
    by_seed = {f"palette{seed}": {"tone chroma": Effect(change, change)} for seed, change in enumerate((1.0, 0.0))}
    assert side_effects.table(seeds, by_seed, {each: frozenset() for each in by_seed})[1] == ("palette", "+0.5")


def test_scorers_share_the_layout_of_an_image(monkeypatch: pytest.MonkeyPatch) -> None:
    from dualproc.kit import regions

    counted: list[int] = []
    original = regions.layout
    monkeypatch.setattr(regions, "layout", lambda *a, **k: counted.append(1) or original(*a, **k))
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(5))
    first, second = (list(layouts(images)) for _ in range(2))
    assert len(counted) == 2
    assert [one is two for one, two in zip(first, second, strict=True)] == [True, True]
