"""What new users met first: commands to paste, progress without a terminal, notebooks, toys for real generators."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from found_images import dp
from run_examples import record

import dualproc
from dualproc import Engine, load_spec
from dualproc.__main__ import main
from dualproc.cli.progress import Bars, FitBars
from dualproc.engine.notebook import NotebookProgress, in_notebook
from dualproc.errors import DualprocWarning
from dualproc.report import render_report
from dualproc.resolve import toy_mix
from dualproc.run import RunFolder
from dualproc.spec import TaskSpec
from dualproc.wording import command

PACKAGE = Path(dualproc.__file__).parent
SPEC = """\
name: short
prompts: {template: "a cartoon of {subject}", train: [a cat], eval: [an owl]}
question: {template: "Is the sky zorgblat?"}
preserve: {template: "Is this a flumph of {subject}?"}
referee: {type: tiny-referee}
train: {steps: 1, batch: 1, lora: {rank: 2}}
evaluation: {seeds: 1}
"""


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    file = tmp_path / "short.yaml"
    file.write_text(SPEC)
    return file


# --- commands -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["Bäume ü ß/läufe 1", "$HOME/`x`", "it's", 'a "b" \\ c', "runs/plain"])
def test_a_printed_command_can_be_pasted(path: str) -> None:
    line = command("dp", "generate", Path(path), "an owl; rm *", "--seed", 3)
    assert shlex.split(line) == ["dp", "generate", str(Path(path)), "an owl; rm *", "--seed", "3"]
    echoed = subprocess.run(
        ["sh", "-c", f"printf '%s\\n' {line}"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "HOME": "x"},
    )
    assert echoed.stdout.splitlines() == shlex.split(line)
    assert command("dp", "score", "runs/a") == "dp score runs/a"


def test_a_run_prints_progress_lines_and_commands_for_a_folder_with_spaces(
    capsys: pytest.CaptureFixture[str], spec: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "läufe 1"
    code, out, _ = dp(capsys, "run", spec, "--out", folder, "--set", "referee=null")
    assert code == 0
    assert re.search(r"^training: 1 of 1  loss -?\d", out, flags=re.MULTILINE)
    assert "\nevaluating: 2 of 2\n" in out
    (after,) = [line for line in out.splitlines() if line.startswith("  next ")]
    assert shlex.split(after)[1:] == ["dp", "generate", str(folder), "a cartoon of an owl", "--seed", "3", "-n", "4"]
    assert "\nThe judge's P(wanted answer): " in out
    code, out, _ = dp(capsys, "run", spec, "--out", folder, "--set", "referee=null", "--resume")
    assert code == 0
    assert f"(evaluate it again: dp score '{folder}')" in out


def test_no_command_is_built_from_unquoted_words() -> None:
    """`command` quotes; an f-string such as f"dp score {run}" does not."""
    unquoted = re.compile(r"\b(dp (run|generate|score|ask|plan|bench|spec)|cd) [^`'\"\n]*\{(?!command\(|shlex\.)")
    code = {file: file.read_text(encoding="utf-8") for file in PACKAGE.rglob("*.py")}
    assert [f"{file.name}: {found[0]}" for file, text in code.items() for found in unquoted.finditer(text)] == []


# --- progress without a terminal ------------------------------------------------------------------------------------


def test_without_a_terminal_progress_is_a_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    with FitBars(every=0) as bars:
        bars.step(record(1, referee=0.25), 3)
        bars.step(record(2), 3)
        bars.step(record(3, skipped=True), 3)
        bars.images(4, 8)
        bars.images(8, 8)
    lines = capsys.readouterr().out.split("\n")
    assert lines[0] == "training: 1 of 3  loss 1.00 reward 0.50 referee 0.25"
    assert re.fullmatch(r"training: 2 of 3(, .* left)?  loss 0.50 reward 0.50 referee 0.25", lines[1])
    assert lines[2] == "training: 3 of 3  loss 0.33 reward 0.50 referee 0.25 (not finite: skipped)"
    assert lines[3].startswith("evaluating: 4 of 8")
    assert lines[4] == "evaluating: 8 of 8"


def test_lines_keep_their_distance_except_the_last_one(capsys: pytest.CaptureFixture[str]) -> None:
    with Bars(every=3600) as bars:
        bar = bars.add_task("training", total=5, note="")
        for done in range(5):
            bars.move(bar, done)
        bars.more(bar, 1)
        bars.move(bar, 5)  # `dp bench` repeats the last count
    assert capsys.readouterr().out.split() == ["training:", "5", "of", "5"]


def test_nothing_is_printed_beside_json(capsys: pytest.CaptureFixture[str]) -> None:
    with Bars(disable=True, every=0) as bars:
        bars.move(bars.add_task("evaluating", total=1, note=""), 1)
    assert capsys.readouterr().out.strip() == ""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
@pytest.mark.parametrize(("variables", "draws"), [({}, "True"), ({"JPY_PARENT_PID": "1"}, "False")])
def test_bars_are_drawn_in_a_terminal_but_not_in_the_output_of_a_notebooks_command(
    variables: dict[str, str], draws: str
) -> None:
    import pty

    ours, theirs = pty.openpty()
    kept = {name: value for name, value in os.environ.items() if name not in ("JPY_PARENT_PID", "NO_COLOR")}
    code = "from dualproc.cli.progress import can_draw; print('draws', can_draw())"
    environment = {**kept, "TERM": "xterm-color", **variables}
    subprocess.run([sys.executable, "-c", code], stdout=theirs, env=environment, check=True)
    assert os.read(ours, 1000).decode().split() == ["draws", draws]
    os.close(ours)
    os.close(theirs)


def test_bars_are_not_drawn_into_a_file_even_with_forced_colours() -> None:
    code = "from dualproc.cli.progress import can_draw; print(can_draw())"
    environment = {**os.environ, "FORCE_COLOR": "1"}
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert printed.stdout.strip() == "False"


# --- notebooks ------------------------------------------------------------------------------------------------------


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A stand-in for IPython in a kernel; returns what is displayed, each drawing in place of the one before."""
    shown: list[str] = []

    class Handle:
        def update(self, drawn: str) -> None:
            shown.append(drawn)

    def display(_drawn: str, *, display_id: bool) -> Handle:
        assert display_id  # without one, every drawing would stay
        return Handle()

    ipython, displays = types.ModuleType("IPython"), types.ModuleType("IPython.display")
    vars(ipython).update(get_ipython=lambda: types.SimpleNamespace(kernel=object()), display=displays)
    vars(displays).update(HTML=str, display=display)
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", displays)
    return shown


