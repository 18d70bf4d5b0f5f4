"""`dp ui` without a browser: the functions behind its pages, and what a crafted request cannot do."""

from __future__ import annotations

import inspect
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from found_images import dp

from dualproc import Engine
from dualproc.errors import DualprocError, RunError, SpecError
from dualproc.resolve import load_spec
from dualproc.run.lock import FolderLock
from dualproc.spec import shipped_specs
from dualproc.ui import layers as layers_of
from dualproc.ui import runs as runs_of
from dualproc.ui import task
from dualproc.ui.guard import Guard
from dualproc.ui.models import Models
from dualproc.ui.queue import Queue

HAS_GRADIO = find_spec("gradio") is not None
SHORT = ("train.steps=2", "train.batch=1", "train.lora.rank=2", "evaluation.seeds=1", "prompts.eval=[an owl]")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A runs folder with two runs of two steps: a variant of `horizon`, and a slider."""
    folder = tmp_path_factory.mktemp("runs")
    Engine(load_spec("horizon", variant="low", overrides=SHORT)).fit(folder / "horizon" / "low")
    Engine(load_spec("sliders/horizon", overrides=SHORT)).fit(folder / "horizon_slider")
    return folder


# --- Task -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(shipped_specs()))
def test_every_shipped_spec_is_a_start_and_its_form_changes_nothing(name: str, tmp_path: Path) -> None:
    text = task.shipped_text(name, tmp_path)
    found = task.check(text, tmp_path)
    assert found.message.startswith("ok: ")
    form = task.form(text)
    assert form is not None
    again = task.with_prompts(text, "train", form.train) if form.train else text
    again = task.with_questions(again, form.questions) if form.questions[0][0] else again
    again = task.with_layers(again, form.layers, form.blend, form.opacity)
    variant = found.variants[0] if found.variants else None
    assert task.check(again, tmp_path).chosen(variant).require() == found.chosen(variant).require()


def test_empty_task_is_a_valid_spec(tmp_path: Path) -> None:
    found = task.check(task.EMPTY, tmp_path)
    assert (found.message, found.problems) == ("ok: my_task can be trained", ())


def test_words_that_the_shipped_generator_does_not_know_are_named_at_their_field(tmp_path: Path) -> None:
    text = task.EMPTY.replace("a snail]", "a Walrus, a Snail]").replace("a rabbit", "a fox")
    found = task.check(text, tmp_path)
    assert found.loaded is not None  # a warning, not a mistake
    assert found.message.startswith("ok: my_task can be trained\nwarning: prompts.train: ")
    at_train, at_eval = (task.mistakes_at(found.problems, field) for field in ("train", "eval"))
    assert at_train.startswith("the shipped generator does not know the words: walrus: it knows a cat, ")
    assert at_eval.startswith("the shipped generator does not know the words: fox: it knows a sheep, ")
    other = text.replace("generator: {type: tiny}", "generator: {type: sdxl-turbo}")
    assert "walrus" not in task.check(other, tmp_path).message
    assert not task.check(other, tmp_path).problems


def test_mistakes_are_those_of_spec_check_with_their_line(tmp_path: Path) -> None:
    text = task.EMPTY.replace("steps: 100", "steps: many").replace("type: tiny}", "type: tinny}", 1)
    found = task.check(text, tmp_path)
    assert found.loaded is None
    assert found.message.startswith("2 mistakes in the spec:\nline 16:19: generator.type: no generator plugin")
    assert "\nline 22:16: train.steps: " in found.message
    assert str(tmp_path) not in found.message
    with pytest.raises(DualprocError, match="has mistakes"):
        found.chosen(None)


def test_hostile_text_gives_a_message(tmp_path: Path) -> None:
    for text in (
        "a: &x [1]\nb: *x",
        "[" * 100_000,
        "a: " + "x" * 1_100_000,
        "a: !!python/object/apply:os.system [ls]",
        "\0",
    ):
        assert task.check(text, tmp_path).loaded is None
        with suppress(DualprocError):
            task.with_value(text, "name", "x")


def test_form_edits_the_text_and_the_text_the_form(tmp_path: Path) -> None:
    text = task.with_value(task.EMPTY, "train.steps", 7)
    text = task.with_prompts(text, "train", "a cat\n\n{subject: a dog}\n")
    text = task.with_questions(text, [["Is it red?", "Yes | yes"], ["", ""], ["Is it {subject}?", ""]])
    text = task.with_plugin(text, "referee", "")
    text = task.with_plugin(text, "generator", "sdxl")
    text = task.with_layers(text, [["line", "from: [0, .5], to: [1, .5], width: 0.02"]], "alpha", 0.3)
    text = task.with_preview(text, 5)
    form = task.form(text)
    assert form is not None
    assert (form.steps, form.train, form.referee, form.generator, form.preview) == (
        7, "a cat\n{subject: a dog}", "", "sdxl", 5,
    )  # fmt: skip
    assert form.questions == [["Is it red?", "Yes | yes"], ["Is it {subject}?", "Yes"]]
    assert (form.layers, form.blend, form.opacity) == (
        [["line", "from: [0, 0.5], to: [1, 0.5], width: 0.02"]],
        "alpha",
        0.3,
    )
    spec = task.check(text, tmp_path).chosen(None).require()
    assert spec.questions[0].answer == ("Yes", "yes")
    assert task.with_layers(text, [], "solid", 0.5).endswith("visual_prompt: null\n")
    assert task.form(task.with_preview(text, 0)).preview == 0  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", list(task.LAYERS))
def test_every_new_layer_is_valid(kind: str, tmp_path: Path) -> None:
    text = task.with_layers(task.EMPTY, [[kind, task.LAYERS[kind]]], "solid", 0.5)
    assert task.check(text, tmp_path).message.startswith("ok: ")


def test_mistakes_are_found_at_their_field(tmp_path: Path) -> None:
    text = task.EMPTY.replace("steps: 100", "steps: many").replace("type: tiny}", "type: tinny}", 1)
    text = task.with_prompts(task.with_value(text, "name", "../x"), "eval", "a cat")
    text = task.with_layers(text, [["line", "from: [0, 0]"]], "solid", 0.5)
    problems = task.check(text, tmp_path).problems
    shown = {field: task.mistakes_at(problems, field) for field in task.FIELDS}
    assert {field for field, mistakes in shown.items() if mistakes} >= {"name", "models", "numbers", "layers"}
    assert shown["name"].startswith("expected a name of letters")
    assert shown["template"] == shown["train"] == ""
    every = [one for mistakes in shown.values() for one in mistakes.splitlines()]
    assert len(every) == len(set(every))


def test_suffix_reward_scorers_and_jitter_are_fields(tmp_path: Path) -> None:
    text = task.with_suffix(task.EMPTY, "Say it.")
    text = task.with_plugin(text, "reward", "answer_likelihood")
    text = task.with_scorers(text, [["horizon", "target: 0.62, tolerance: 0.05"]])
    text = task.with_layers(text, [["line", task.LAYERS["line"]]], "solid", 0.5)
    text = task.with_jitter(text, "y", 0.1)
    form = task.form(text)
    assert form is not None
    assert (form.suffix, form.reward, form.jitter_x, form.jitter_y) == ("Say it.", "answer_likelihood", 0, 0.1)
    spec = task.check(text, tmp_path).chosen(None).require()
    assert [question.suffix for question in spec.questions] == ["Say it."] * 2
    assert [one.params for one in spec.scorers] == [{"target": 0.62, "tolerance": 0.05}]
    assert spec.visual_prompt.jitter.y == (-0.1, 0.1)  # type: ignore[union-attr]
    assert "suffix" not in task.with_suffix(text, " ")


def test_hidden_layer_is_kept_in_the_spec_and_not_drawn(tmp_path: Path) -> None:
    texts = [task.EMPTY]
    for params in (task.LAYERS["line"], task.LAYERS["line"] + ", hidden: true"):
        texts.append(task.with_layers(task.EMPTY, [["line", params]], "solid", 0.5))
    specs = [task.check(text, tmp_path).chosen(None).require() for text in texts]
    models = Models()
    plain, line, hidden = (models.look(spec, spec.prompts.train_prompts()[0], 0) for spec in specs)
    assert plain.seen.tobytes() == hidden.seen.tobytes() != line.seen.tobytes()


def test_what_a_model_writes_is_marked_in_the_description(tmp_path: Path) -> None:
    text = task.with_written(task.EMPTY, [("Is {subject} red?", "Yes")], "m at host")
    text = task.with_written_prompts(text, ["a fox"], "m at host")
    spec = task.check(text, tmp_path).chosen(None).require()
    assert spec.questions[-1].template == "Is {subject} red?"
    assert spec.prompts.train[-1] == "a fox"
    assert "Questions written by m at host: Is (subject) red?" in spec.description
    assert "Training prompts written by m at host: a fox" in spec.description


def test_instruction_is_a_file_that_can_be_changed_but_not_a_link_out_of_the_folder(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    assert "{prompt}" in task.instruction("questions", runs)
    file = runs / "specs" / "write_questions.txt"
    file.write_text("mine")
    assert task.instruction("questions", runs) == "mine"
    (tmp_path / "secret").write_text("secret")
    file.unlink()
    file.symlink_to(tmp_path / "secret")
    with pytest.raises(DualprocError, match="leads out of the runs folder"):
        task.instruction("questions", runs)
    other = tmp_path / "other"
    other.mkdir()
    (tmp_path / "outside").mkdir()
    (other / "specs").symlink_to(tmp_path / "outside")
    with pytest.raises(DualprocError, match="leads out of the runs folder"):
        task.instruction("questions", other)
    assert list((tmp_path / "outside").iterdir()) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 KiB with a full file on it; skipped where this process may not mount one."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = shutil.which("mount")
    if (
        mount is None
        or subprocess.run([mount, "-t", "tmpfs", "-o", "size=256k", "x", folder], capture_output=True).returncode
    ):
        pytest.skip("this process may not mount a disk")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_full_disk_is_one_message_and_loses_nothing(small_disk: Path) -> None:
    file = task.save(task.EMPTY, small_disk)
    with suppress(OSError), open(small_disk / "filler", "wb") as filler:
        while True:
            filler.write(b"x" * 4096)
            filler.flush()
    longer = task.EMPTY + "# " + "x" * 8000 + "\n"
    with pytest.raises(RunError, match="No space left on device"):
        task.save(longer, small_disk)
    spec = task.check(longer, small_disk).chosen(None).require()
    with pytest.raises(RunError, match="No space left on device"):
        Queue(small_disk).add(longer, spec, None)
    with pytest.raises(RunError, match="No space left on device"):
        layers_of.stroke(
            small_disk / "specs", [(0.1, 0.1), (0.9, 0.9)], color="red", thickness=0.1, aspect=1, onto=None
        )
    assert file.read_text() == task.EMPTY
    (small_disk / "filler").unlink()
    assert task.save(longer, small_disk).read_text() == longer
    assert sorted(one.name for one in (small_disk / "specs").iterdir()) == ["images", "my_task.yaml"]


def test_questions_keep_the_keys_that_the_form_does_not_show() -> None:
    text = task.EMPTY.replace('blue?", answer: Yes', 'blue?", answer: Yes, suffix: "Say it."')
    changed = task.with_questions(text, [["Is this {subject}?", "Yes"], ["Is the sky blue?", "No"]])
    assert "Say it" in changed.splitlines()[11]


def test_broken_yaml_has_no_form_and_wrong_parameters_of_a_layer_say_so() -> None:
    assert task.form("a: [") is None
    with pytest.raises(DualprocError, match="layer `line` are not valid YAML"):
        task.with_layers(task.EMPTY, [["line", "from: [0"]], "solid", 0.5)


def test_saved_spec_and_its_command(tmp_path: Path) -> None:
    file = task.save(task.EMPTY, tmp_path)
    assert file == tmp_path / "specs" / "my_task.yaml"
    assert load_spec(file).name == "my_task"
    words = task.run_command(task.shipped_text("horizon", tmp_path), "low", tmp_path).split()
    assert words[:2] == ["dp", "run"]
    assert words[2:] == [f"{tmp_path}/specs/horizon.yaml", "--variant", "low", "--out", f"{tmp_path}/horizon/low"]
    assert task.run_command("a: [", None, tmp_path) == ""


@pytest.mark.parametrize("name", ["../outside", "/etc/x", "a/b"])
def test_spec_with_a_name_that_is_a_path_is_not_saved(name: str, tmp_path: Path) -> None:
    with pytest.raises(DualprocError, match="has mistakes"):
        task.save(task.EMPTY.replace("my_task", name), tmp_path)
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.parametrize("path", ["/etc/hostname", "../secret.png", "link.png"])
def test_spec_cannot_name_a_file_outside_its_folder(path: str, tmp_path: Path) -> None:
    (tmp_path / "runs" / "specs").mkdir(parents=True)
    (tmp_path / "secret.png").write_bytes(b"x")
    (tmp_path / "runs" / "specs" / "link.png").symlink_to(tmp_path / "secret.png")
    text = task.with_layers(task.EMPTY, [["image", f"path: {path}"]], "solid", 0.5)
    assert task.check(text, tmp_path / "runs").loaded is None
    assert task.check(f"extends: {path}\n", tmp_path / "runs").loaded is None


# --- Visual prompt, Ask -----------------------------------------------------------------------------------------


def test_models_are_loaded_once_and_follow_the_visual_prompt() -> None:
    models = Models()
    low, high = (load_spec("horizon", variant=name) for name in ("low", "high"))
    prompt = low.prompts.train_prompts()[0]
    first, second = models.look(low, prompt, 0), models.look(high, prompt, 0)
    assert first.base.tobytes() == second.base.tobytes()
    assert first.seen.tobytes() != second.seen.tobytes()
    assert first.base.size == (320, 320)
    assert [row[1] for row in first.rows] == ["Yes", "Yes"]
    assert first.rows[0][2] != second.rows[0][2]
    judge = models._evaluators.judge  # type: ignore[union-attr]
    assert models.audit(low, 4).findings is not None
    assert models._evaluators.judge is judge  # type: ignore[union-attr]


# --- Runs -------------------------------------------------------------------------------------------------------


def test_runs_are_listed_drawn_and_reported(trained: Path) -> None:
    names = ["horizon/low", "horizon_slider"]
    assert runs_of.finished(trained) == names[::-1]  # the newest first
    assert [row[:2] for row in runs_of.table(trained)] == [[name, "2 of 2"] for name in names]
    assert [name for _, name in runs_of.gallery(trained)] == names
    assert "held-out" in runs_of.report(names[:1], trained)
    assert "Nothing" not in runs_of.report(names, trained)
    assert list(runs_of.sliders("horizon_slider", trained)) == ["row"]
    assert runs_of.sliders("horizon/low", trained) == {}
    models = Models()

    def draw(strength: float, **values: float) -> bytes:
        drawn = models.draw(trained / "horizon_slider", "a cartoon of a cat", [3], strength=strength, values=values)
        return drawn[0].tobytes()

    assert draw(0.0) == draw(0.0, row=0.3, unknown=1.0)
    assert draw(1.0) != draw(0.0)


@pytest.mark.parametrize("name", ["..", "../x", "/etc", "horizon", "", "horizon/../horizon/low"])
def test_only_listed_runs_can_be_read_or_deleted(name: str, trained: Path) -> None:
    for use in (runs_of.run_at, runs_of.delete, runs_of.sliders, lambda name, folder: runs_of.report([name], folder)):
        with pytest.raises(RunError, match="no run is called"):
            use(name, trained)  # type: ignore[operator]


def test_runs_in_hidden_folders_are_not_listed_but_the_runs_folder_may_be_in_one(tmp_path: Path) -> None:
    folder = tmp_path / ".cache" / "runs"
    for name in ("a", ".aside-b"):
        (folder / name).mkdir(parents=True)
        (folder / name / "spec.resolved.yaml").write_text("name: a")
    assert runs_of.find_runs(folder) == [folder / "a"]


def test_run_behind_a_link_is_not_listed(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(trained / "horizon")
    assert runs_of.find_runs(tmp_path) == []


def test_run_that_is_being_written_is_not_deleted(tmp_path: Path) -> None:
    folder = tmp_path / "busy"
    folder.mkdir()
    (folder / "spec.resolved.yaml").write_text("name: busy")
    lock = FolderLock(folder)
    with pytest.raises(RunError, match="in use"):
        runs_of.delete("busy", tmp_path)
    lock.release()
    runs_of.delete("busy", tmp_path)
    assert runs_of.find_runs(tmp_path) == []


# --- Train ------------------------------------------------------------------------------------------------------


def test_fit_waits_while_another_process_writes_a_run_and_can_be_taken_out(tmp_path: Path) -> None:
    busy = tmp_path / "busy"
    busy.mkdir()
    (busy / "spec.resolved.yaml").write_text("name: busy\ntrain: {steps: 5}\n")
    lock = FolderLock(busy)
    queue = Queue(tmp_path)
    spec = task.check(task.EMPTY, tmp_path).chosen(None).require()
    fit = queue.add(task.EMPTY, spec, None)
    assert (fit.state, fit.process) == ("waiting", None)
    assert "one fit runs at a time" in queue.status(fit.job.folder)
    assert queue.status(busy) == "training in another process: 0 of 5 training steps"
    with pytest.raises(RunError, match="already in the queue"):
        queue.add(task.EMPTY, spec, None)
    assert queue.stop(fit.job.folder) == "taken out of the queue"
    queue.poll()
    assert (fit.state, fit.process) == ("stopped", None)
    with pytest.raises(RunError, match="not a `dp run` that can be stopped from here"):
        queue.stop(busy)  # the process of this test holds it
    lock.release()
    assert queue.stop(busy) == "nothing to stop: this run is not being trained"


@pytest.mark.parametrize("holder", ["process 1, since then", "process 99999999, since then", "process x", "", None])
def test_only_a_process_that_holds_the_lock_is_stopped(holder: str | None, tmp_path: Path) -> None:
    busy = tmp_path / "busy"
    busy.mkdir()
    (busy / "spec.resolved.yaml").write_text("name: busy\ntrain: {steps: 5}\n")
    lock = FolderLock(busy)
    (busy / ".lock-holder").unlink()
    if holder is not None:
        (busy / ".lock-holder").write_text(holder)
    with pytest.raises(RunError, match=r"no process of this machine|not a `dp run`"):
        Queue(tmp_path).stop(busy)
    lock.release()


@pytest.mark.skipif(
    not Path("/proc/self/fd").is_dir(), reason="the system does not tell which files a process has open"
)
def test_run_of_a_terminal_is_stopped_after_its_step_and_can_be_resumed(tmp_path: Path) -> None:
    text = task.with_value(task.with_value(task.EMPTY, "train.steps", 500), "evaluation", {"seeds": 1})
    text = task.with_prompts(task.with_value(text, "train.batch", 1), "eval", "an owl")
    file = task.save(text, tmp_path)
    folder = tmp_path / "my_task"
    words = [sys.executable, "-m", "dualproc", "run", str(file), "--out", str(folder)]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    queue = Queue(tmp_path)
    try:
        deadline = time.monotonic() + 120
        while "training in another process: " not in queue.status(folder) or ": 0 of" in queue.status(folder):
            assert time.monotonic() < deadline, queue.status(folder)
            assert process.poll() is None
            time.sleep(0.2)
        for _ in range(2):  # the second click does not end it at once
            assert queue.stop(folder).startswith("stopping after this training step")
        assert process.wait(120) == 130
    finally:
        process.kill()
    assert "resume it to continue" in queue.status(folder)
    assert (folder / "pytorch_lora_weights.safetensors").is_file()


def test_fit_of_another_spec_in_a_run_folder_is_refused(trained: Path) -> None:
    text = task.shipped_text("horizon", trained)
    spec = task.check(text, trained).chosen("low").require()
    with pytest.raises(RunError, match="another spec") as refused:
        Queue(trained).add(text, spec, "low")
    assert "another name" in str(refused.value)  # not the arguments of the library


def test_list_of_starts_left_without_a_choice_changes_nothing(tmp_path: Path) -> None:
    pytest.importorskip("gradio")
    from dualproc.ui.actions import Page

    page = Page(tmp_path)
    unchanged = page.started(None)
    assert all("__type__" in one for one in unchanged)  # updates that change nothing
    assert len(unchanged) == len(page.started("an empty task"))


def test_paraphrases_go_with_the_text_that_they_are_of() -> None:
    text = task.EMPTY.replace('blue?", answer: Yes', 'blue?", paraphrases: ["Is there a blue sky?"], answer: Yes')
    assert "Is there a blue sky?" in task.with_questions(text, [["Is the sky blue?", "No"]])
    assert "Is there a blue sky?" not in task.with_questions(text, [["Is the sky green?", "Yes"]])


def test_question_of_the_list_is_added_once(tmp_path: Path) -> None:
    pytest.importorskip("gradio")
    from dualproc.ui.actions import Page

    page, question = Page(tmp_path), task.known_questions()[-1]
    rows = task.form(task.EMPTY).questions  # type: ignore[union-attr]
    text = page.asked_too(task.EMPTY, rows, question)[0]
    assert task.form(text).questions == [*rows, [question, "Yes"]]  # type: ignore[union-attr]
    unchanged = page.asked_too(text, [*rows, [question, "Yes"]], question)
    assert "__type__" in unchanged[0]  # an update that changes nothing
    assert len(unchanged) == len(page.asked_too(task.EMPTY, rows, question))


def test_an_unexpected_error_is_a_message_too() -> None:
    gradio = pytest.importorskip("gradio")
    from dualproc.ui.page import said

    with pytest.raises(gradio.Error, match=r"unexpected ZeroDivisionError: .*the terminal"):
        said(lambda: 1 / 0)()


def test_status_of_finished_and_missing_runs(trained: Path) -> None:
    queue = Queue(trained)
    assert queue.status(trained / "horizon" / "low").startswith("finished: 2 training steps in ")
    assert queue.progress(trained / "horizon" / "low") == 1.0
    assert queue.status(trained / "none") == "no run yet"


@pytest.mark.nightly
def test_two_fits_run_one_after_the_other_and_stop_and_resume(tmp_path: Path) -> None:
    def text(name: str, steps: int) -> str:
        changed = task.with_value(task.EMPTY.replace("my_task", name), "train.steps", steps)
        changed = task.with_value(changed, "evaluation", {"seeds": 1})
        return task.with_value(changed, "train.batch", 1)

    def spec(text: str) -> Any:
        return task.check(text, tmp_path).chosen(None).require()

    def wait(done: Any) -> None:
        deadline = time.monotonic() + 240
        while not done():
            assert time.monotonic() < deadline, [queue.status(fit.job.folder) for fit in queue.fits]
            queue.poll()
            time.sleep(0.2)

    queue = Queue(tmp_path)
    long, short = text("long", 500), text("short", 2)
    first, second = queue.add(long, spec(long), None), queue.add(short, spec(short), None)
    wait(lambda: first.process is not None and first.process.steps_done() > 2)
    assert second.state == "waiting"
    assert "training: " in queue.status(first.job.folder)
    assert "stopping" in queue.stop(first.job.folder)
    wait(lambda: first.over)
    assert first.state == "stopped"
    assert "resume it to continue" in queue.status(first.job.folder)
    wait(lambda: second.over)
    assert second.state == "finished", second.message
    done = len((first.job.folder / "metrics.jsonl").read_text().splitlines())
    longer = text("long", done + 2)
    with pytest.raises(RunError, match=r"train\.steps"):  # fewer steps than before is another spec
        queue.add(longer, spec(longer), None)
    again = queue.add(long, spec(long), None)
    wait(lambda: again.process is not None and again.process.steps_done() > done)
    queue.stop(again.job.folder)
    wait(lambda: again.over)


# --- requests ---------------------------------------------------------------------------------------------------


def scope(path: str, host: str = "127.0.0.1:7860") -> dict[str, Any]:
    return {"type": "http", "path": path, "headers": [(b"host", host.encode())]}


@pytest.fixture
def guard(tmp_path: Path) -> Guard:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "ok.png").write_bytes(b"ok")
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "runs" / "link.txt").symlink_to(tmp_path / "secret.txt")
    return Guard(None, folder=tmp_path / "runs", local=True)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "{}/secret.txt", "{}/runs/../secret.txt", "{}/runs/link.txt", "%2Fetc%2Fpasswd", "~/.ssh/x",
             "http://example.org/x", "pyproject.toml", "{}/runs%2F..%2Fsecret.txt", "\0"],
)  # fmt: skip
@pytest.mark.parametrize("route", ["/gradio_api/file=", "/file=", "/gradio_api/file/"])
def test_files_outside_the_runs_folder_are_refused(guard: Guard, name: str, route: str, tmp_path: Path) -> None:
    assert guard.refusal(scope(route + name.format(tmp_path))) == "only files of the runs folder are served"


def test_files_of_the_runs_folder_and_the_page_are_served(guard: Guard, tmp_path: Path) -> None:
    assert guard.refusal(scope(f"/gradio_api/file={tmp_path}/runs/ok.png")) == ""
    assert guard.refusal(scope("/")) == ""
    assert guard.refusal(scope("/gradio_api/queue/join", host="localhost:7860")) == ""


def test_the_names_of_the_runs_own_folders_are_free(tmp_path: Path) -> None:
    runs = tmp_path / "dev" / "uploads" / "runs"
    runs.mkdir(parents=True)
    own = Guard(None, folder=runs, local=True)  # type: ignore[arg-type]
    assert own.refusal(scope(f"/gradio_api/file={runs}/ok.png")) == ""


def test_uploads_other_addresses_and_other_hosts_are_refused(guard: Guard) -> None:
    for path in ("/gradio_api/upload", "/gradio_api/proxy=http://example.org", "/gradio_api/vibe-edit/"):
        assert "does not use" in guard.refusal(scope(path)), path
    for host in ("evil.example:7860", "127.0.0.1:7860@evil.example", "127.0.0.1.evil.example", "localhost:evil", ""):
        assert "this machine only" in guard.refusal(scope("/", host=host))
    for origin, refused in (("http://evil.example", True), ("null", True), ("http://localhost:7860", False)):
        asked = scope("/gradio_api/queue/join")
        asked["headers"].append((b"origin", origin.encode()))
        assert bool(guard.refusal(asked)) is refused, origin
    for length, refused in ((b"33554432", False), (b"33554433", True), (b"-1", True), (b"x", True)):
        asked = scope("/gradio_api/queue/join")
        asked["headers"].append((b"content-length", length))
        assert bool(guard.refusal(asked)) is refused, length
    asked["headers"][-1] = (b"transfer-encoding", b"chunked")
    assert "how long" in guard.refusal(asked)
    assert Guard(None, folder=guard.folder, local=False).refusal(scope("/", host="lab.example")) == ""  # type: ignore[arg-type]


# --- the command ------------------------------------------------------------------------------------------------


@pytest.mark.skipif(HAS_GRADIO, reason="Gradio is installed")
def test_missing_gradio_is_named_with_the_command_that_installs_it(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = dp(capsys, "ui", "--no-browser")
    assert code == 2
    assert "pip install 'dualproc[ui]'" in err


@pytest.mark.skipif(not HAS_GRADIO, reason="Gradio is not installed")
def test_served_page_gives_no_file_away(trained: Path) -> None:
    import httpx

    from dualproc.ui.page import serve

    app, address = serve(trained, host="127.0.0.1", port=None, browser=False, block=False)
    try:
        get = httpx.Client(base_url=address, timeout=20).get
        assert "dualproc" in get("/").text
        inside = trained / "horizon" / "low" / "samples" / "before_after.png"
        assert get(f"/gradio_api/file={inside}").content == inside.read_bytes()
        for name in ("/etc/passwd", f"{trained}/../x", Path(__file__).resolve(), Path.cwd() / "pyproject.toml"):
            assert get(f"/gradio_api/file={name}").status_code == 403, name
        assert get("/", headers={"host": "evil.example"}).status_code == 403
        upload = httpx.post(f"{address}gradio_api/upload", files={"files": ("x.txt", b"x")}, timeout=20)
        assert upload.status_code == 403
        assert get("/gradio_api/info").json()["named_endpoints"] == {}
    finally:
        app.close()


@pytest.mark.skipif(not HAS_GRADIO, reason="Gradio is not installed")
def test_functions_behind_the_page(trained: Path) -> None:
    from dualproc.ui.actions import Page

    page = Page(trained)
    assert ("run: horizon/low", "run: horizon/low") in page.starts()
    text = page.start_from("run: horizon/low")
    state, variants, command, prompts, button, _, why, *wrong = page.checked(text, None)
    assert "good" in state
    assert variants["visible"] is False  # the run is of one variant
    assert command.startswith("dp run ")
    assert prompts["choices"]
    assert not button["interactive"]
    assert "can only answer Yes or No" in why
    assert [one["visible"] for one in wrong] == [False] * len(task.FIELDS)
    variants = page.opened([page.start_from("shipped: horizon"), "low"])[-6 - len(task.FIELDS)]
    assert variants["value"] == "low"
    assert page.opened([])[0] == page.opened("damaged")[0] == task.EMPTY
    status, bar, curves, previews, now = page.progress("horizon/low", "")
    assert "finished: 2" in status
    assert 'aria-valuenow="100"' in bar
    assert "<svg" in curves
    assert previews == ""
    assert page.progress("horizon/low", now)[-1] == now
    assert page.progress("nothing", "")[0].count("no run is chosen") == 1
    drawn = page.draw(["horizon_slider"], "a cartoon of a cat", 3, 1, 1.0, 0.3)
    assert [caption for _, caption in drawn] == ["base, seed 3", "horizon_slider, strength 1, seed 3"]
    with pytest.raises(SpecError):
        load_spec("nothing")


@pytest.mark.skipif(not HAS_GRADIO, reason="Gradio is not installed")
def test_writer_of_the_command_writes_and_the_page_cannot_name_another(tmp_path: Path) -> None:
    from dualproc.engine.write import Writer
    from dualproc.ui.actions import Page

    answers = {"questions": '["Is {subject} red?", "Is {x} red?"]', "subjects": '["a fox", "an owl", "a cat"]'}
    writer = Writer("m at host", lambda text: next(answer for word, answer in answers.items() if word in text))
    page = Page(tmp_path, writer)
    _, _, _, _, button, _, about, *_ = page.checked(task.EMPTY, None)
    assert button["interactive"]
    assert "Written by `m at host`" in about
    assert list(inspect.signature(page.write).parameters) == ["kind", "text", "variant", "count"]
    text, *_, said = page.write("questions", task.EMPTY, None, 2)
    assert "1 question added, written by m at host" in said
    assert "refused" in said
    text, *_, said = page.write("prompts", text, None, 2)
    assert "1 prompt added" in said  # the held-out owl and the cat are in the task already
    spec = task.check(text, tmp_path).chosen(None).require()
    assert (spec.questions[-1].template, spec.prompts.train[-1]) == ("Is {subject} red?", "a fox")
    assert sorted(file.name for file in (tmp_path / "specs").iterdir()) == ["write_prompts.txt", "write_questions.txt"]
    with pytest.raises(DualprocError, match="can only answer Yes or No"):
        Page(tmp_path).write("questions", task.EMPTY, None, 2)


@pytest.mark.skipif(not HAS_GRADIO, reason="Gradio is not installed")
def test_fields_left_in_quick_succession_are_all_applied(tmp_path: Path) -> None:
    from dualproc.ui.actions import Page

    page = Page(tmp_path)
    *values, shown = page.fields(task.EMPTY)
    edits = {
        "name": lambda text, value: task.with_value(text, "name", value),
        "steps": lambda text, value: task.with_value(text, "train.steps", value),
    }
    both = page.edited(edits, task.EMPTY, shown, "sky", 7)  # the text with the new name had not arrived yet
    assert "name: sky" in both
    assert "steps: 7" in both
    typed = task.with_value(task.EMPTY, "name", "typed")  # in the text, and the form has not followed yet
    assert "name: typed" in page.edited(edits, typed, shown, "my_task", 7)
    assert values[0] == "my_task"
    for before in ({}, shown):  # the page still loads: neither the text nor the fields have arrived
        assert "__type__" in page.edited(edits, "", before, "", 0)
