"""The run folder: who may write it, what survives a crash, what is refused and what to do about it."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from run_examples import SPEC, evaluation, measurement, record

from dualproc.errors import RunError
from dualproc.run import RunFolder, environment
from dualproc.run.files import as_run_error, read_text, write_atomically
from dualproc.run.folder import WEIGHTS
from dualproc.run.lock import FolderLock


def create(path: Path, resolved: str = SPEC, **options: bool) -> RunFolder:
    return RunFolder.create(path, spec_text="name: line_weight\n", resolved_text=resolved, **options)


def test_a_new_run_has_its_spec_and_environment(tmp_path: Path) -> None:
    with create(tmp_path / "runs" / "thick") as run:
        assert (run.path / "spec.yaml").read_text() == "name: line_weight\n"
        assert (run.path / "spec.resolved.yaml").read_text() == SPEC
        assert json.loads((run.path / "env.json").read_text()) == environment()
        assert {path.name for path in run.path.iterdir() if path.is_dir()} == {"samples", "checkpoints"}


def test_the_environment_names_versions_but_neither_user_nor_host() -> None:
    found = environment()
    assert found["torch"] == torch.__version__.split("+")[0]
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert os.uname().nodename not in json.dumps(found)


def test_metrics_come_back_and_non_numbers_are_null(tmp_path: Path) -> None:
    first = record(1, referee=0.5, hack_meter=0.031)
    with create(tmp_path) as run:
        run.log(first)
        run.log(record(2, loss=math.nan, grad_norm=math.inf, skipped=True))
        assert run.metrics()[0] == first
    second = RunFolder.open(tmp_path).metrics()[1]
    assert math.isnan(second.loss)
    assert math.isnan(second.grad_norm)
    assert second.skipped
    assert second.referee is None
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[1], parse_constant=pytest.fail)["loss"] is None


def test_a_line_cut_short_by_a_crash_is_left_out_but_other_damage_is_named(tmp_path: Path) -> None:
    with create(tmp_path) as run:
        run.log(record(1))
        metrics = tmp_path / "metrics.jsonl"
        metrics.write_text(metrics.read_text() + '{"step": 2, "lo')
        assert [one.step for one in run.metrics()] == [1]
        metrics.write_text('{"step": 1}\n' + metrics.read_text())
        with pytest.raises(RunError, match=r"metrics\.jsonl:1 is damaged"):
            run.metrics()


def test_the_evaluation_comes_back_without_loss(tmp_path: Path) -> None:
    with create(tmp_path) as run:
        assert run.read_evaluation() is None
        unasked = {"referee": None, "preserved": None}
        wanted = evaluation(measurement(**unasked), **unasked)
        run.write_evaluation(wanted)
        found = run.read_evaluation()
    assert found is not None
    assert found.base == wanted.base
    assert (found.prompts, found.seeds) == (wanted.prompts, wanted.seeds)
    assert math.isnan(found.trained.scores[0].values[3])
    assert repr(found) == repr(wanted)  # nan differs from itself, its text does not


@pytest.mark.parametrize("text", ["{", "[]", '{"prompts": 3}', '{"prompts": [], "seeds": [], "base": {}}'])
def test_a_damaged_evaluation_is_named(tmp_path: Path, text: str) -> None:
    with create(tmp_path) as run:
        (tmp_path / "evaluation.json").write_text(text)
        with pytest.raises(RunError, match=r"evaluation\.json is damaged"):
            run.read_evaluation()


# --- what is refused ------------------------------------------------------------------------------------------------


def test_a_second_run_is_refused_unless_it_replaces_or_resumes_the_first(tmp_path: Path) -> None:
    create(tmp_path).close()
    with pytest.raises(RunError, match="already has a run") as caught:
        create(tmp_path)
    assert caught.value.hint is not None
    assert all(option in caught.value.hint for option in ("`resume=True`", "`overwrite=True`", "`out`"))
    assert "--" not in str(caught.value)
    with pytest.raises(RunError, match="use one of them"):
        create(tmp_path, resume=True, overwrite=True)


def test_a_run_started_just_before_the_lock_was_acquired_is_not_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(folder: Path) -> FolderLock:
        (folder / "spec.resolved.yaml").write_text(SPEC)  # by another process, meanwhile
        return FolderLock(folder)

    monkeypatch.setattr("dualproc.run.folder.FolderLock", slow)
    with pytest.raises(RunError, match="already has a run"):
        create(tmp_path)
    assert not (tmp_path / "spec.yaml").exists()


def test_overwrite_deletes_the_earlier_run_and_nothing_else(tmp_path: Path) -> None:
    with create(tmp_path) as run:
        run.log(record(1))
        run.save_checkpoint(1, {"a": torch.ones(1)}, {})
        run.write("report.html", "old")
    (tmp_path / "notes.txt").write_text("mine")
    with create(tmp_path, overwrite=True) as run:
        assert run.metrics() == []
        assert run.latest_checkpoint() is None
    assert not (tmp_path / "report.html").exists()
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("overwrite", [False, True])
def test_files_that_are_not_a_runs_are_never_touched(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "README.md").write_text("a project's own")
    with pytest.raises(RunError, match=r"is not a run, but has files .*: README\.md"):
        create(tmp_path, overwrite=overwrite)
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "thick").write_text("")
    with pytest.raises(RunError, match="thick is a file"):
        create(tmp_path / "thick")
    with pytest.raises(RunError, match="cannot make the folder") as caught:
        create(tmp_path / "thick" / "inner")
    assert "`out`" in (caught.value.hint or "")


def test_a_folder_in_use_is_refused_until_its_writer_is_gone(tmp_path: Path) -> None:
    code = (
        "import sys; from dualproc.run import RunFolder\n"
        "run = RunFolder.create(sys.argv[1], spec_text='', resolved_text='name: a\\n')\n"
        "print('locked', flush=True); sys.stdin.read()"
    )
    writer = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == "locked\n"
    with pytest.raises(
        RunError, match=rf"in use by another run \(process {writer.pid}, since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d\)"
    ):
        create(tmp_path, overwrite=True)
    writer.kill()  # as a crash: nothing is cleaned up
    writer.communicate()
    create(tmp_path, overwrite=True).close()


def test_a_refused_start_leaves_the_folder_unlocked(tmp_path: Path) -> None:
    create(tmp_path).close()
    with pytest.raises(RunError):
        create(tmp_path)
    create(tmp_path, resume=True).close()


# --- reading --------------------------------------------------------------------------------------------------------


def test_opening_a_folder_without_a_run_says_why_and_lists_runs(tmp_path: Path) -> None:
    create(tmp_path / "line_weight" / "thin").close()
    create(tmp_path / "line_weight" / "thick").close()
    with pytest.raises(RunError, match=r"line_weight is not a run: it has no spec\.resolved\.yaml") as caught:
        RunFolder.open(tmp_path / "line_weight")
    assert f"{tmp_path}/line_weight/thick, {tmp_path}/line_weight/thin" in str(caught.value)
    with pytest.raises(RunError, match="no such folder") as caught:
        RunFolder.open(tmp_path / "line_weight" / "thicc")
    assert "line_weight/thick" in str(caught.value)
    with pytest.raises(RunError, match=rf"not finished: it has no {WEIGHTS}"):
        RunFolder.open(tmp_path / "line_weight" / "thin", needs=[WEIGHTS])


def test_an_evaluation_of_an_earlier_version_is_refused_with_the_command_that_repeats_it(tmp_path: Path) -> None:
    with create(tmp_path) as run:
        run.write_evaluation(evaluation())
        path = tmp_path / "evaluation.json"
        path.write_text(path.read_text().replace('"trained"', '"changed"').replace("sha256", "other"))
        with pytest.raises(RunError, match="from another version of dualproc: trained") as caught:
            run.read_evaluation()
    assert caught.value.hint == f"evaluate the run again: dp score {tmp_path}"


def test_a_run_can_be_read_while_it_is_written(tmp_path: Path) -> None:
    with create(tmp_path) as run:
        run.log(record(1))
        assert RunFolder.open(tmp_path).metrics() == [record(1)]


# --- checkpoints and resuming -----------------------------------------------------------------------------------------


def test_checkpoints_are_read_back_and_the_newest_two_kept(tmp_path: Path) -> None:
    shared = torch.arange(6.0).reshape(2, 3)
    with create(tmp_path) as run:
        for step in (5, 10, 100):
            run.save_checkpoint(step, {"a": shared * step, "view": shared.T, "same": shared}, {"seen": [step, "x"]})
        assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"checkpoint-10", "checkpoint-100"}
        found = run.latest_checkpoint()
    assert found is not None
    step, tensors, state = found
    assert (step, state) == (100, {"seen": [100, "x"]})
    assert torch.equal(tensors["a"], shared * 100)
    assert torch.equal(tensors["view"], shared.T)
    assert torch.equal(tensors["same"], shared)


def test_a_crash_while_saving_leaves_the_earlier_checkpoint(tmp_path: Path) -> None:
    with create(tmp_path) as run:
        run.save_checkpoint(1, {"a": torch.ones(2)}, {})
        with pytest.raises(TypeError):
            run.save_checkpoint(2, {"a": torch.zeros(2)}, {"no": object()})
        found = run.latest_checkpoint()
        assert found is not None
        assert found.step == 1
        run.save_checkpoint(2, {"a": torch.zeros(2)}, {})
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"checkpoint-1", "checkpoint-2"}


@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json"])
def test_a_damaged_checkpoint_is_refused_and_the_earlier_one_named(tmp_path: Path, name: str) -> None:
    with create(tmp_path) as run:
        run.save_checkpoint(1, {"a": torch.ones(2)}, {})
        run.save_checkpoint(2, {"a": torch.ones(2)}, {})
        (tmp_path / "checkpoints" / "checkpoint-2" / name).write_bytes(b"\x00half")
        with pytest.raises(RunError, match="checkpoint-2 is damaged") as caught:
            run.latest_checkpoint()
    assert "continue from checkpoint-1" in (caught.value.hint or "")


def test_resume_drops_the_steps_that_will_be_repeated(tmp_path: Path) -> None:
    with create(tmp_path) as run:
        for step in range(1, 6):
            run.log(record(step))
            if step == 3:
                run.save_checkpoint(step, {}, {})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')
    with create(tmp_path, resume=True) as run:
        assert [one.step for one in run.metrics()] == [1, 2, 3]
        run.log(record(4))
        assert [one.step for one in run.metrics()] == [1, 2, 3, 4]


def test_resume_starts_a_new_run_where_there_is_none(tmp_path: Path) -> None:
    with create(tmp_path / "new", resume=True) as run:
        assert run.latest_checkpoint() is None


def test_resume_is_refused_for_another_spec_naming_the_keys(tmp_path: Path) -> None:
    create(tmp_path).close()
    create(tmp_path, resolved=SPEC.replace("1e-4", "0.0001"), resume=True).close()  # the same number
    other = SPEC.replace("1e-4", "5e-5").replace("answer: Yes}\ntrain", "answer: No}\ntrain")
    with pytest.raises(RunError, match=r"different: preserve\.answer, train\.lr\n") as caught:
        create(tmp_path, resolved=other, resume=True)
    assert "`overwrite=True`" in (caught.value.hint or "")
    assert RunFolder.open(tmp_path).resolved["train"] == {"steps": 4, "lr": 1e-4}


def test_a_run_of_an_earlier_version_lacks_keys_and_has_their_defaults(tmp_path: Path) -> None:
    from dualproc.spec import TaskSpec, to_yaml

    line = {"type": "line", "from": [0, 0.5], "to": [1, 0.5], "width": 0.02}
    given = {"name": "x", "prompts": {"train": ["a cat"], "eval": ["a dog"]}, "visual_prompt": {"layers": [line]},
             "question": {"template": "Is the sky blue?", "answer": "Yes"}}  # fmt: skip
    today = to_yaml(TaskSpec.model_validate(given))
    earlier = "".join(
        text
        for text in today.splitlines(True)
        if text.split(":")[0].strip() not in ("hidden", "lr_decay", "accumulate")
    )
    assert earlier.count("\n") == today.count("\n") - 3
    create(tmp_path, resolved=earlier).close()
    create(tmp_path, resolved=today, resume=True).close()
    with pytest.raises(RunError, match=r"different: train\.lr_decay\n"):
        create(tmp_path, resolved=today.replace("lr_decay: 0.0", "lr_decay: 0.5"), resume=True)


# --- writing --------------------------------------------------------------------------------------------------------


def test_a_full_disk_leaves_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "evaluation.json"
    write_atomically(path, "old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(RunError, match=r"cannot write .*evaluation\.json: File too large"):
            write_atomically(path, "x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["evaluation.json"]


@pytest.mark.parametrize(("action", "advice"), [("read", "that you may read it"), ("write", "`out`")])
def test_the_hint_of_a_failure_fits_what_was_tried(tmp_path: Path, action: str, advice: str) -> None:
    other = {"read": "`out`", "write": "that you may read it"}[action]
    for number in (errno.EACCES, errno.EROFS, errno.EIO):
        message = re.escape(f"cannot {action} {tmp_path}: {os.strerror(number)}")
        with pytest.raises(RunError, match=message) as caught, as_run_error(action, tmp_path):
            raise OSError(number, os.strerror(number))
        assert advice in (caught.value.hint or "")
        assert other not in (caught.value.hint or "")


def test_a_missing_text_file_is_an_error_without_advice_about_the_output_folder(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"cannot read .*a\.json: No such file") as caught:
        read_text(tmp_path / "a.json")
    assert "`out`" not in (caught.value.hint or "")


def test_a_folder_that_cannot_be_written_is_named() -> None:
    with pytest.raises(RunError, match=r"cannot make the folder /proc/dualproc: "):
        create(Path("/proc/dualproc"))


def test_importing_the_package_loads_no_torch() -> None:
    code = "import sys, dualproc.run; print([name for name in ('torch', 'PIL', 'numpy') if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
