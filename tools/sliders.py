"""Train every shipped slider and single values beside them, and publish the results in docs/results.md: `make sliders`.

Finished runs in `runs/sliders` are used again. The single values are fits of the spec `horizon` at values that none of
its variants has; both ways are evaluated on the same held-out prompts and seeds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from dualproc import Engine, load_spec
from dualproc.engine.evaluate import evaluate
from dualproc.engine.reload import load_engine
from dualproc.kit.image_files import load_image
from dualproc.report.bench import is_finished
from dualproc.report.gallery import stacked
from dualproc.report.markdown import table
from dualproc.report.numeric import mean, ratio
from dualproc.report.summary import kept
from dualproc.run import RunFolder
from dualproc.run.folder import RESOLVED
from dualproc.run.images import STRIP
from dualproc.types import Calibration, Evaluation
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


class Fitted(NamedTuple):
    """A finished run."""

    run: RunFolder
    evaluation: Evaluation
    seconds: float
    """Of all training steps."""


def fitted(spec: Path, name: str, *, overrides: Sequence[str] = (), variant: str | None = None) -> Fitted:
    """The run of a spec, trained and evaluated now unless it is finished."""
    run = RunFolder(RUNS / name)
    if not is_finished(run.path):
        print(f"training {name}", flush=True)
        loaded = load_spec(spec, overrides=overrides, variant=variant)
        Engine(loaded).fit(run.path, resume=(run.path / RESOLVED).exists())
    evaluation, outcome = run.read_evaluation(), run.read_outcome()
    assert evaluation is not None
    assert outcome is not None
    return Fitted(run, evaluation, outcome.seconds)


def sliders_table(fits: Mapping[str, Fitted]) -> str:
    """A Markdown table with a row for each slider that is a scorer's target."""
    columns = ("spec", "slider", "asked", "mean error (base)", "rank correlation", "on target", "kept", "diversity",
               "training")  # fmt: skip
    rows = []
    for name, fit in fits.items():
        before, after = fit.evaluation.base, fit.evaluation.trained
        for base, one in zip(before.calibration, after.calibration, strict=True):
            asked = [point.asked for point in one.points]
            score = next(score for score in after.scores if score.name == one.scorer)
            cells = (
                name,
                one.slider,
                f"{min(asked):g} to {max(asked):g} {one.unit}",
                f"{number(one.error)} ± {number(one.spread, digits=2)} ({number(base.error)})",
                number(one.spearman),
                percent(score.on_target or 0),
                f"{percent(kept(before))} -> {percent(kept(after))}",
                percent(ratio(after.diversity, before.diversity)),
                f"{fit.seconds:.0f} s",
            )
            rows.append(cells)
    return table(columns, rows)


def curves(fits: Mapping[str, Fitted]) -> Iterator[str]:
    """For each slider, what was measured at every value asked for."""
    for name, fit in fits.items():
        for one in fit.evaluation.trained.calibration:
            yield table(
                (f"{name}: {one.slider} asked", *(f"{point.asked:g}" for point in one.points)),
                [
                    ("measured", *(number(point.measured) for point in one.points)),
                    ("mean error", *(number(point.error, digits=2) for point in one.points)),
                    ("on target", *(percent(point.on_target or 0) for point in one.points)),
                    ("kept", *(percent(point.kept) for point in one.points)),
                ],
            )


def effects(fits: Mapping[str, Fitted]) -> Iterator[str]:
    """For specs with several sliders: how far each slider moves the measurement of each."""
    for name, fit in fits.items():
        found = fit.evaluation.trained.calibration
        if len(found) > 1:
            rows = [(one.slider, *(moved(each, one.slider) for each in found)) for one in found]
            yield table((f"{name}: from end to end", *(one.scorer for one in found)), rows)


def moved(calibration: Calibration, slider: str) -> str:
    """By how much a slider moves a measurement, and that as a share of the range of the measurement's own slider."""
    asked = [point.asked for point in calibration.points]
    effect = calibration.effects[slider]
    return f"{number(effect)} ({percent(abs(effect) / (max(asked) - min(asked)))})"


def comparison(slider: Fitted) -> Iterator[str]:
    """One slider against one fit for each value, on the same held-out prompts and seeds."""
    _, engine = load_engine(slider.run.path, overrides=["evaluation.seeds=11"])
    columns = ("on target", "kept", "diversity")
    rows, total = [], 0.0
    for value in VALUES:
        single = fitted(SINGLE, f"horizon-{value:g}", overrides=[f"variants.middle.row={value:g}"], variant="middle")
        total += single.seconds
        ours, _ = evaluate(engine.at({"row": value}))
        assert ours.seeds == single.evaluation.seeds
        rows.append((f"{value:g}", *numbers(single.evaluation, value), *numbers(ours, value)))
    yield table(("row asked", "one fit: mean error", *columns, "the slider: mean error", *columns), rows)
    yield f"Training: {total:.0f} s for the five fits, {slider.seconds:.0f} s for the slider."


def numbers(evaluation: Evaluation, value: float) -> tuple[str, ...]:
    """Mean error, share on target, subjects kept and diversity."""
    base, trained = evaluation.base, evaluation.trained
    score = trained.scores[0]
    return (
        number(mean([abs(found - value) for found in score.values])),
        percent(score.on_target or 0),
        percent(kept(trained)),
        percent(ratio(trained.diversity, base.diversity)),
    )


def main() -> None:
    """Train what is missing, and write the tables and the image."""
    fits = {spec.stem: fitted(spec, spec.stem) for spec in SPECS}
    parts = [sliders_table(fits), *curves(fits), *effects(fits), *comparison(fits[SLIDER])]
    # One held-out prompt and seed, at seven values of the first slider.
    files = [fits[name].run.samples / STRIP.format(next(iter(fits[name].evaluation.asked))) for name in SHOWN]
    stacked([load_image(file) for file in files]).save(ROOT / "docs" / "images" / "sliders.png", optimize=True)
    doc = ROOT / "docs" / "results.md"
    doc.write_text(fill(doc.read_text(encoding="utf-8"), MARKERS, "\n\n".join(parts)), encoding="utf-8")


if __name__ == "__main__":
    main()
