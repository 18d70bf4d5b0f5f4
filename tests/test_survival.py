"""Runs survive being killed, full disks, signals, values that are not finite, and plugins that fail."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from found_images import dp
from PIL import Image
from safetensors.torch import load_file
from spec_texts import SMALL

from dualproc import Engine, load_spec
from dualproc.errors import DualprocError
from dualproc.run import RunFolder
from dualproc.run.files import ASIDE
from dualproc.run.folder import METRICS, TRACEBACK, WEIGHTS
from dualproc.run.lock import HOLDER, LOCK
from dualproc.types import StepRecord

TESTS = Path(__file__).parent
SHIPPED = """\
name: shipped
prompts: {template: "a cartoon of {subject}", train: [a cat, a dog], eval: [an owl]}
question: {template: "Does the red line match the horizon?"}
visual_prompt: {jitter: {y: [-0.1, 0.1]}, layers: [{type: line, from: [0, 0.5], to: [1, 0.5], width: 0.02}]}
referee: {type: tiny-referee}
scorers: [{type: line_weight, target: 0.04}]
anchor: {type: base_denoise}
train:
  {steps: 6, batch: 1, lr: 1e-3, checkpoint_every: 2, lora: {rank: 2}, watch: {every: 2, images: 1},
   stop: {patience: 9}}
