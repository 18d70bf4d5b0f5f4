"""Files that a spec uses: what paths are relative to, which paths are rejected, and copies in the run folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from spec_texts import PLAIN, load, only, write

from dualproc import Engine
from dualproc.engine.reload import load_engine, open_run
from dualproc.errors import RunError, SpecError
from dualproc.resolve import load_spec
from dualproc.run import RunFolder, portable
from dualproc.run.folder import RESOLVED
from dualproc.spec import LoadedSpec, TaskSpec, named_files, read_spec, spec_from_dict, to_yaml

LAYER = 'visual_prompt: {layers: [{type: image, path: "PATH"}, {type: box, from: [0, 0], to: [1, 1]}]}\n'
LITTLE = "train: {steps: 1, batch: 1, lora: {rank: 2}}\nevaluation: {seeds: 2}\n"


def text(path: str) -> str:
    return PLAIN + LAYER.replace("PATH", path)


def image(file: Path, color: str = "red") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), color).save(file)
    return file


def path_of(loaded: LoadedSpec | TaskSpec) -> str:
    spec = loaded.require() if isinstance(loaded, LoadedSpec) else loaded
    assert spec.visual_prompt is not None
    found: str = spec.visual_prompt.layers[0].params["path"]
    return found


# the folder that a path is relative to


def test_a_path_is_relative_to_its_spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image(tmp_path / "specs" / "images" / "a.png")
    write(tmp_path / "specs", text("images/a.png"))
    monkeypatch.chdir(tmp_path)
    assert path_of(read_spec("specs/spec.yaml")) == "specs/images/a.png"
    assert path_of(read_spec(tmp_path / "specs" / "spec.yaml")) == (tmp_path / "specs/images/a.png").as_posix()
    monkeypatch.chdir(tmp_path / "specs")
    assert path_of(read_spec("spec.yaml")) == "images/a.png"


def test_a_path_in_an_extended_spec_is_relative_to_the_extended_spec(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image(tmp_path / "base" / "a.png")
    write(tmp_path / "base", text("a.png"), "base.yaml")
    write(tmp_path, "extends: base/base.yaml\nname: other\n", "spec.yaml")
    monkeypatch.chdir(tmp_path)
    assert path_of(read_spec("spec.yaml")) == "base/a.png"


def test_a_path_in_an_override_is_relative_to_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    image(tmp_path / "specs" / "a.png")
    image(tmp_path / "mine.png")
    write(tmp_path / "specs", text("a.png"))
    override = "visual_prompt.layers.0.path=mine.png"
    assert path_of(read_spec("specs/spec.yaml", overrides=[override])) == "mine.png"


def test_a_variant_can_fill_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    image(tmp_path / "specs" / "images" / "one.png")
    variants = "variants: {one: {which: one}, two: {which: two}, up: {which: ../../one}}\n"
    write(tmp_path / "specs", text("images/{which}.png") + variants)
    assert path_of(read_spec("specs/spec.yaml", variant="one")) == "specs/images/one.png"
    assert {problem.message for problem in read_spec("specs/spec.yaml").problems} == {
        "no such file: specs/images/two.png",
        "'images/../../one.png' is not a relative path without `..`",
    }


def test_paths_in_python_data_are_relative_to_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    image(tmp_path / "a.png")
    data = read_spec(write(tmp_path, text("a.png"))).document.plain()
    assert path_of(spec_from_dict(data)) == path_of(TaskSpec.model_validate(data)) == "a.png"
    data["visual_prompt"]["layers"][0]["path"] = "/etc/hostname"
    with pytest.raises(SpecError, match="is not a relative path without"):
        spec_from_dict(data)


# rejected paths


@pytest.mark.parametrize(
    "path", ["/etc/a.png", "../a.png", "b/../../a.png", "C:\\\\a.png", "..\\\\a.png", "\\\\\\\\host\\\\a"]
)
def test_an_absolute_path_or_one_with_dots_is_rejected_with_its_place(path: str, tmp_path: Path) -> None:
    problem = only(load(tmp_path, text(path)))
    assert (problem.path, problem.line) == ("visual_prompt.layers.0.path", 5)
    assert "is not a relative path without `..`" in problem.message
    assert problem.hint == f"write a path inside the folder {tmp_path}"


def test_a_link_must_point_to_a_file_in_the_folder_of_the_spec(tmp_path: Path) -> None:
    secret = image(tmp_path / "secret.png")
    folder = tmp_path / "specs"
    image(folder / "a.png")
    (folder / "near.png").symlink_to("a.png")
    (folder / "far.png").symlink_to(secret)
    (folder / "up").symlink_to(tmp_path)
    (folder / "loop.png").symlink_to("loop.png")
    assert path_of(load(folder, text("near.png"))).endswith("near.png")
    for path in ("far.png", "up/secret.png", "up/nothing.png"):
        assert "points outside the folder" in only(load(folder, text(path))).message
    for path in ("loop.png", "a\\0b.png", "x" * 300):
        assert only(load(folder, text(path))).path == "visual_prompt.layers.0.path"


def test_a_missing_file_is_reported_together_with_other_mistakes(tmp_path: Path) -> None:
    loaded = load(tmp_path, text("nowhere.png") + "zzz: 1\n")
    assert [problem.path for problem in loaded.problems] == ["visual_prompt.layers.0.path", "zzz"]
    assert "no such file: " in loaded.problems[0].message
    assert only(load(tmp_path, text("images"))).message.startswith("no such file: ")
    unfilled = only(load(tmp_path, text("{which}.png")))
    assert unfilled.message == "unknown placeholder {which}"


# copies in the run folder


def test_a_resolved_spec_names_files_by_content_and_contains_no_local_path(tmp_path: Path) -> None:
    image(tmp_path / "one" / "a.PNG")
    image(tmp_path / "two" / "b.png")
    image(tmp_path / "three" / "a.png", "blue")
    one = portable(load(tmp_path / "one", text("a.PNG")).require(), tmp_path)
    two = portable(load(tmp_path / "two", text("b.png")).require(), tmp_path)
    three = portable(load(tmp_path / "three", text("a.png")).require(), tmp_path)
    assert one == two
    assert one.text != three.text
    assert str(tmp_path) not in one.text
    ((name, content),) = one.files.items()
    assert f"path: {name}" in one.text
    assert content == (tmp_path / "one" / "a.PNG").read_bytes()
    plain = load(tmp_path, PLAIN).require()
    assert portable(plain, tmp_path) == (to_yaml(plain), {})
    assert named_files(plain) == ()


def test_a_run_is_loaded_and_resumed_without_the_files_of_its_spec(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    kept = image(tmp_path / "specs" / "images" / "a.png")
    spec = load_spec(write(tmp_path / "specs", text("images/a.png") + LITTLE))
    run = Engine(spec).fit(tmp_path / "run").run
    assert str(tmp_path) not in (run / RESOLVED).read_text() + (run / "README.md").read_text()
    RunFolder.refuse(run, portable(spec, run).text, resume=True, overwrite=False)
    image(kept, "blue")
    with pytest.raises(RunError, match=r"another spec; different: visual_prompt.layers"):
        RunFolder.refuse(run, portable(spec, run).text, resume=True, overwrite=False)

    shutil.rmtree(tmp_path / "specs")
    moved = run.rename(tmp_path / "moved")
    monkeypatch.chdir("/")
    _, engine = load_engine(moved)
    assert engine.judge_view(torch.zeros(1, 3, 32, 32))[0, :, 9, 9].tolist() == [1, 0, 0]
    again = open_run(moved)[1]
    assert portable(again, moved).text == (moved / RESOLVED).read_text()
    RunFolder.refuse(moved, portable(again, moved).text, resume=True, overwrite=False)
    RunFolder.delete(moved)
    assert not any(moved.glob("inputs"))
