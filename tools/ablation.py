"""Measure each guard against reward hacking: the same fits with and without it. Writes docs/ablation.md.

    python -m tools.ablation --jobs 2               # finished fits are not run again
    python -m tools.ablation --steps 3 --seeds 2 --out /tmp/ablation --doc /tmp/ablation.md

Every fit starts from the same seed. It is evaluated on *validation* prompts, which are taken from the spec's training
prompts. The spec's held-out prompts are never used, so settings that are chosen here cannot be tuned on them.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dualproc.cli.processes import Job, TrainingProcess
from dualproc.report.bench import HEADINGS, BenchRow, Result, cells, is_finished, read_result, result_of
from dualproc.resolve import check_plugins
from dualproc.run import RunFolder, portable
from dualproc.run.files import read_text, write_atomically
from dualproc.run.records import from_json, to_json
from dualproc.spec import QuestionSpec, TaskSpec, read_spec
from dualproc.types import Evaluation

ROOT = Path(__file__).resolve().parents[1]
TASKS = ("specs/line_weight.yaml:thick", "specs/horizon.yaml:high")
VALIDATION_EVERY = 4
"""Every fourth training prompt is evaluated instead of trained on."""
SUBJECT_QUESTION = {"template": "Is this still a drawing of {subject}?", "answer": "Yes"}
BASE_IMAGE = {"type": "base_image", "weight": 10.0}
"""Adds 0.2 to the loss for an image that differs from the base image by 0.14 (root mean square, pixels in [0, 1])."""
STRENGTHS = (0.25, 0.5, 0.75, 1.0)
BASE, UNCHANGED = "base generator", "unchanged spec"
COLUMNS = ("on target", "judge", "judge - on target", "referee", "kept", "diversity", "hack meter", "seconds")
BEGIN, END = "<!-- table: tools/ablation.py -->", "<!-- end table -->"
INTRODUCTION = """\
# What the guards do

A judge can accept images that do not do the task. Each row of the table removes one guard against that from a shipped
spec, or adds one. Everything else, including the seed, is as in the spec (*unchanged spec*). A setting that equals the
spec repeats its numbers. The evaluation uses validation prompts, which are taken from the training prompts and not
trained on, and none of the spec's held-out prompts.

* **anchor**: `base_denoise` with the spec's weight, `base_image`, both, or none.
* **subject question**: train also on the question whether the image still shows its subject.
* **batch**: images per training step, with the same number of images in total.
* **early stopping**: `train.stop`, also with twice the steps.
* **reward**: `yes_no_gap` or the paper's `answer_likelihood`.
* **strength**: the LoRA of the *unchanged spec* at a lower strength, without further training.

`python -m tools.ablation --jobs 2` makes the table.
"""
LEGEND = """\
*on target*: share of images that the spec's scorer accepts. *judge*, *referee*: mean P(wanted answer) to the task's own
questions; the judge trains, the referee does not. *judge - on target*: far above 0, the judge accepts images that miss
the target. *kept*: share of images whose subject the referee recognises. *diversity*: as a share of the base's. *hack
meter*: as a multiple of the base's. *seconds*: all training steps."""


@dataclass(frozen=True)
class Setting:
    """One row of the table: a fit whose spec has `overrides`."""

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
    """A setting and its training job; settings with the same spec share a job."""

    setting: Setting
    job: Job


def settings(spec: TaskSpec) -> Iterator[Setting]:
    """Every guard, removed and added."""
    bare = [one.model_dump() for one in own_questions(spec)]
    anchor = [one.model_dump() for one in spec.anchors if one.type == "base_denoise"]
    yield Setting("", UNCHANGED)
    yield Setting("anchor", "none", ("anchor=null",))
    if anchor:
        yield Setting("anchor", "base_denoise", (_set("anchor", anchor[0]),))
        yield Setting("anchor", "both", (_set("anchor", [*anchor, BASE_IMAGE]),))
    yield Setting("anchor", "base_image", (_set("anchor", BASE_IMAGE),))
    yield Setting("subject question", "no", (_set("question", _one_or_list(bare)),))
    yield Setting("subject question", "yes", (_set("question", [*bare, SUBJECT_QUESTION]),))
    for batch in (1, 4, 8):
        yield Setting("batch", str(batch), _equal_images(spec, batch))
    doubled = f"train.steps={2 * spec.train.steps}"
    for name, stop in (("no", "train.stop=null"), ("yes", "train.stop={patience: 2}")):
        yield Setting("early stopping", name, (stop,))
        yield Setting("early stopping", f"{name}, twice the steps", (doubled, stop))
    for reward in ("yes_no_gap", "answer_likelihood"):
        yield Setting("reward", reward, (f"reward.type={reward}",))


def own_questions(spec: TaskSpec) -> tuple[QuestionSpec, ...]:
    """The questions about the task itself, without the one about the subject."""
    return tuple(one for one in spec.measured_questions if one.template != SUBJECT_QUESTION["template"])