evaluation: {seeds: 1}
"""
UNTIMED = re.compile(r'"(seconds|sha256)": ?[^,}]*')


class Server:
    """Runs `fit_server.py`: fits of one spec, each in a separate process that can be killed."""

    def __init__(self, spec: str, folder: Path) -> None:
        (folder / "spec.yaml").write_text(spec)
        paths = [str(TESTS / "fake_plugins" / "small"), os.environ.get("PYTHONPATH", "")]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, paths))}
        self._process = subprocess.Popen(
            [sys.executable, TESTS / "fit_server.py", folder / "spec.yaml"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment,
        )  # fmt: skip
        assert self._read() == "ready\n"
        self.whole, started = folder / "whole", time.monotonic()
        assert self.fit(self.whole)["code"] == 0
        self.seconds = time.monotonic() - started

    def fit(self, out: Path, **order: float) -> dict[str, Any]:
        """Run one fit that resumes `out`; returns its exit code, error message and number of events."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"out": str(out), **order}) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._read())
        return answer

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server for fits of `SMALL`; `server.whole` is an undisturbed run."""
    server = Server(SMALL, tmp_path_factory.mktemp("small"))
    yield server
    server.close()


def result(run: Path) -> dict[str, Any]:
    """The contents of a run that must not depend on how often it was killed, by file name."""
    newest = RunFolder.open(run).saved_step
    checkpoint = run / "checkpoints" / f"checkpoint-{newest}"
    files = [run / WEIGHTS, run / "evaluation.json", *sorted(checkpoint.iterdir()), *sorted(run.glob("samples/**/*"))]
    contents = {str(file.relative_to(run)): file.read_bytes() for file in files if file.is_file()}
    return contents | {METRICS: UNTIMED.sub("", (run / METRICS).read_text())}


def assert_no_partial_files(run: Path) -> None:
    """Assert that every file with its final name is complete."""
    readers: dict[str, Callable[[Path], Any]] = {
        ".json": lambda file: json.loads(file.read_text()),
        ".yaml": lambda file: yaml.safe_load(file.read_text()),
        ".safetensors": load_file,
        ".png": lambda file: Image.open(file).load(),
        ".jsonl": lambda file: [json.loads(line) for line in file.read_text().split("\n")[:-1]],
        ".html": lambda file: file.read_text().rindex("</html>"),
        ".txt": lambda file: file.read_text().rindex("Error"),
        ".md": lambda file: file.read_text().rindex("```"),
    }
    for file in run.rglob("*"):
        if file.is_file() and ASIDE not in str(file.relative_to(run)) and file.name not in (LOCK, HOLDER):
            readers[file.suffix](file)
    for folder in run.glob("checkpoints/checkpoint-*"):
        assert {file.name for file in folder.iterdir()} == {"tensors.safetensors", "state.json"}


def leftovers(run: Path) -> list[Path]:
    """Temporary files and folders in a run."""
    return list(run.rglob(f"{ASIDE}*"))


# --- killed ---------------------------------------------------------------------------------------------------------


def test_run_killed_before_every_file_change_ends_like_an_undisturbed_run(server: Server, tmp_path: Path) -> None:
    """In one folder, fit number n is killed before its n-th file change, until one fit finishes."""
    kills = 0
    while (fit := server.fit(tmp_path / "run", die_at=kills + 1))["code"] == -signal.SIGKILL:
        kills += 1
        assert_no_partial_files(tmp_path / "run")
    assert fit["code"] == 0
    # A fit that was killed after it had written its outcome removes that first, so later fits change one file more.
    assert 30 < fit["events"] <= kills <= fit["events"] + 1
    assert result(tmp_path / "run") == result(server.whole)
    assert not leftovers(tmp_path / "run")


def test_run_killed_at_random_times_ends_like_an_undisturbed_run(server: Server, tmp_path: Path) -> None:
    rng, kills, runs = random.Random(0), 0, [tmp_path / "0"]
    while kills < 20:
        if server.fit(runs[-1], after=rng.uniform(0, server.seconds))["code"] == 0:
            runs.append(tmp_path / str(len(runs)))
        else:
            kills += 1
            assert_no_partial_files(runs[-1])
    assert server.fit(runs[-1])["code"] == 0
    for run in runs:
        assert result(run) == result(server.whole)
        assert not leftovers(run)


@pytest.mark.parametrize("event", range(2, 34, 4))
def test_run_killed_while_it_overwrites_another_can_be_resumed(server: Server, tmp_path: Path, event: int) -> None:
    run = Path(shutil.copytree(server.whole, tmp_path / "run"))
    assert server.fit(run, die_at=event, overwrite=True)["code"] == -signal.SIGKILL
    assert_no_partial_files(run)
    assert server.fit(run)["code"] == 0
    assert result(run) == result(server.whole)


@pytest.mark.nightly
def test_run_killed_once_ends_like_an_undisturbed_run(server: Server, tmp_path: Path) -> None:
    """For every file change: a new run is killed before it, once."""
    for event in range(1, server.fit(tmp_path / "0", die_at=0)["events"] + 1):
        run = tmp_path / str(event)
        assert server.fit(run, die_at=event)["code"] == -signal.SIGKILL
        assert_no_partial_files(run)
        assert server.fit(run)["code"] == 0
        assert result(run) == result(server.whole), event
        assert not leftovers(run)


@pytest.mark.nightly
def test_run_of_shipped_models_survives_being_killed(tmp_path: Path) -> None:
    server, rng = Server(SHIPPED, tmp_path), random.Random(0)
    for attempt in range(4):
        run, kills = tmp_path / str(attempt), 0
        while server.fit(run, after=rng.uniform(0, (0.5 + 0.1 * kills) * server.seconds))["code"] != 0:
            kills += 1
            assert_no_partial_files(run)
        assert kills
        assert result(run) == result(server.whole)
    server.close()


@pytest.mark.nightly
def test_killed_and_resumed_dp_run_ends_like_an_undisturbed_one(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(SHIPPED)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}

    def dp_run(out: Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "dualproc", "run", tmp_path / "spec.yaml", "--out", out, "--resume"]
        return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)

    assert dp_run(tmp_path / "whole").wait() == 0
    rng, killed, kills = random.Random(0), tmp_path / "killed", 0
    while True:
        process = dp_run(killed)
        holder = killed / HOLDER
        while process.poll() is None and str(process.pid) not in (holder.read_text() if holder.exists() else ""):
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 3 + kills))
        process.kill()
        if process.wait() == 0:
            break
        kills += 1
    assert kills
    assert result(killed) == result(tmp_path / "whole")


# --- full disks, missing permissions, other processes ---------------------------------------------------------------


@pytest.mark.parametrize("first", [1, 2, 3])
def test_full_disk_gives_one_message_and_loses_nothing(server: Server, tmp_path: Path, first: int) -> None:
    """The disk becomes full at later and later file changes; after each failure, the next fit resumes the run."""
    event = first
    while (fit := server.fit(tmp_path / "run", full_from=event))["code"] == 2:
        message, hint = fit["error"].splitlines()
        assert re.match(rf"cannot (write|make the folder|lock|delete) {tmp_path / 'run'}.*: No space left", message)
        assert "free some space on that disk, then continue with `resume=True`" in hint
        assert_no_partial_files(tmp_path / "run")
        event += 3
    assert fit["code"] == 0
    assert event > 30
    assert result(tmp_path / "run") == result(server.whole)
    assert not leftovers(tmp_path / "run")


def test_unwritable_folder_is_refused_before_models_are_loaded(
    capsys: pytest.CaptureFixture[str], small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    code, out, err = dp(capsys, "run", small, "--out", tmp_path / "file" / "run")
    assert (code, out) == (2, "")
    assert f"cannot make the folder {tmp_path / 'file' / 'run'}: {tmp_path / 'file'} is a file" in err
    monkeypatch.setattr(os, "access", lambda *_: False)  # because root may write anywhere
    code, out, err = dp(capsys, "run", small, "--out", tmp_path / "runs" / "new")
    assert (code, out) == (2, "")
    assert f"cannot make the folder {tmp_path / 'runs' / 'new'}: permission denied, or the disk is read-only" in err
    code, out, err = dp(capsys, "run", small, "--out", tmp_path)
    assert (code, out) == (2, "")
    assert f"cannot write to {tmp_path}: permission denied" in err
    assert sorted(file.name for file in tmp_path.iterdir()) == ["file", "small.yaml"]


def test_run_in_use_is_refused_at_once_but_can_be_read(
    capsys: pytest.CaptureFixture[str], small: Path, tmp_path: Path
) -> None:
    run = tmp_path / "small"
    Engine(load_spec(small)).fit(run)
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file() and file.name != LOCK}
    commands = [
        ["run", small, "--out", run],
        ["run", small, "--out", run, "--resume"],
        ["run", small, "--out", run, "--overwrite"],
        ["bench", small, "--out", tmp_path],
        ["bench", small, "--out", tmp_path, "--overwrite"],
        ["score", run],
    ]
    with RunFolder(run).writing():
        for command in commands:
            code, out, err = dp(capsys, *command)
            assert code == 2, command
            assert "loading" not in out
            assert re.search(rf"in use by another run \(process {os.getpid()}, since 20[-\d]+ [:\d]+\)", err), command
            assert err.count("error:") == 1
        assert {file: file.read_bytes() for file in before} == before
        assert dp(capsys, "generate", run, "a cartoon of a cat", "--out", tmp_path / "drawn")[0] == 0
        (run / WEIGHTS).unlink()
        assert "in use by another run" in dp(capsys, "generate", run, "a cartoon of a cat")[2]
    assert dp(capsys, "run", small, "--out", run, "--resume")[0] == 0


# --- signals --------------------------------------------------------------------------------------------------------


class Signals:
    """A progress that sends signals to its own process after training step 2."""

    def __init__(self, *numbers: int) -> None:
        self.numbers = numbers

    def step(self, record: StepRecord, total: int) -> None:
        for number in self.numbers if record.step == 2 else ():
            os.kill(os.getpid(), number)

    def ending(self) -> None: ...

    def images(self, done: int, total: int) -> None: ...


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_first_signal_ends_training_and_the_lora_is_saved(
    server: Server, small: Path, tmp_path: Path, number: signal.Signals
) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    ended = Engine(load_spec(small)).fit(tmp_path / "run", progress=Signals(number))
    outcome = ended.outcome
    assert (outcome.steps, outcome.stopped, outcome.interrupted) == (2, "interrupted after step 2", True)
    assert (ended.run / WEIGHTS).exists()
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    assert not Engine(load_spec(small)).fit(tmp_path / "run", resume=True).outcome.interrupted
    assert result(tmp_path / "run") == result(server.whole)


@pytest.fixture
def _ctrl_c() -> Iterator[None]:
    """Make Ctrl+C raise KeyboardInterrupt, as in a terminal: processes started in the background ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_ctrl_c")