def test_a_script_and_a_terminal_are_no_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    assert not in_notebook()
    terminal = types.ModuleType("IPython")
    vars(terminal).update(get_ipython=lambda: types.SimpleNamespace())
    monkeypatch.setitem(sys.modules, "IPython", terminal)
    assert not in_notebook()


def test_the_bar_of_a_notebook_shows_steps_then_images_and_few_drawings(notebook: list[str]) -> None:
    assert in_notebook()
    bar = NotebookProgress()
    for step in range(1, 101):
        bar.step(record(step, referee=0.25 if step == 1 else None), 100)
    assert notebook[0].startswith('<progress value="1" max="100"></progress> training: 1 of 100')
    assert notebook[-1].endswith("training: 100 of 100  loss 0.01 reward 0.50 referee 0.25")
    assert len(notebook) < 20
    bar.images(1, 2)
    bar.images(2, 2)
    assert notebook[-1] == '<progress value="2" max="2"></progress> evaluating: 2 of 2'
    bar.ending()
    assert "saving and evaluating" in notebook[-1]


# --- toys, and warnings in the report -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("models", "roles"),
    [
        ({}, []),
        ({"generator": {"type": "flux-schnell"}}, ["judge", "referee"]),
        ({"generator": {"type": "flux-schnell"}, "judge": {"type": "qwen2.5-vl"}}, ["referee"]),
        ({"generator": {"type": "sdxl"}, "judge": [{"type": "gemma3"}, {"type": "tiny"}], "referee": None}, ["judge"]),
        ({"generator": {"type": "sdxl"}, "judge": {"type": "qwen2.5-vl"}, "referee": {"type": "smolvlm2"}}, []),
        ({"judge": {"type": "qwen2.5-vl"}}, []),
        ({"generator": {"type": "sdxl"},
          "judge": {"type": "transformers", "model": str(PACKAGE / "weights" / "judge")}, "referee": None}, ["judge"]),
    ],
)  # fmt: skip
def test_a_toy_judge_or_referee_of_another_generator_is_named_with_flags_that_replace_it(
    models: dict[str, Any], roles: list[str], spec: Path
) -> None:
    loaded = load_spec(spec).model_dump(mode="json")
    warned = toy_mix(TaskSpec.model_validate({**loaded, **models}))
    assert bool(warned) == bool(roles)
    if warned is None:
        return
    assert warned.startswith(f"the {' and the '.join(roles)} ")
    flags = shlex.split(warned.split("pretrained models: ")[1].splitlines()[0])
    assert [flag.split("=")[0] for flag in flags if flag != "--set"] == roles
    generator = f"generator={{type: {models['generator']['type']}}}"
    replaced = load_spec(spec, overrides=[generator, *(flag for flag in flags if flag != "--set")])
    pretrained = {"judge": "qwen2.5-vl", "referee": "smolvlm2"}
    assert all(getattr(replaced, role).type == pretrained[role] for role in roles)


