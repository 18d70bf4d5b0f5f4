"""What each guard against over-optimisation does: the same fits with and without it, into docs/ablation.md.

    python -m tools.ablation --jobs 2               # what is finished is not run again
    python -m tools.ablation --steps 3 --seeds 2 --out /tmp/ablation --doc /tmp/ablation.md

Every fit starts from the same seed. It is measured on *validation* subjects, taken from the spec's training prompts;
the held-out ones of the spec are never drawn, so that what is chosen here cannot be tuned on them.
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
"""Every fourth training prompt is measured on, instead of trained."""
STILL = {"template": "Is this still a drawing of {subject}?", "answer": "Yes"}
BASE_IMAGE = {"type": "base_image", "weight": 10.0}
"""A share of 0.2 of the loss where a trained image is 0.14 (RMS) from the base's."""
STRENGTHS = (0.25, 0.5, 0.75, 1.0)
BASE = "base generator"
COLUMNS = ("on target", "judge", "judge - on target", "referee", "kept", "diversity", "hack meter", "seconds")
BEGIN, END = "<!-- table: tools/ablation.py -->", "<!-- end table -->"
INTRODUCTION = """\
# What the guards do

A judge can be pleased without the task being done. Each line of the table takes one guard away from a shipped spec, or
adds one; all else, seeds included, is as the spec has it (*as it is*). Settings that come to the spec itself repeat its
numbers. Subjects that were left out of the fits are measured, and none of the spec's held-out ones.

* **anchor**: `base_denoise` with the spec's weight, `base_image`, both, or none.
* **asked for the subject**: one more question is trained on, whether the subject is still there.
* **batch**: images a step, with as many images in all.
* **stopped by the referee**: `train.stop`, also with twice the steps.
* **strength**: drawn with the LoRA of *as it is*, weaker; nothing is trained for it.

`python -m tools.ablation --jobs 2` makes the table anew.
"""
LEGEND = """\
*on target*: share of the images that the spec's scorer accepts. *judge*, *referee*: mean P(wanted answer) to the
task's own questions; the judge trains, the referee does not. *judge - on target*: far above 0, the judge accepts images
that miss the target. *kept*: share of images whose subject the referee recognises. *diversity*, *hack meter*: as a
share and a multiple of the base generator's. *seconds*: all training steps."""


@dataclass(frozen=True)
class Setting:
    """One line of the table: a fit that differs from the spec in `overrides`."""

    guard: str
    name: str
    overrides: tuple[str, ...] = ()

    @property
    def folder(self) -> str:
        """Of its run, such as `anchor-none`."""
        words = f"{self.guard} {self.name}".replace("_", " ").replace(",", "").split()
        return "-".join(words)


@dataclass(frozen=True)
class Planned:
    """A setting and the job that fits it; settings that come to the same spec share a job."""

    setting: Setting
    job: Job


def settings(spec: TaskSpec) -> Iterator[Setting]:
    """Every guard, taken away and put in."""
    bare = [one.model_dump() for one in own_questions(spec)]
    anchor = [one.model_dump() for one in spec.anchors if one.type == "base_denoise"]
    yield Setting("", "as it is")
    yield Setting("anchor", "none", ("anchor=null",))
    if anchor:
        yield Setting("anchor", "base_denoise", (_set("anchor", anchor[0]),))
        yield Setting("anchor", "both", (_set("anchor", [*anchor, BASE_IMAGE]),))
    yield Setting("anchor", "base_image", (_set("anchor", BASE_IMAGE),))
    yield Setting("asked for the subject", "no", (_set("question", _one_or_list(bare)),))
    yield Setting("asked for the subject", "yes", (_set("question", [*bare, STILL]),))
    for batch in (1, 4, 8):
        yield Setting("batch", str(batch), _equal_images(spec, batch))
    doubled = f"train.steps={2 * spec.train.steps}"
    for name, stop in (("no", "train.stop=null"), ("yes", "train.stop={patience: 2}")):
        yield Setting("stopped by the referee", name, (stop,))
        yield Setting("stopped by the referee", f"{name}, twice the steps", (doubled, stop))
    for reward in ("yes_no_gap", "answer_likelihood"):
        yield Setting("reward", reward, (f"reward.type={reward}",))


def own_questions(spec: TaskSpec) -> tuple[QuestionSpec, ...]:
    """The trained questions that are about the task, and not about the subject being there still."""
    return tuple(one for one in spec.measured_questions if one.template != STILL["template"])


def plan(task: str, out: Path, *, given: Sequence[str] = ()) -> list[Planned]:
    """The fits of one task, `FILE:VARIANT`. Raises SpecError if the spec is wrong."""
    file, _, variant = task.partition(":")
    common = (*_validation(file, variant or None), *given)
    spec = _read(file, variant, common)
    planned: list[Planned] = []
    for setting in settings(spec):
        overrides = (*common, *setting.overrides)
        changed = _read(file, variant, overrides)
        same = next((one.job for one in planned if one.job.spec == changed), None)
        folder = out / spec.name / (spec.variant or "") / setting.folder
        planned.append(Planned(setting, same or Job(file, variant or None, overrides, changed, folder)))
    return planned


def _read(file: str, variant: str, overrides: Sequence[str]) -> TaskSpec:
    return read_spec(file, overrides=overrides, variant=variant or None).require()


