"""`train.preview`: images of base and trained generator during training."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dualproc import Engine
from dualproc.errors import SpecError
from dualproc.run import RunFolder
from dualproc.run.images import preview_files
from dualproc.spec import TaskSpec, spec_from_dict

LORA = "pytorch_lora_weights.safetensors"


def make_spec(preview: Any, **changes: Any) -> TaskSpec:
    data: dict[str, Any] = {
        "name": "test",
        "prompts": {"template": "a cartoon of {subject}", "train": ["a cat", "a dog"], "eval": ["an owl"]},
        "question": {"template": "Is the sky blue?"},
        "train": {"steps": 5, "batch": 1, "lora": {"rank": 2}, "checkpoint_every": 3, "preview": preview},
        "evaluation": {"seeds": 1},
    }
    return spec_from_dict(data | changes)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run with previews after steps 2 and 4."""
    folder = tmp_path_factory.mktemp("runs") / "previewed"
    Engine(make_spec({"every": 2})).fit(folder)
    return RunFolder.open(folder)


def test_previews_are_written_every_few_steps_and_shown_in_the_report(run: RunFolder) -> None:
    files = preview_files(run.samples)
    assert [step for step, _ in files] == [2, 4]
    sizes = {Image.open(file).size for _, file in files}
    assert len(sizes) == 1
    assert len({file.read_bytes() for _, file in files}) == 2  # the LoRA has changed
    report = (run.path / "report.html").read_text()
    assert report.count("Preview after step") == 2


def test_previews_do_not_change_the_lora(run: RunFolder, tmp_path: Path) -> None:
    Engine(make_spec(None)).fit(tmp_path / "plain")
    assert not (tmp_path / "plain/samples/preview").exists()
    assert (tmp_path / "plain" / LORA).read_bytes() != b""
    from safetensors.torch import load_file

    with_previews, without = load_file(run.path / LORA), load_file(tmp_path / "plain" / LORA)
    assert with_previews.keys() == without.keys()
    assert all(with_previews[name].equal(value) for name, value in without.items())


def test_resume_may_change_previews(run: RunFolder) -> None:
    changed = make_spec({"every": 1, "prompts": ["a cartoon of a tree"]})
    changed = changed.model_copy(update={"train": changed.train.model_copy(update={"steps": 6})})
    Engine(changed).fit(run.path, resume=True)
    assert [step for step, _ in preview_files(run.samples)] == [2, 4, 6]


def test_run_with_previews_can_be_deleted(run: RunFolder, tmp_path: Path) -> None:
    shutil.copytree(run.path, tmp_path / "copy")
    RunFolder.delete(tmp_path / "copy")
    assert not (tmp_path / "copy" / "samples").exists()


def test_default_prompts_are_the_first_training_prompts() -> None:
    assert make_spec({}).preview_prompts() == ("a cartoon of a cat", "a cartoon of a dog")
    assert make_spec(None).preview_prompts() == ()
    assert make_spec({"prompts": ["a cat"]}).preview_prompts() == ("a cat",)


def test_held_out_prompt_is_refused() -> None:
    with pytest.raises(SpecError, match="held out"):
        make_spec({"prompts": ["a cartoon of a cat", "a cartoon of an owl"]})