def plan(task: str, out: Path, *, overrides: Sequence[str] = ()) -> list[Planned]:
    """The fits of one task, `FILE:VARIANT`, all with `overrides`. Raises SpecError if the spec is not valid."""
    file, _, variant = task.partition(":")
    common = (*_validation(file, variant or None), *overrides)
    spec = _read(file, variant, common)
    planned: list[Planned] = []
    for setting in settings(spec):
        all_overrides = (*common, *setting.overrides)
        changed = _read(file, variant, all_overrides)
        same = next((one.job for one in planned if one.job.spec == changed), None)
        folder = out / spec.name / (spec.variant or "") / setting.folder
        planned.append(Planned(setting, same or Job(file, variant or None, all_overrides, changed, folder)))
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


def _one_or_list(items: list[dict[str, object]]) -> object:
    return items[0] if len(items) == 1 else items


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


def result(job: Job, *, strength: float = 1.0) -> Result:
    """The numbers of a finished run, with its LoRA at `strength`.

    Judge and referee are asked only the task's own questions, so that all settings can be compared. If the run's own
    evaluation asked others, it is evaluated again, and the result is stored next to the run folder.
    """
    whole, questions = read_result(job.folder), own_questions(job.spec)
    if strength == 1 and questions == job.spec.measured_questions:
        return whole
    stored = job.folder.with_name(f"{job.folder.name}.{strength:g}.json")
    if not stored.exists():
        spec = job.spec.model_copy(update={"question": questions})
        write_atomically(stored, to_json(_evaluate(spec, job.folder, strength)))
    return result_of(from_json(Evaluation, read_text(stored), source=stored), whole.outcome, whole.machine)


def _evaluate(spec: TaskSpec, run: Path, strength: float) -> Evaluation:
    from dualproc.cli.progress import quiet

    quiet()
    from dualproc.engine import Engine, lora
    from dualproc.engine.evaluate import evaluate
    from dualproc.run.folder import WEIGHTS

    engine = Engine(spec)
    lora.load_export(engine.generator.adapter_module, spec.train.lora, run / WEIGHTS, strength=strength)
    return evaluate(engine)[0]


# --- the table ------------------------------------------------------------------------------------------------------


def table(planned: Sequence[Planned], failed: dict[Job, str]) -> list[str]:
    """The rows of one task: the base generator, then every setting."""
    rows: list[tuple[Setting, BenchRow]] = []
    for one in planned:
        spec = one.job.spec
        row = BenchRow(spec.name, spec.variant, one.job.folder.name, error=failed.get(one.job))
        rows.append((one.setting, row if row.error else replace(row, result=result(one.job))))
    row = rows[0][1]
    if row.result is not None:
        rows[0:0] = [(Setting("", BASE), row)]
        for strength in STRENGTHS:
            weaker = replace(row, result=result(planned[0].job, strength=strength))
            rows.append((Setting("strength", f"{strength:g}"), weaker))
    return [_markdown(setting, row) for setting, row in rows]


def _markdown(setting: Setting, row: BenchRow) -> str:
    """The row of one setting: of the cells `base -> trained`, only the last part, because the base has its own row."""
    shown = dict(zip(HEADINGS, cells(row), strict=True))
    if setting.name == BASE:
        numbers = [before if arrow else "" for before, arrow, _ in (shown[name].partition(" -> ") for name in COLUMNS)]
    else:
        numbers = [shown[name].rpartition(" -> ")[2] for name in COLUMNS]
    if row.error:
        numbers[0] = shown["measured"]
    return "| " + " | ".join([row.label, setting.guard, setting.name, *numbers]) + " |"


def write(doc: Path, lines: Sequence[str], footer: str) -> None:
    """Put the table between the markers of the document, which is created if it does not exist."""
    text = doc.read_text(encoding="utf-8") if doc.exists() else f"{INTRODUCTION}\n{BEGIN}\n{END}\n"
    before, rest = text.split(BEGIN)
    head = ("task", "guard", "setting", *COLUMNS)
    full = [f"| {' | '.join(head)} |", "| " + " | ".join(["---"] * len(head)) + " |", *lines, "", footer, "", LEGEND]
    write_atomically(doc, f"{before}{BEGIN}\n" + "\n".join(full) + f"\n{END}{rest.split(END)[1]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("tasks", nargs="*", default=TASKS, metavar="FILE:VARIANT", help=f"default: {' '.join(TASKS)}")
    parser.add_argument("--jobs", type=int, default=1, help="number of fits at the same time, each on one thread")
    parser.add_argument("--steps", type=int, help="training steps (default: those of the spec)")
    parser.add_argument("--seeds", type=int, help="images per validation prompt (default: those of the spec)")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "ablation", help="folder of the runs")
    parser.add_argument("--doc", type=Path, default=ROOT / "docs" / "ablation.md", help="document that gets the table")
    options = parser.parse_args()
    shorter = [("train.steps", options.steps), ("evaluation.seeds", options.seeds)]
    overrides = [f"{key}={value}" for key, value in shorter if value is not None]
    planned = [plan(task, options.out, overrides=overrides) for task in options.tasks]
    jobs = list(dict.fromkeys(one.job for task in planned for one in task))
    failed = run_all(jobs, options.jobs)
    images = len(planned[0][0].job.spec.prompts.eval_prompts()) * planned[0][0].job.spec.evaluation.seeds
    write(options.doc, [line for task in planned for line in table(task, failed)], f"{images} images per row.")
    print(options.doc)


if __name__ == "__main__":
    main()