def _validation(file: str, variant: str | None) -> tuple[str, ...]:
    """Overrides that split the training prompts and leave the held-out ones alone."""
    prompts = read_spec(file, variant=variant).require().prompts.model_dump()["train"]
    measured = prompts[VALIDATION_EVERY - 1 :: VALIDATION_EVERY]
    trained = [prompt for prompt in prompts if prompt not in measured]
    return _set("prompts.train", trained), _set("prompts.eval", measured)


def _equal_images(spec: TaskSpec, batch: int) -> tuple[str, ...]:
    """Another batch, with as many images in all, and between two looks."""
    train = spec.train
    steps = max(1, round(train.steps * train.batch / batch))
    every = max(1, round(train.watch.every * train.batch / batch))
    return f"train.batch={batch}", f"train.steps={steps}", f"train.watch.every={every}"


def _set(key: str, value: object) -> str:
    return f"{key}={json.dumps(value, ensure_ascii=False)}"


def _one_or_list(items: list[dict[str, object]]) -> object:
    return items[0] if len(items) == 1 else items


# --- doing it -------------------------------------------------------------------------------------------------------


def run_all(jobs: Sequence[Job], at_a_time: int) -> dict[Job, str]:
    """Run what is not finished; returns why jobs failed."""
    for job in jobs:  # before hours of work, not after
        check_plugins(job.spec)
        RunFolder.refuse(job.folder, portable(job.spec).text, resume=True, overwrite=False)
    waiting = [job for job in jobs if not is_finished(job.folder)]
    print(f"{len(jobs) - len(waiting)} of {len(jobs)} fits are finished already", flush=True)
    running: list[TrainingProcess] = []
    failed = {}
    try:
        while waiting or running:
            while waiting and len(running) < at_a_time:
                running.append(TrainingProcess(waiting.pop(0), threads=1))
            for fit in [fit for fit in running if fit.poll() is not None]:
                running.remove(fit)
                if not is_finished(fit.job.folder):
                    failed[fit.job] = fit.failure()
                print(f"{fit.job.folder}: {failed.get(fit.job, 'done')}", flush=True)
            time.sleep(0.5)
    finally:
        for fit in running:
            fit.end(at_once=True)
    return failed


def result(job: Job, *, strength: float = 1.0) -> Result:
    """The numbers of a finished run, with its LoRA at `strength`.

    Judge and referee are asked the task's own questions only, so that all settings can be compared. Where the run did
    otherwise, it is measured again; what was measured is kept beside it.
    """
    whole, questions = read_result(job.folder), own_questions(job.spec)
    if strength == 1 and questions == job.spec.measured_questions:
        return whole
    kept = job.folder.with_name(f"{job.folder.name}.{strength:g}.json")
    if not kept.exists():
        spec = job.spec.model_copy(update={"question": questions})
        write_atomically(kept, to_json(_measured(spec, job.folder, strength)))
    return result_of(from_json(Evaluation, read_text(kept), source=kept), whole.fit, whole.machine)


def _measured(spec: TaskSpec, run: Path, strength: float) -> Evaluation:
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
    """The lines of one task: the base generator, then every setting."""
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
    return [_line(setting, row) for setting, row in rows]


def _line(setting: Setting, row: BenchRow) -> str:
    """One setting in the bench's cells, `before -> after`: what is before is the same in all, and has its own line."""
    shown = dict(zip(HEADINGS, cells(row), strict=True))
    if setting.name == BASE:
        numbers = [before if arrow else "" for before, arrow, _ in (shown[name].partition(" -> ") for name in COLUMNS)]
    else:
        numbers = [shown[name].rpartition(" -> ")[2] for name in COLUMNS]
    if row.error:
        numbers[0] = shown["measured"]
    return "| " + " | ".join([row.label, setting.guard, setting.name, *numbers]) + " |"


def write(doc: Path, lines: Sequence[str], footer: str) -> None:
    """Put the table between the document's markers, or begin a document."""
    text = doc.read_text(encoding="utf-8") if doc.exists() else f"{INTRODUCTION}\n{BEGIN}\n{END}\n"
    before, rest = text.split(BEGIN)
    head = ("task", "guard", "setting", *COLUMNS)
    full = [f"| {' | '.join(head)} |", "| " + " | ".join(["---"] * len(head)) + " |", *lines, "", footer, "", LEGEND]
    write_atomically(doc, f"{before}{BEGIN}\n" + "\n".join(full) + f"\n{END}{rest.split(END)[1]}")


def main() -> None:
    """TrainingProcess, measure, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("tasks", nargs="*", default=TASKS, metavar="FILE:VARIANT", help=f"default: {' '.join(TASKS)}")
    parser.add_argument("--jobs", type=int, default=1, help="fits at a time, each on one thread")
    parser.add_argument("--steps", type=int, help="instead of the specs' own")
    parser.add_argument("--seeds", type=int, help="images a validation prompt, instead of the specs' own")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "ablation", help="where the runs go")
    parser.add_argument("--doc", type=Path, default=ROOT / "docs" / "ablation.md", help="where the table goes")
    options = parser.parse_args()
    shorter = [("train.steps", options.steps), ("evaluation.seeds", options.seeds)]
    given = [f"{key}={value}" for key, value in shorter if value is not None]
    planned = [plan(task, options.out, given=given) for task in options.tasks]
    jobs = list(dict.fromkeys(one.job for task in planned for one in task))
    failed = run_all(jobs, options.jobs)
    images = len(planned[0][0].job.spec.prompts.eval_prompts()) * planned[0][0].job.spec.evaluation.seeds
    write(options.doc, [line for task in planned for line in table(task, failed)], f"{images} images a line.")
    print(options.doc)


if __name__ == "__main__":
    main()
