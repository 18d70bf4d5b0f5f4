"""`train.trackers`: what is logged, and trackers that are missing or fail."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, ClassVar

import pytest
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker
from many_processes import make_spec
from stub_plugins import stubs
from test_cli_run import dp

from dualproc import Engine
from dualproc.errors import DualprocError, DualprocWarning
from dualproc.run import RunFolder
from dualproc.spec import TaskSpec


class Recorder(GeneralTracker):  # type: ignore[misc]
    """A tracker that keeps what it gets, as Accelerate's own are called; it may fail at some step."""

    name = "tensorboard"
    requires_logging_directory = True
    made: ClassVar[list[Recorder]] = []
    fails_at: ClassVar[int] = 0
    starts: ClassVar[bool] = True

    def __init__(self, run_name: str, logging_dir: Path) -> None:
        super().__init__()
        self.folder = Path(logging_dir, run_name)
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.images: dict[str, Any] = {}
        self.settings: dict[str, Any] = {}
        self.finished = False
        self.made.append(self)

    @property
    def tracker(self) -> Recorder:
        return self

    def start(self) -> None:
        if not self.starts:
            raise ConnectionError("no answer from\nthe server")

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.settings = values

    def log(self, values: dict[str, float], step: int, **_: Any) -> None:
        if step == self.fails_at:
            raise TimeoutError("too slow")
        self.logged.append((step, values))

    def log_images(self, values: dict[str, Any], step: int, **_: Any) -> None:
        self.images |= values

    def finish(self) -> None:
        self.finished = True


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> type[Recorder]:
    """The recorder in the place of TensorBoard, which counts as installed."""
    (tmp_path / "packages" / "tensorboard").mkdir(parents=True)
    monkeypatch.syspath_prepend(tmp_path / "packages")
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "tensorboard", Recorder)
    monkeypatch.setattr(Recorder, "made", [])
    return Recorder


def spec(*trackers: str, steps: int = 4) -> TaskSpec:
    return make_spec(trackers=list(trackers), steps=steps, watch={"every": 2, "images": 1})


def test_every_step_the_settings_the_result_and_the_images_are_logged(recorder: type[Recorder], tmp_path: Path) -> None:
    run = Engine(spec("tensorboard"), build=stubs()).fit(tmp_path / "run").run
    (made,) = recorder.made
    assert made.folder == run / "tensorboard"
    steps = [(step, values) for step, values in made.logged if "loss" in values]
    assert [step for step, _ in steps] == [1, 2, 3, 4]
    for (_, values), record in zip(steps, RunFolder.open(run).metrics(), strict=True):
        assert values["loss"] == pytest.approx(record.loss)
    assert ["referee" in values for _, values in steps] == [False, True, False, True]
    assert made.settings["train.lr"] == 0.01
    assert made.settings["prompts.train"] == "['a cat', 'a dog', 'a tree']"
    ((_, result),) = [one for one in made.logged if "evaluation/judge" in one[1]]
    assert result["evaluation/judge"] > 0
    (pixels,) = made.images.values()
    assert pixels.shape[0] == 1
    assert pixels.shape[-1] == 3
    assert made.finished


def test_tracker_that_fails_is_warned_of_once_and_does_not_end_the_fit(
    recorder: type[Recorder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "fails_at", 2)
    with pytest.warns(DualprocWarning, match="tensorboard failed, and is not used any more") as caught:
        result = Engine(spec("tensorboard"), build=stubs()).fit(tmp_path / "run")
    assert len([one for one in caught if "too slow" in str(one.message)]) == 1
    assert result.outcome.steps == 4
    assert any("TimeoutError: too slow" in note for note in result.warnings)
    assert [step for step, _ in recorder.made[0].logged] == [1]


def test_tracker_that_does_not_start_is_one_message_before_the_first_step(
    recorder: type[Recorder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "starts", False)
    with pytest.raises(DualprocError, match="tensorboard does not start: ConnectionError: no answer from the server"):
        Engine(spec("tensorboard"), build=stubs()).fit(tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.skipif(importlib.util.find_spec("trackio") is not None, reason="trackio is installed")
def test_tracker_that_is_not_installed_is_one_message_before_models_are_loaded(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    lost = (
        "--set",
        "train.trackers=[trackio]",
        "--set",
        "generator.type=diffusers",
        "--set",
        "generator.model=/no/such",
    )
    code, _, err = dp(capsys, "run", "attribute", *lost, "--out", tmp_path / "run")
    assert code == 2
    assert "train.trackers: trackio is not installed" in err
    assert "pip install trackio" in err


def test_nothing_is_imported_or_written_without_trackers(tmp_path: Path) -> None:
    run = Engine(spec(steps=1), build=stubs()).fit(tmp_path / "run").run
    assert not (run / "tensorboard").exists()


def test_tensorboard_reads_what_a_fit_logs(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = Engine(spec("tensorboard"), build=stubs()).fit(tmp_path / "run").run
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    assert [one.step for one in events.Scalars("loss")] == [1, 2, 3, 4]
    assert [one.value for one in events.Scalars("loss")] == pytest.approx(
        [record.loss for record in RunFolder.open(run).metrics()]
    )
    assert [one.step for one in events.Scalars("referee")] == [2, 4]
    assert events.Images("base above trained")
    assert list((run / "tensorboard").glob("*/hparams.yml"))
