"""`dp bench`, from the command line."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from bench_examples import outcome, save_lora
from run_examples import evaluation
from test_cli_run import SPEC, dp

from dualproc.cli import bench_jobs
from dualproc.cli.processes import Job, TrainingProcess, interrupts, threads_each
from dualproc.resolve import load_spec
from dualproc.run import RunFolder, portable

LOST = """\
name: lost
prompts: {train: [a cat], eval: [an owl]}
question: {template: "Is it thick?"}
generator: {type: diffusers, model: /no/such/folder}
"""


@pytest.fixture
def specs(tmp_path: Path) -> Path:
    """A folder with the spec `short`, which has the variants `high` and `low`."""
    folder = tmp_path / "specs"
    folder.mkdir()
    (folder / "short.yaml").write_text(SPEC)
    (folder / "notes.txt").write_text("not a spec")
    return folder


def finish(out: Path, specs: Path, variant: str, *settings: str) -> Path:
    """Write a finished run where `dp bench` expects it, without a fit."""
    folder = out / "short" / variant
    text = portable(load_spec(specs / "short.yaml", variant=variant, overrides=settings), folder).text
    with RunFolder.create(folder, spec_text=SPEC, resolved_text=text) as run:
        run.write_evaluation(evaluation())
        save_lora(run)
        run.write_outcome(outcome())
    return run.path


def test_run_in_use_is_refused_and_not_overwritten(
    capsys: pytest.CaptureFixture[str], specs: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "out" / "short" / "high"
    text = portable(load_spec(specs / "short.yaml", variant="high"), folder).text
    with RunFolder.create(folder, spec_text=SPEC, resolved_text=text):
        for options in ((), ("--overwrite",)):
            code, _, err = dp(capsys, "bench", specs, "--out", tmp_path / "out", *options)
            assert code == 2
            assert "is in use by another run" in err
            assert "wait until it is done" in err
            assert "--overwrite" not in err


def test_finished_runs_are_not_repeated(capsys: pytest.CaptureFixture[str], specs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for variant in ("high", "low"):
        finish(out, specs, variant)
    code, printed, _ = dp(capsys, "bench", specs, specs / "short.yaml", "--out", out)
    assert code == 0
    assert "already finished: 2 of 2 variants" in printed
    (low,) = [line for line in printed.splitlines() if line.startswith("short  low ")]
    assert "25% -> 75%" in low
    assert (out / "bench.md").read_text().count("| short |") == 2
    assert not list(out.rglob("*.log"))

    code, printed, _ = dp(capsys, "bench", specs, "--out", out, "--variant", "low")
    assert code == 0
    assert "already finished: 1 of 1 variant\n" in printed


def test_all_runs_of_another_spec_are_refused_in_one_message(
    capsys: pytest.CaptureFixture[str], specs: Path, tmp_path: Path
) -> None:
    for variant in ("high", "low"):
        finish(tmp_path / "out", specs, variant, "train.steps=7")
    code, _, err = dp(capsys, "bench", specs, "--out", tmp_path / "out")
    assert code == 2
    assert err.count("has a run of another spec; different: train.steps") == 2
    assert err.count("--overwrite") == 1


def test_mistakes_of_all_specs_are_reported_before_the_first_fit(
    capsys: pytest.CaptureFixture[str], specs: Path, tmp_path: Path
) -> None:
    (specs / "a.yaml").write_text(SPEC.replace("steps: 1", "stepz: 1"))
    (specs / "b.yml").write_text(SPEC.replace("type: line", "type: lime"))
    code, _, err = dp(capsys, "bench", specs, specs / "c.yaml", "--out", tmp_path / "out")
    assert code == 2
    assert "error: 3 mistakes in the spec" in err
    assert all(part in err for part in ("a.yaml:6", "did you mean `steps`?", "b.yml:4", "c.yaml"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["SPECS", "--variant", "hihg"], "known: high, low"),
        (["SPECS", "--set", "train.stepz=3"], "error: 1 mistake in the spec"),
        (["SPECS", "TWIN"], "have the same name, short/high"),
        (["EMPTY"], "no spec in the folder EMPTY"),
        (["no/such/folder"], "no/such/folder"),
        (["SPECS", "--out", "SPECS/short.yaml"], "short.yaml"),
    ],
)
def test_mistakes_give_one_message_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], specs: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    (tmp_path / "twin.yaml").write_text(SPEC)
    (tmp_path / "empty").mkdir()
    places = {"SPECS": str(specs), "TWIN": str(tmp_path / "twin.yaml"), "EMPTY": str(tmp_path / "empty")}
    for name, place in places.items():
        arguments = [argument.replace(name, place) for argument in arguments]
        message = message.replace(name, place)
    if "--out" not in arguments:
        arguments += ["--out", str(tmp_path / "out")]
    code, _, err = dp(capsys, "bench", *arguments)
    assert code == 2
    assert message in err
    assert err.count("error:") == 1
    assert "Traceback" not in err


def interrupt_after_the_first_step(metrics: Path) -> threading.Thread:
    """Send Ctrl+C as soon as a training step is logged."""

    def watch() -> None:
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline and not (metrics.exists() and metrics.read_bytes()):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def test_interrupted_bench_resumes_and_continues_after_a_failed_fit(
    capsys: pytest.CaptureFixture[str], specs: Path, tmp_path: Path
) -> None:
    (specs / "short.yaml").write_text(SPEC.replace(", low: {row: 0.6}", ""))
    (specs / "z_lost.yaml").write_text(LOST)
    out = tmp_path / "out"
    command = ("bench", specs, "--out", out, "--set", "train.steps=12", "--set", "evaluation.seeds=1")
    run = RunFolder(out / "short" / "high")
    watching = interrupt_after_the_first_step(run.path / "metrics.jsonl")
    code, _, err = dp(capsys, *command)
    watching.join()
    assert code == 130
    assert f"continue with:\n  dp bench {specs}" in err
    before = run.metrics()
    assert 0 < len(before) == run.saved_step < 12
    assert run.read_evaluation() is None

    code, printed, err = dp(capsys, *command)
    assert code == 1
    seconds = [record.seconds for record in run.metrics()]
    assert len(seconds) == 12
    assert seconds[: len(before)] == [record.seconds for record in before]
    fit = run.read_outcome()
    assert fit is not None
    assert fit.seconds == pytest.approx(sum(seconds))
    assert 10**8 < (fit.peak_memory or 0) < 10**11
    assert "short/high: " in printed
    assert "lost failed: " in err
    assert "Traceback" not in err
    table = (out / "bench.md").read_text().splitlines()
    assert [line.split("|")[1].strip() for line in table[2:4]] == ["short", "lost"]
    assert "/no/such/folder" in table[3]
    assert (out / "gallery.png").exists()


@dataclass(frozen=True, eq=False)
class Script(Job):
    """A job that runs a few lines of Python instead of a fit."""

    code: str = ""

    def command(self) -> list[str]:
        """As `dp run`, it gets the path of its error file."""
        return [sys.executable, "-c", self.code, str(self.error_file)]


WRITE_ERROR = "import pathlib, sys; pathlib.Path(sys.argv[1]).write_text('no such model\\n  install it\\n')"


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import sys; sys.exit('error: no such model\\n  install it')", "  install it"),
        (f"{WRITE_ERROR}; print('error: no such model'); sys.exit(2)", "no such model\n  install it"),
        ("import sys; print('Usage: dp run\\nno such option'); sys.exit(2)", "no such option"),
        ("raise ValueError('broken plugin')", "ValueError: broken plugin"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "ended by signal SIGKILL (out of memory?)"),
        ("import sys; sys.exit(130)", "interrupted from outside; the next `dp bench` resumes it"),
        ("import sys; sys.exit(3)", "exit code 3"),
    ],
)
def test_failure_gives_the_reason(specs: Path, tmp_path: Path, code: str, reason: str) -> None:
    spec = load_spec(specs / "short.yaml", variant="high")
    fit = TrainingProcess(Script("short.yaml", "high", (), spec, tmp_path / "runs" / "high", code), threads=1)
    assert fit.failure() == reason
    assert fit.job.log == tmp_path / "runs" / "high.log"
    assert fit.stage() == "loading"


def test_error_file_of_an_earlier_process_is_ignored(specs: Path, tmp_path: Path) -> None:
    spec = load_spec(specs / "short.yaml", variant="high")
    job = Script("short.yaml", "high", (), spec, tmp_path / "high", "import sys; print('this time'); sys.exit(2)")
    job.error_file.write_text("last time")
    assert TrainingProcess(job, threads=1).failure() == "this time"


STUBBORN = """\
import signal, time
for name in (signal.SIGTERM, signal.SIGINT):
    signal.signal(name, signal.SIG_IGN)
