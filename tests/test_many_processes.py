"""One fit in several processes: the same LoRA as in one process, and one end for all of them."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from many_processes import FILLER, OPTIONS, STEPS, engine, filling, fork, main, make_spec, resuming, whole
from safetensors.torch import load_file
from test_cli_run import SPEC

from dualproc import cli
from dualproc.engine.distributed import Processes
from dualproc.run import RunFolder

LORA = "pytorch_lora_weights.safetensors"


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of a single process."""
    return engine(make_spec()).fit(tmp_path_factory.mktemp("alone") / "run").run


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the runs of all scenarios, in two processes."""
    out = tmp_path_factory.mktemp("shared")
    half = out / "resumed"
    engine(make_spec(steps=STEPS // 2)).fit(half)  # by one process
    assert fork(2, lambda: main(out), out) == [0, -signal.SIGKILL], (out / "0.err").read_text()
    return out


def said(shared: Path, scenario: str) -> list[dict[str, Any]]:
    """What came out in each process."""
    return [json.loads((shared / f"{scenario}.{rank}.json").read_text()) for rank in range(2)]


def largest_difference(one: Path, other: Path) -> float:
    first, second = load_file(one / LORA), load_file(other / LORA)
    assert first.keys() == second.keys()
    return max((first[key] - second[key]).abs().max().item() for key in first)


@pytest.mark.parametrize("scenario", ["whole", "resumed"])
def test_two_processes_train_the_lora_of_one(shared: Path, alone: Path, scenario: str) -> None:
    assert [one["result"] for one in said(shared, scenario)] == [STEPS, STEPS]
    moved = max(value.abs().max().item() for value in load_file(alone / LORA).values())
    assert moved > 0.1
    assert largest_difference(shared / scenario, alone) <= 1e-5
    assert RunFolder.open(shared / scenario).environment["processes"] == 2
    records, expected = RunFolder.open(shared / scenario).metrics(), RunFolder.open(alone).metrics()
    assert len(records) == STEPS
    for record, other in zip(records, expected, strict=True):
        assert record.loss == pytest.approx(other.loss, abs=1e-5)
        assert record.p_answer == pytest.approx(other.p_answer, abs=1e-5)
        assert record.grad_norm == pytest.approx(other.grad_norm, rel=1e-3)


def test_two_processes_train_the_lora_of_one_with_every_option_of_a_step(shared: Path, tmp_path: Path) -> None:
    alone = engine(make_spec(**OPTIONS)).fit(tmp_path / "alone")
    assert largest_difference(shared / "options", alone.run) <= 1e-4
    for one in said(shared, "options"):
        assert one["result"] == pytest.approx(alone.evaluation.trained.judge, abs=1e-3)


def test_processes_share_the_evaluation_and_measure_what_one_does(shared: Path, tmp_path: Path) -> None:
    assert [one["result"] for one in said(shared, "sharing")] == [2 * 1, 2 * 2]  # of 3 images, base and trained
    alone = engine(make_spec(stop={"patience": 9})).fit(tmp_path / "alone").run
    together, expected = RunFolder.open(shared / "sharing").read_evaluation(), RunFolder.open(alone).read_evaluation()
    assert together is not None
    assert expected is not None
    assert (together.prompts, together.seeds) == (expected.prompts, expected.seeds)
    for one, other in ((together.base, expected.base), (together.trained, expected.trained)):
        assert one.judge == pytest.approx(other.judge, abs=1e-4)
        assert one.referee == pytest.approx(other.referee, abs=1e-4)
        assert one.hack_meter == pytest.approx(other.hack_meter, rel=1e-3)
        assert one.diversity == pytest.approx(other.diversity, rel=1e-3, nan_ok=True)
    assert len(list((shared / "sharing/samples/trained").glob("*.png"))) == 3


@pytest.mark.parametrize("parts", [2, 9])
def test_a_batch_in_parts_has_the_gradient_of_the_whole(alone: Path, tmp_path: Path, parts: int) -> None:
    run = engine(make_spec(accumulate=parts)).fit(tmp_path / "run").run
    assert largest_difference(run, alone) <= 1e-5


def test_sigterm_for_one_process_ends_the_fit_after_the_step_in_all(shared: Path) -> None:
    assert [one["result"] for one in said(shared, "interrupted")] == [[3, True], [3, True]]
    run = RunFolder.open(shared / "interrupted")
    assert run.saved_step == 3
    assert run.read_evaluation() is not None


def test_error_in_one_process_is_the_message_of_the_first(shared: Path) -> None:
    first, second = said(shared, "failing")
    assert first["error"] == "process 1 of 2 failed: ValueError: the judge broke"
    assert "fix the cause" in first["hint"]
    assert second == {"raised": "the judge broke"}


def test_first_process_that_cannot_write_ends_all(shared: Path) -> None:
    first, second = said(shared, "full")
    assert "is a file; a run needs a folder" in first["error"]
    assert second["error"].startswith("process 0 of 2 failed: ")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MB; the test is skipped where none can be mounted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], capture_output=True, check=False
    )
    if not mounted or mounted.returncode:
        pytest.skip("no disk can be mounted here")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_full_disk_of_the_first_process_ends_all_with_one_message_and_loses_nothing(
    small_disk: Path, alone: Path, tmp_path: Path
) -> None:
    run, log = small_disk / "run", tmp_path / "log"
    assert fork(2, lambda: main(log, [filling], run), log) == [0, 0], (log / "0.err").read_text()
    first, second = said(log, "filling")
    assert re.match(rf"cannot write {run}.*: No space left on device", first["error"])
    assert "free some space on that disk, then continue with `resume=True`" in first["hint"]
    assert second["error"] == f"process 0 of 2 failed: {first['error']}"
    saved = RunFolder.open(run).saved_step
    assert 3 <= saved < STEPS
    assert not list(run.rglob(".aside-*"))

    (small_disk / FILLER).unlink()
    assert fork(2, lambda: main(log, [resuming], run), log) == [0, 0], (log / "0.err").read_text()
    assert [one["result"] for one in said(log, "resuming")] == [STEPS, STEPS]
    assert [record.step for record in RunFolder.open(run).metrics()] == list(range(1, STEPS + 1))
    assert largest_difference(run, alone) <= 1e-5


def test_more_processes_than_images_are_refused(shared: Path) -> None:
    assert {one["error"] for one in said(shared, "too_many")} == {"train.batch is 1, but the fit has 2 processes"}


def test_death_of_a_process_ends_the_fit_with_one_message_and_keeps_the_checkpoint(shared: Path) -> None:
    message = json.loads((shared / "dying.0.json").read_text())
    assert message["error"] == "another process of this fit has ended"
    assert "resume=True" in message["hint"]
    assert RunFolder.open(shared / "dying").saved_step == 2


def test_only_the_first_process_prints_and_writes(tmp_path: Path) -> None:
    spec, log = tmp_path / "short.yaml", tmp_path / "log"
    spec.write_text(SPEC.replace("steps: 1, batch: 1", "steps: 1, batch: 2").replace("high: {row: 0.3}, ", ""))

    def run() -> None:
        cli.main(["run", str(spec), "--out", str(tmp_path / "run")])

    assert fork(2, run, log) == [0, 0], (log / "0.err").read_text()
    assert "Evaluation on 2 held-out images" in (log / "0.out").read_text()
    assert (log / "1.out").read_text() == (log / "1.err").read_text() == ""
    assert RunFolder.open(tmp_path / "run").read_evaluation() is not None

    assert fork(2, run, log) == [2, 2]  # the run exists
    message = (log / "0.err").read_text()
    assert message.count("already has a run") == message.count("error:") == 1
    assert "Traceback" not in message
    assert (log / "1.err").read_text() == ""


def test_shares_cover_the_batch_once_in_order() -> None:
    for count, batch, accumulate in ((1, 4, 1), (2, 5, 2), (3, 7, 9), (4, 4, 1)):
        parts = [part for rank in range(count) for part in Processes(rank, count).parts(batch, accumulate)]
        covered = [index for part in parts for index in range(batch)[part]]
        assert covered == list(range(batch))
        assert all(len(range(batch)[part]) for part in parts)


@pytest.mark.nightly
def test_four_processes_train_the_lora_of_one(alone: Path, tmp_path: Path) -> None:
    assert fork(4, lambda: whole(tmp_path / "run"), tmp_path / "log") == [0] * 4
    assert largest_difference(tmp_path / "run", alone) <= 1e-5


@pytest.mark.nightly
@pytest.mark.parametrize(
    "launcher",
    ["torch.distributed.run --nproc-per-node 2", "accelerate.commands.launch --multi_gpu --num_processes 2"],
)
def test_launchers_start_a_fit(tmp_path: Path, launcher: str) -> None:
    """With the shipped models: the LoRA of one process, after 20 steps."""
    spec = tmp_path / "short.yaml"
    spec.write_text(SPEC.replace("steps: 1, batch: 1", "steps: 20, batch: 4").replace("high: {row: 0.3}, ", ""))
    for name, start in (("alone", []), ("shared", ["-m", *launcher.split()])):
        command = [sys.executable, *start, "-m", "dualproc", "run", str(spec), "--out", str(tmp_path / name)]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("Evaluation on 2 held-out images") == 1
    shared, alone = RunFolder.open(tmp_path / "shared"), RunFolder.open(tmp_path / "alone")
    assert shared.environment["processes"] == 2
    weights, others = shared.latest_checkpoint(), alone.latest_checkpoint()
    assert weights is not None
    assert others is not None
    # As trained: the exported LoRA has the scale folded in, here 20.
    same = [name for name in weights.tensors if name.startswith("lora/")]
    assert len(same) > 10
    assert max((weights.tensors[name] - others.tensors[name]).abs().max().item() for name in same) <= 1e-5


def test_a_single_process_waits_for_nothing() -> None:
    one, totals = Processes(), torch.ones(1)
    with one.agreed(), one.summed([], totals):
        assert one.gather(3) == [3]
        assert one.decided(lambda: 4) == one.from_first(4) == 4
    assert not torch.distributed.is_initialized()