def test_a_check_of_the_spec_warns_of_toys(capsys: pytest.CaptureFixture[str], spec: Path) -> None:
    code, out, err = dp(capsys, "spec", "check", spec, "--set", "generator.type=flux-schnell")
    assert code == 0
    assert out.startswith("ok: short")
    assert "warning: the judge and the referee are toy models" in err
    assert dp(capsys, "spec", "check", spec)[2] == ""


def warned_by(call: Callable[[], Any]) -> tuple[Any, list[str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")  # as in Python: once per place
        returned = call()
    return returned, [str(one.message) for one in caught if issubclass(one.category, DualprocWarning)]


def test_a_fit_in_a_notebook_shows_its_progress_and_its_warnings_reach_result_and_report(
    spec: Path, tmp_path: Path, notebook: list[str]
) -> None:
    model = shutil.copytree(PACKAGE / "weights" / "generator", tmp_path / "another")
    loaded = load_spec(spec, overrides=[f"generator={{type: tiny, model: {model}}}"])
    result, shown = warned_by(lambda: Engine(loaded).fit(tmp_path / "run"))
    toys, judge, referee, kept = shown
    assert toys.startswith("the judge and the referee are toy models")
    assert re.fullmatch(r"the judge '.*judge' does not know the words: .*zorgblat\S*", judge)
    assert re.fullmatch(r"the referee '.*referee' does not know the words: .*zorgblat\S*", referee)
    assert re.fullmatch(r"the referee '.*referee' does not know the words: .*flumph.*", kept)
    assert [note.split(" ")[:2] for note in result.warnings] == [text.split(" ")[:2] for text in shown]

    assert notebook[0].startswith('<progress value="1" max="1"></progress> training: 1 of 1  loss')
    assert notebook[-1].endswith("evaluating: 2 of 2")
    assert repr(result).startswith(f"FitResult('{tmp_path / 'run'}': The referee's P(wanted answer):")
    assert "; 1 training step in " in repr(result)
    assert len(repr(result)) < 400
    assert "does not know the words" in result._repr_html_()

    report = render_report(RunFolder.open(tmp_path / "run"))
    assert (tmp_path / "run" / "report.html").read_text() == report
    assert "are toy models" in report
    assert "zorgblat" in report
    assert "the referee &#39;dualproc/weights/referee&#39; does not know the words" in report
    assert str(PACKAGE) not in report

    # Python alone would not show the same warnings again.
    again, shown = warned_by(lambda: Engine(loaded).fit(tmp_path / "again", progress=None))
    assert again.warnings == result.warnings
    assert len(shown) == 4


@pytest.mark.parametrize(
    ("given", "used"), [({}, "1000"), ({"GOMP_SPINCOUNT": "5"}, "5"), ({"OMP_WAIT_POLICY": "ACTIVE"}, None)]
)
def test_waiting_threads_leave_the_core_to_others_unless_the_user_decides(
    given: dict[str, str], used: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, given.get(name, ""))  # so that it is restored
        if name not in given:
            monkeypatch.delenv(name)
    monkeypatch.setattr(sys, "argv", ["dp", "--version"])
    with pytest.raises(SystemExit):
        main()
    assert os.environ.get("GOMP_SPINCOUNT") == used
    assert capsys.readouterr().out.startswith("dualproc ")