print("ready", flush=True)
time.sleep(300)
"""


def test_all_fits_are_ended_when_a_bench_fails(specs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_jobs, "_GRACE", 1.0)
    spec = load_spec(specs / "short.yaml", variant="high")
    fits = [
        TrainingProcess(Script("short.yaml", None, (), spec, tmp_path / "runs" / name, code), threads=1)
        for name, code in (("willing", "import time; time.sleep(300)"), ("stubborn", STUBBORN))
    ]
    while not fits[1].job.log.read_text():
        time.sleep(0.05)
    bench_jobs._end_all(fits)
    assert [fit.poll() for fit in fits] == [-signal.SIGTERM, -signal.SIGKILL]


def test_modules_beside_the_specs_are_not_imported(
    capsys: pytest.CaptureFixture[str], specs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (specs / "z_lost.yaml").write_text(LOST)
    for name in ("typer", "yaml", "torch", "sitecustomize"):
        (specs / f"{name}.py").write_text(f"open({str(tmp_path / 'code-was-run')!r}, 'w')")
    monkeypatch.chdir(specs)
    code, _, err = dp(capsys, "bench", "z_lost.yaml", "--out", tmp_path / "out")
    assert code == 1
    message = (tmp_path / "out" / ".lost.error").read_text()
    assert message.startswith("cannot load the generator")
    assert f"lost failed: {message}" in err
    assert not (tmp_path / "code-was-run").exists()


def test_fits_share_the_cpu_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    assert [threads_each(jobs) for jobs in (1, 2, 3, 100)] == [None, 4, 2, 1]


def test_signals_are_counted_and_do_not_interrupt() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with interrupts() as count:
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(os.getpid(), number)
        assert count() == 2
    assert signal.getsignal(signal.SIGTERM) is before
