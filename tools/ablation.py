"""Measure what each guard and each option of a training step does: the same fits with and without it.

    python -m tools.ablation --jobs 2               # finished fits are not run again
    python -m tools.ablation --only ema,antithetic --steps 3 --images 2 --out /tmp/ablation --doc /tmp/ablation.md

Fits have *validation* prompts, which are taken from the spec's training prompts, and their own seeds. The spec's
held-out prompts are never used, so settings that are chosen here cannot be tuned on them. Writes the table of
docs/ablation.md.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dualproc.cli.processes import Job, TrainingProcess
from dualproc.report.bench import HEADINGS, BenchRow, cells, is_finished, read_result
from dualproc.report.numeric import mean
from dualproc.resolve import check_plugins
from dualproc.run import RunFolder, portable
from dualproc.run.files import write_atomically
from dualproc.spec import TaskSpec, read_spec
from dualproc.spec.models import Jitter
from dualproc.wording import MISSING

ROOT = Path(__file__).resolve().parents[1]
TASKS = (
    "specs/horizon.yaml:middle:variants.middle.row=0.48:anchor.1.share=1.0:train.steps=200",
    'specs/palette.yaml:retro:variants.retro.colors=["#b7d3a8","#8fb8c9","#e3c98f"]'
    ":variants.retro.layout=0:variants.retro.keep=0.5:anchor.2.share=1.0"
    ":train.antithetic=false",
    "specs/relative_depth.yaml:closer:anchor.1.share=1.0:anchor.2.weight=0",
    "specs/line_weight.yaml:thin:variants.thin.width=0.015:anchor.1.share=1.0"
    ":train.stratified=false:train.steps=240:train.lr=1.5e-4",
)
"""Values that no variant has, where the task has values; without the options that specs have due to this ablation."""
VALIDATION_EVERY = 4
"""Every fourth training prompt is evaluated instead of trained on."""
FIRST_SEED = 5
"""The results that the docs report have the seeds 0 to 2."""
OTHER_ANCHORS: dict[str, dict[str, object]] = {
    "base_answers": {
        "type": "base_answers",
        "weight": 4.0,
        "questions": [f"Is the sky {color}?" for color in ("blue", "orange", "pink", "green", "gray")],
    },
    "base_features": {"type": "base_features", "weight": 2.0},
    "base_colors": {"type": "base_colors", "weight": 0.4},
    "base_layout": {"type": "base_layout", "weight": 0.5},
}
"""Anchors in place of `base_image`; `base_answers` has questions that the shipped judge knows."""
PARAPHRASES = {
    "Is the overlaid red line aligned with the horizon of the scene?": (
        "Does the overlaid red line represent the horizon of the scene?",
        "Is the red line at the horizon of the image?",
        "Does the red line match the horizon?",
    ),
    "Do the predominant colors of the image match the color palette overlaid at the bottom?": (
        "Does the color palette overlaid at the bottom match the image?",
        "Is the color palette displayed at the bottom representative of the image's colors?",
    ),
    "Ignoring the line color, does the line weight of the image match the red line overlaid at the bottom?": (
        "Does the line weight of the image match the red line overlaid at the bottom?",
        "Are the outlines of the drawing as thick as the red line?",
        "Is the red line as thick as the outlines of the image?",
    ),
}
"""By the template: wordings that the shipped judge was trained with, too."""
UNCHANGED = "unchanged spec"
SIDE_EFFECT = "side effect"
COLUMNS = (
    "on target", "judge - on target", "referee", "kept", "diversity", "beyond the task", SIDE_EFFECT, "hack meter",
    "seconds",
)  # fmt: skip
BEGIN, END = "<!-- table: tools/ablation.py -->", "<!-- end table -->"
LEGEND = """\
*on target*: share of images that the spec's scorer accepts. *judge - on target*: far above 0, the judge, which trains,
accepts images that miss the target. *referee*: mean P(wanted answer) of a model that does not train. *kept*: share of
images whose subject the referee recognises. *diversity*: as a share of the base's; *beyond the task*: as a share of
that of base images as alike in the task. *side effect*: the largest change of lightness, chroma or contrast, in
standard deviations of the base images. *hack meter*: as a multiple of the base's. *seconds*: all training steps. A
number is the mean over the seeds; in brackets, the lowest and the highest."""


@dataclass(frozen=True)
class Setting:
    """One row of the table: fits whose spec has `overrides`."""

    guard: str
    name: str
    overrides: tuple[str, ...] = ()

    @property
    def folder(self) -> str:
        """The name of its run folder, such as `anchor-none`."""
        words = f"{self.guard} {self.name}".replace("_", " ").replace(",", "").split()
        return "-".join(words)


@dataclass(frozen=True)
class Planned:
    """A setting and its training jobs, one for each seed; settings with the same spec share them."""

    setting: Setting
    jobs: tuple[Job, ...]


def settings(spec: TaskSpec) -> Iterator[Setting]:
    """Every guard, removed or changed; then every option of a training step."""
    yield Setting("", UNCHANGED)
    anchors = {one.type: one.model_dump() for one in spec.anchors}
    denoise, near = ([anchors[name]] if name in anchors else [] for name in ("base_denoise", "base_image"))
    yield Setting("anchor", "none", ("anchor=null",))
    yield Setting("anchor", "base_denoise", (_set("anchor", denoise or None),))
    yield Setting("anchor", "base_image", (_set("anchor", near),))
    if half := [a | {"share": 0.5} if name == "base_image" else a for name, a in anchors.items()]:
        yield Setting("cheaper anchor", "in half of the steps", (_set("anchor", half),))
    for name, other in OTHER_ANCHORS.items():
        yield Setting("anchor", f"base_denoise, {name}", (_set("anchor", [*denoise, other]),))
    if spec.preserve is not None:
        bare = [one.model_dump(exclude_defaults=True) for one in spec.measured_questions]
        subject = spec.preserve.model_dump(exclude_defaults=True)
        yield Setting("subject question", "no", (_set("question", bare),))
        yield Setting("subject question", "yes", (_set("question", [*bare, subject]),))
    for batch in (1, 8):
        yield Setting("batch", str(batch), _equal_images(spec, batch))
    twice = f"train.steps={2 * spec.train.steps}"
    yield Setting("early stopping", "patience 2, twice the steps", (twice, "train.stop={patience: 2}"))
    yield Setting("early stopping", "no, twice the steps", (twice, "train.stop=null"))
    yield Setting("reward", "yes_no_gap", ("reward.type=yes_no_gap",))
    yield Setting("learning rate", "warm-up and decay", ("train.lr_warmup=20", "train.lr_decay=0.3"))
    yield Setting("ema", "0.98", ("train.ema=0.98",))
    yield Setting("prompts", "stratified", ("train.stratified=true",))
    yield Setting("start noise", "antithetic", ("train.antithetic=true",))
    if spec.visual_prompt is not None and spec.visual_prompt.jitter != Jitter():
        yield Setting("views", "two", ("train.views.count=2",))
    yield Setting("views", "two with noise .05", ("train.views={count: 2, noise: 0.05}",))
    if known := {one.template: PARAPHRASES[one.template] for one in spec.questions if one.template in PARAPHRASES}:
        asked = [
            one.model_dump(exclude_defaults=True) | {"paraphrases": known.get(one.template, ())}
            for one in spec.questions
        ]
        yield Setting("paraphrases", str(max(map(len, known.values()))), (_set("question", asked),))
    yield Setting("worst case", "images .01", ("train.worst_case.images=0.01",))
    yield Setting("worst case", "weights .05", ("train.worst_case.weights=0.05",))


def plan(
    task: str, out: Path, *, seeds: int = 1, overrides: Sequence[str] = (), only: Sequence[str] = ()
) -> list[Planned]:
    """The fits of one task, `FILE:VARIANT` or `FILE:VARIANT:KEY=VALUE:KEY=VALUE...`, all with `overrides`.

    `only` are the guards that are measured; empty for all. Raises SpecError if the spec is not valid.
    """
    file, variant, *own = *task.split(":"), *([] if ":" in task else [""])
    common = (*own, *_validation(file, variant or None), *overrides)
    spec = _read(file, variant, common)
    planned: list[Planned] = []
    for setting in settings(spec):
        if only and setting.guard and setting.guard not in only:
            continue
        jobs = []
        for seed in range(FIRST_SEED, FIRST_SEED + seeds):
            everything = (*common, *setting.overrides, f"train.seed={seed}")
            changed = _read(file, variant, everything)
            same = next((job for one in planned for job in one.jobs if job.spec == changed), None)
            folder = out / spec.name / (spec.variant or "") / f"{setting.folder}-seed{seed}"
            jobs.append(same or Job(file, variant or None, everything, changed, folder, seed=seed))
        planned.append(Planned(setting, tuple(jobs)))
    return planned


def _read(file: str, variant: str, overrides: Sequence[str]) -> TaskSpec:
    return read_spec(file, overrides=overrides, variant=variant or None).require()


def _validation(file: str, variant: str | None) -> tuple[str, ...]:
    """Overrides that split the training prompts into training and validation, in place of the held-out prompts."""
    prompts = read_spec(file, variant=variant).require().prompts.model_dump()["train"]
    validation = prompts[VALIDATION_EVERY - 1 :: VALIDATION_EVERY]
    trained = [prompt for prompt in prompts if prompt not in validation]
    return _set("prompts.train", trained), _set("prompts.eval", validation)


def _equal_images(spec: TaskSpec, batch: int) -> tuple[str, ...]:
    """Overrides for another batch size, with the same number of images in total and between two checks."""
    train = spec.train
    steps = max(1, round(train.steps * train.batch / batch))
    every = max(1, round(train.watch.every * train.batch / batch))
    return f"train.batch={batch}", f"train.steps={steps}", f"train.watch.every={every}"


def _set(key: str, value: object) -> str:
    return f"{key}={json.dumps(value, ensure_ascii=False)}"


# --- running the fits -----------------------------------------------------------------------------------------------


def run_all(jobs: Sequence[Job], at_a_time: int) -> dict[Job, str]:
    """Run the jobs that are not finished; returns the reason for each that failed."""
    for job in jobs:  # mistakes should be found before hours of training
        check_plugins(job.spec)
        RunFolder.refuse(job.folder, portable(job.spec, job.folder).text, resume=True, overwrite=False)
    waiting = [job for job in jobs if not is_finished(job.folder, job.spec.train.steps)]
    print(f"{len(jobs) - len(waiting)} of {len(jobs)} fits are already finished", flush=True)
    running: list[TrainingProcess] = []
    failed = {}
    try:
        while waiting or running:
            while waiting and len(running) < at_a_time:
                running.append(TrainingProcess(waiting.pop(0), threads=1))
            for process in [one for one in running if one.poll() is not None]:
                running.remove(process)
                if not is_finished(process.job.folder):
                    failed[process.job] = process.failure()
                print(f"{process.job.folder}: {failed.get(process.job, 'done')}", flush=True)
            time.sleep(0.5)
    finally:
        for process in running:
            process.end(at_once=True)
    return failed


# --- the table ------------------------------------------------------------------------------------------------------


def table(planned: Sequence[Planned], failed: Mapping[Job, str]) -> list[str]:
    """The rows of one task: every setting of which a fit is finished or has failed, the unchanged spec first."""
    lines = []
    for one in planned:
        if one.setting.guard and one.jobs == planned[0].jobs:
            continue  # the spec has this setting already
        done = [job for job in one.jobs if is_finished(job.folder, job.spec.train.steps)]
        rows = [job.row(read_result(job.folder)) for job in done]
        errors = [job.row(error=failed[job]) for job in one.jobs if job in failed]
        if rows or errors:
            shown = replace(one.setting, name=_counted(one.setting.name, len(done), len(one.jobs)))
            lines.append(_markdown(shown, [*rows, *errors], _side_effect([job.folder for job in done])))
    return lines


def _counted(name: str, done: int, planned: int) -> str:
    """The name of a setting; with the number of its fits, if not all of them are finished."""
    return name if done == planned else f"{name} ({done} of {planned} fits)"


def _side_effect(runs: Sequence[Path]) -> str:
    """The largest change of what the task does not ask for, by the mean over the runs, such as `chroma -0.4`."""
    from dualproc.report.summary import side_effects

    found: dict[str, list[float]] = {}
    for run in runs:
        evaluation = RunFolder.open(run).read_evaluation()
        for effect in side_effects(evaluation) if evaluation else ():
            found.setdefault(effect.label, []).append(effect.change)
    means = {name: mean(changes) for name, changes in found.items()}
    known = {name: value for name, value in means.items() if math.isfinite(value)}
    name = max(known, key=lambda one: abs(known[one]), default="")
    return f"{name.removeprefix('tone ')} {known[name]:+.1f}" if name else MISSING


def _markdown(setting: Setting, rows: Sequence[BenchRow], side_effect: str) -> str:
    """The row of one setting."""
    shown = dict(zip(HEADINGS, cells(*rows), strict=True))
    failed = {} if any(row.result for row in rows) else {COLUMNS[0]: shown["measured"]}
    shown |= {SIDE_EFFECT: side_effect} | failed
    numbers = [shown[name] for name in COLUMNS]
    return "| " + " | ".join([rows[0].label.partition(",")[0], setting.guard, setting.name, *numbers]) + " |"


def write(doc: Path, lines: Sequence[str], footer: str) -> None:
    """Put the table between the markers of the document, which is created if it does not exist."""
    text = doc.read_text(encoding="utf-8") if doc.exists() else f"# What the guards do\n\n{BEGIN}\n{END}\n"
    before, rest = text.split(BEGIN)
    head = ("task", "guard", "setting", *COLUMNS)
    full = [f"| {' | '.join(head)} |", "| " + " | ".join(["---"] * len(head)) + " |", *lines, "", footer, "", LEGEND]
    write_atomically(doc, f"{before}{BEGIN}\n" + "\n".join(full) + f"\n{END}{rest.split(END)[1]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "tasks", nargs="*", default=TASKS, metavar="FILE:VARIANT[:KEY=VALUE]...", help=f"default: {' '.join(TASKS)}"
    )
    parser.add_argument("--jobs", type=int, default=1, help="number of fits at the same time, each on one thread")
    parser.add_argument("--seeds", type=int, default=3, help=f"fits of each setting, from train.seed {FIRST_SEED} on")
    parser.add_argument("--only", default="", help="measure only these guards, with commas between them")
    parser.add_argument("--steps", type=int, help="training steps (default: those of the spec)")
    parser.add_argument("--images", type=int, help="images per validation prompt (default: those of the spec)")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "ablation", help="folder of the runs")
    parser.add_argument("--doc", type=Path, default=ROOT / "docs" / "ablation.md", help="document that gets the table")
    options = parser.parse_args()
    shorter = [("train.steps", options.steps), ("evaluation.seeds", options.images)]
    overrides = [f"{key}={value}" for key, value in shorter if value is not None]
    only = [guard.strip() for guard in options.only.split(",") if guard.strip()]
    planned = [plan(task, options.out, seeds=options.seeds, overrides=overrides, only=only) for task in options.tasks]
    # One seed after another, so that a table of everything exists early.
    by_seed = [one.jobs[seed] for seed in range(options.seeds) for task in planned for one in task]
    failed = run_all(list(dict.fromkeys(by_seed)), options.jobs)
    everything = [plan(task, options.out, seeds=options.seeds, overrides=overrides) for task in options.tasks]
    lines = [line for task in everything for line in table(task, failed)]
    images = sorted({len(job.spec.prompts.eval_prompts()) * job.spec.evaluation.seeds for job in by_seed})
    write(options.doc, lines, f"{' or '.join(map(str, images))} images per fit.")
    print(options.doc)


if __name__ == "__main__":
    main()