def test_second_ctrl_c_ends_the_fit_at_once(server: Server, small: Path, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        Engine(load_spec(small)).fit(tmp_path / "run", progress=Signals(signal.SIGINT, signal.SIGINT))
    assert not (tmp_path / "run" / WEIGHTS).exists()
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    Engine(load_spec(small)).fit(tmp_path / "run", resume=True)
    assert result(tmp_path / "run") == result(server.whole)


def test_checks_without_improvement_are_counted_across_sessions(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = load_spec(small, overrides=["train.stop={patience: 3}"])
    break_plugin(monkeypatch, "referee 1 nan")
    assert Engine(spec).fit(tmp_path / "run", progress=Signals(signal.SIGTERM)).outcome.steps == 2
    assert Engine(spec).fit(tmp_path / "run", resume=True).outcome.steps == 3


def test_checkpoint_of_another_model_is_refused(small: Path, tmp_path: Path) -> None:
    engine = Engine(load_spec(small))
    engine.fit(tmp_path / "run", progress=Signals(signal.SIGTERM))
    tensors, state = engine.state()
    other = {name.replace("lora_A", "lora_C"): value for name, value in tensors.items()}
    RunFolder(tmp_path / "run").save_checkpoint(3, other, state)
    with pytest.raises(DualprocError, match=r"KeyError: .*lora_A.*, while its checkpoint was read\n.*`overwrite=True`"):
        Engine(load_spec(small)).fit(tmp_path / "run", resume=True)


# --- values that are not finite, plugins that fail ------------------------------------------------------------------


def break_plugin(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    """Make a small plugin fail: `fault` is `KIND CALL MESSAGE`, where calls are counted from now on."""
    monkeypatch.setenv("SMALL_FAULT", fault)
    if "acme_small" in sys.modules:
        sys.modules["acme_small"].calls.clear()


@pytest.mark.parametrize("kind", ["generator", "judge"])
def test_run_with_non_finite_values_stops_and_saves_the_last_good_lora(
    capsys: pytest.CaptureFixture[str], small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    run, changes = tmp_path / "run", ["train.watch.every=9", "train.max_skipped=2", "train.steps=6"]
    short = Engine(load_spec(small, overrides=[*changes, "train.steps=2"])).fit(tmp_path / "short").run
    command = ["run", small, "--out", run, *(word for change in changes for word in ("--set", change))]
    break_plugin(monkeypatch, f"{kind} 3 nan")
    code, _, err = dp(capsys, *command)
    assert code == 2
    assert err.count("error:") == 1
    assert "loss or gradient was not finite in 2 steps in a row, up to step 4" in err
    assert f"the LoRA as it was before them is in {run}" in err
    ours, theirs = load_file(run / WEIGHTS), load_file(short / WEIGHTS)  # the headers name different specs
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert {"evaluation.json", "report.html", "samples"} < {file.name for file in run.iterdir()}
    assert [record.skipped for record in RunFolder.open(run).metrics()] == [False, False, True, True]
    assert RunFolder.open(run).read_outcome() is None

    code, _, err = dp(capsys, *command, "--resume")  # one more training step, which fails again
    assert code == 2
    assert "loss or gradient was not finite in 3 steps in a row, up to step 5" in err
    monkeypatch.delenv("SMALL_FAULT")
    code, _, err = dp(capsys, *command, "--resume")
    assert code == 0
    assert "3 training steps skipped: loss or gradient was not finite" in err
    assert [record.skipped for record in RunFolder.open(run).metrics()] == [False, False, True, True, True, False]


@pytest.mark.parametrize(
    ("fault", "plugin"),
    [
        ("generator 5 boom", "generator 'small' (acme-small 1.0, entry point acme_small:SmallGenerator) raised"),
        ("judge 3 boom", "judge 'small' (acme-small 1.0, entry point acme_small:SmallJudge) raised"),
        ("referee 3 boom", "judge 'small-referee' (acme-small 1.0, entry point acme_small:REFEREE) raised"),
        ("reward 3 boom", "reward 'small' (acme-small 1.0, entry point acme_small:SmallReward) raised"),
        ("visual_prompt 1 boom", "visual prompt 'small' (acme-small 1.0, entry point acme_small:SmallLayer) raised"),
        ("anchor 3 boom", "anchor 'small' (acme-small 1.0, entry point acme_small:SmallAnchor) raised"),
        ("scorer 2 boom", "scorer 'small' (acme-small 1.0, entry point acme_small:SmallScorer) raised"),
        ("save_lora 1 boom", "generator 'small' (acme-small 1.0, entry point acme_small:SmallGenerator) raised"),
    ],
)
def test_plugin_that_raises_is_named_and_the_run_resumes_when_it_is_fixed(
    capsys: pytest.CaptureFixture[str], server: Server, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    fault: str, plugin: str,
) -> None:  # fmt: skip
    run = tmp_path / "run"
    break_plugin(monkeypatch, fault)
    code, _, err = dp(capsys, "run", small, "--out", run)
    assert code == 2
    assert "Traceback" not in err
    message, hint = err.splitlines()
    stages = {
        "visual_prompt": "in training step 1",  # in which it is drawn, once for all
        "scorer": "during the evaluation", "save_lora": "while the LoRA was saved",
    }  # fmt: skip
    assert message == f"error: {plugin} ValueError: boom, {stages.get(fault.split()[0], 'in training step 3')}"
    assert "--resume" in hint
    assert f"traceback: {run / TRACEBACK}" in hint
    assert (run / TRACEBACK).read_text().endswith("ValueError: boom\n")
    assert_no_partial_files(run)
    kept = RunFolder.open(run).metrics()
    monkeypatch.delenv("SMALL_FAULT")
    assert dp(capsys, "run", small, "--out", run, "--resume")[0] == 0
    assert RunFolder.open(run).metrics()[: len(kept)] == kept  # including `seconds`: these steps were not repeated
    assert result(run) == result(server.whole)
    assert not (run / TRACEBACK).exists()


def test_plugin_that_raises_outside_a_fit_is_named(
    capsys: pytest.CaptureFixture[str], server: Server, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    commands = {
        "generator": ("generate", server.whole, "a cat", "--out", tmp_path / "drawn"),
        "judge": ("ask", tmp_path / "a.png", "Is it red?", "--judge", "small"),
        "scorer": ("score", tmp_path / "a.png", "--spec", small),
    }
    for kind, command in commands.items():
        break_plugin(monkeypatch, f"{kind} 1 boom")
        code, _, err = dp(capsys, *command)
        assert code == 2
        message, hint = err.splitlines()
        assert message.startswith(f"error: {kind} 'small' (acme-small 1.0, entry point acme_small:Small")
        assert message.endswith(" raised ValueError: boom")
        file = Path(hint.rpartition("traceback: ")[2].removesuffix(")"))
        assert file.read_text().endswith("ValueError: boom\n")
        file.unlink()


def test_dp_score_completes_a_run_whose_evaluation_failed(
    capsys: pytest.CaptureFixture[str], server: Server, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_plugin(monkeypatch, "scorer 1 boom")
    code, _, err = dp(capsys, "run", small, "--out", tmp_path / "run")
    assert code == 2
    assert f"dp score {tmp_path / 'run'}" in err
    code, _, again = dp(capsys, "score", tmp_path / "run")
    assert (code, again.splitlines()[0]) == (2, err.splitlines()[0])
    assert "--resume" in err
    assert "--resume" not in again
    monkeypatch.delenv("SMALL_FAULT")
    assert dp(capsys, "score", tmp_path / "run")[0] == 0
    found, expected = (RunFolder.open(run).read_evaluation() for run in (tmp_path / "run", server.whole))
    assert found is not None
    assert expected is not None
    assert found.trained.judge == pytest.approx(expected.trained.judge, rel=1e-5)


def test_failed_first_check_loses_no_step_and_may_be_made_smaller(
    capsys: pytest.CaptureFixture[str], small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    rarely = ["--set", "train.checkpoint_every=9", "--set", "train.watch.every=3", "--out", run]
    break_plugin(monkeypatch, "referee 1 out of memory")
    _, _, err = dp(capsys, "run", small, *rarely)
    assert "in training step 3" in err
    assert "`--resume` resumes from step 2" in err
    monkeypatch.delenv("SMALL_FAULT")
    code, _, err = dp(capsys, "run", small, *rarely, "--resume", "--set", "train.lr=1")
    assert code == 2
    assert "another spec; different: train.lr" in err
    smaller = ("evaluation.batch=1", "train.watch.images=2", "train.watch.every=4", "train.checkpoint_every=1")
    assert dp(capsys, "run", small, *rarely, "--resume", *(word for one in smaller for word in ("--set", one)))[0] == 0
    assert [record.referee is not None for record in RunFolder.open(run).metrics()] == [False, False, False, True]
    assert RunFolder.open(run).resolved["train"]["watch"] == {"every": 4, "images": 2}


@pytest.mark.usefixtures("small")
def test_dp_score_may_change_how_a_run_is_evaluated_but_not_how_it_was_trained(
    capsys: pytest.CaptureFixture[str], server: Server, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(server.whole, run)
    code, _, err = dp(capsys, "score", run, "--set", "evaluation.seeds=2")
    assert code == 0, err
    evaluation = RunFolder.open(run).read_evaluation()
    assert evaluation is not None
    assert len(evaluation.seeds) == 2 * len(RunFolder.open(server.whole).read_evaluation().seeds)  # type: ignore[union-attr]
    assert RunFolder.open(run).resolved["evaluation"]["seeds"] == 2
    before = result(run)
    code, _, err = dp(capsys, "score", run, "--set", "train.lr=0.5")
    assert code == 2
    assert "another spec; different: train.lr" in err
    assert "evaluation.*" in err
    assert result(run) == before


def test_out_of_memory_error_recommends_dp_plan(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(load_spec(small))
    monkeypatch.setattr("acme_small.fault", lambda _: bytearray(2**62))
    with pytest.raises(DualprocError, match=r"generator 'small' .* raised MemoryError, in training step 1\n.*dp plan"):
        engine.fit(tmp_path / "run")


def test_error_outside_plugins_names_no_plugin(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(load_spec(small))
    monkeypatch.setattr(engine, "reward", lambda answers, _: answers.log_likelihoods.missing)
    with pytest.raises(
        DualprocError, match=r"^AttributeError: 'Tensor' object has no attribute 'missing', in training step 1"
    ):
        engine.fit(tmp_path / "run")
