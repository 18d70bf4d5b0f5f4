"""Train every shipped slider and single values beside them, and publish the results in docs/results.md: `make sliders`.

Finished runs in `runs/sliders` are used again. The single values are fits of the spec `horizon` at values that none of
its variants has; both ways are evaluated on the same held-out prompts and seeds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from PIL import Image

from dualproc import Engine, load_spec
from dualproc.engine.evaluate import evaluate
from dualproc.engine.reload import load_engine
from dualproc.report.summary import kept
from dualproc.run import RunFolder
from dualproc.run.images import STRIP
from dualproc.types import Calibration, Evaluation, Measurement
from dualproc.wording import number, percent

from .results import fill

ROOT = Path(__file__).resolve().parents[1]
RUNS = ROOT / "runs" / "sliders"
MARKERS = ("<!-- sliders: make sliders -->", "<!-- end of sliders -->")
"""Markers in docs/results.md around all numbers of sliders."""
SPECS = sorted((ROOT / "specs" / "sliders").glob("*.yaml"))
SINGLE, SLIDER = ROOT / "specs" / "horizon.yaml", "horizon"
SHOWN = ("horizon", "hue", "line_weight")
"""The specs in the README's first image."""
VALUES = (0.36, 0.50, 0.55, 0.60, 0.66)
"""Rows of the horizon at which a slider is compared with one fit for each."""


def fitted(spec: Path, name: str, *, overrides: Sequence[str] = (), variant: str | None = None) -> RunFolder:
    """The run of a spec, trained and evaluated now unless it is finished."""
    run = RunFolder(RUNS / name)
    if not (run.path / "evaluation.json").exists():
        print(f"training {name}", flush=True)
        loaded = load_spec(spec, overrides=overrides, variant=variant)
        Engine(loaded).fit(run.path, resume=(run.path / "spec.resolved.yaml").exists())
    return run


def evaluated(run: RunFolder) -> Evaluation:
    """The evaluation of a finished run."""
    found = run.read_evaluation()
    assert found is not None
    return found


def sliders_table(runs: Mapping[str, RunFolder]) -> Iterator[str]:
    """A Markdown table with a row for each slider that is a scorer's target."""
    yield "| spec | slider | asked | mean error (base) | rank correlation | on target | kept | diversity | training |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    for name, run in runs.items():
        evaluation = evaluated(run)
        for base, one in zip(evaluation.base.calibration, evaluation.trained.calibration, strict=True):
            asked = [point.asked for point in one.points]
            score = next(score for score in evaluation.trained.scores if score.name == one.scorer)
            cells = (
                name,
                one.slider,
                f"{min(asked):g} to {max(asked):g} {one.unit}",
                f"{number(one.error)} ± {number(one.spread, digits=2)} ({number(base.error)})",
                number(one.spearman),
                percent(score.on_target or 0),
                f"{percent(kept(evaluation.base))} -> {percent(kept(evaluation.trained))}",
                percent(evaluation.trained.diversity / evaluation.base.diversity),
                f"{seconds(run):.0f} s",
            )
            yield row(cells)


def seconds(run: RunFolder) -> float:
    """How long all training steps of a run took."""
    return sum(record.seconds for record in run.metrics())


def row(cells: tuple[str, ...]) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def curves(runs: Mapping[str, RunFolder]) -> Iterator[str]:
    """For each slider, what was measured at every value asked for."""
    for name, run in runs.items():
        for one in evaluated(run).trained.calibration:
            yield ""
            yield row((f"{name}: {one.slider} asked", *(f"{point.asked:g}" for point in one.points)))
            yield row(("---",) * (len(one.points) + 1))
            yield row(("measured", *(number(point.measured) for point in one.points)))
            yield row(("mean error", *(number(point.error, digits=2) for point in one.points)))
            yield row(("on target", *(percent(point.on_target or 0) for point in one.points)))
            yield row(("kept", *(percent(point.kept) for point in one.points)))


def effects(runs: Mapping[str, RunFolder]) -> Iterator[str]:
    """For specs with several sliders: how far each slider moves the measurement of each."""
    for name, run in runs.items():
        found = evaluated(run).trained.calibration
        if len(found) < 2:
            continue
        yield ""
        yield row((f"{name}: from end to end", *(one.scorer for one in found)))
        yield row(("---",) * (len(found) + 1))
        for slider in (one.slider for one in found):
            moved = (
                f"{number(one.effects[slider])} ({percent(abs(one.effects[slider]) / width(one))})" for one in found
            )
            yield row((slider, *moved))


def width(calibration: Calibration) -> float:
    """The width of a slider's range."""
    asked = [point.asked for point in calibration.points]
    return max(asked) - min(asked)


def comparison(slider: RunFolder) -> Iterator[str]:
    """One slider against one fit for each value, on the same held-out prompts and seeds."""
    _, engine = load_engine(slider.path, overrides=["evaluation.seeds=11"])
    columns = ("on target", "kept", "diversity")
    yield row(("row asked", "one fit: mean error", *columns, "the slider: mean error", *columns))
    yield row(("---",) * 9)
    total = 0.0
    for value in VALUES:
        single = fitted(SINGLE, f"horizon-{value:g}", overrides=[f"variants.middle.row={value:g}"], variant="middle")
        total += seconds(single)
        at = engine.at({"row": value})
        at.spec = at.spec.at({"row": value})  # one value for all images, instead of the grid
        one, (both, _) = evaluated(single), evaluate(at)
        assert one.seeds == both.seeds
        cells = [numbers(each.trained, each.base, value) for each in (one, both)]
        yield row((f"{value:g}", *cells[0], *cells[1]))
    yield ""
    yield f"Training: {total:.0f} s for the five fits, {seconds(slider):.0f} s for the slider."


def numbers(trained: Measurement, base: Measurement, value: float) -> tuple[str, ...]:
    """Mean error, share on target, subjects kept and diversity."""
    score = trained.scores[0]
    known = [abs(found - value) for found in score.values if found == found]
    return (
        number(sum(known) / len(known)),
        percent(score.on_target or 0),
        percent(kept(trained)),
        percent(trained.diversity / base.diversity),
    )


def strips(runs: Sequence[RunFolder]) -> Image.Image:
    """The strips of each run's first slider below each other: one held-out prompt and seed at seven values."""
    first = [Image.open(run.samples / STRIP.format(next(iter(evaluated(run).asked)))) for run in runs]
    whole = Image.new("RGB", (max(one.width for one in first), sum(one.height for one in first)), "white")
    for number_above, one in enumerate(first):
        whole.paste(one, (0, sum(above.height for above in first[:number_above])))
    return whole


def main() -> None:
    """Train what is missing, and write the tables and the image."""
    runs = {spec.stem: fitted(spec, spec.stem) for spec in SPECS}
    lines = [*sliders_table(runs), *curves(runs), *effects(runs), "", *comparison(runs[SLIDER])]
    strips([runs[name] for name in SHOWN]).save(ROOT / "docs" / "images" / "sliders.png", optimize=True)
    doc = ROOT / "docs" / "results.md"
    doc.write_text(fill(doc.read_text(encoding="utf-8"), MARKERS, "\n".join(lines)), encoding="utf-8")


if __name__ == "__main__":
    main()
