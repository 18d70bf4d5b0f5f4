"""`dp score` on image files of any origin."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from found_images import SPEC, cats, dp, row
from PIL import Image

from dualproc.engine.ask import prompt_for
from dualproc.engine.evaluate import measure_batches, measure_images
from dualproc.engine.evaluators import Evaluators
from dualproc.kit.image_files import batches, image_files, read_image
from dualproc.run import RunFolder
from dualproc.spec import TaskSpec, spec_from_dict
from dualproc.spec.reading import read_text


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A spec whose generator does not exist, and images of two sizes."""
    folder = tmp_path_factory.mktemp("found")
    (folder / "spec.yaml").write_text(SPEC)
    first = cats(folder / "images")[0]
    Image.open(first).resize((96, 96)).save(folder / "images" / "larger.png")
    return folder


@pytest.fixture(scope="module")
def spec() -> TaskSpec:
    node, _ = read_text(SPEC, "spec.yaml")
    assert node is not None
    return spec_from_dict(node.plain(), variant="high")


def test_images_are_measured_without_loading_the_generator(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    target = folder / "numbers.csv"
    code, out, err = dp(
        capsys, "score", folder / "images", "--spec", folder / "spec.yaml", "--variant", "high", "--csv", target
    )
    assert code == 0
    assert "not asked: Is this a drawing of {subject}? (add --field subject=...)" in err
    assert "4 images, measured with found/high:" in out
    assert "target 0.3" in out
    assert row(out, "kept")[1:3] == ["not", "measured"]
    assert "subjects kept" not in out
    with target.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [Path(one["image"]).name for one in rows] == ["cat0.png", "cat1.png", "cat2.png", "larger.png"]
    assert set(rows[0]) == {"image", "horizon", "kept", "judge", "referee"}
    assert {one["kept"] for one in rows} == {""}
    judged = [float(one["judge"]) for one in rows]
    assert row(out, "judge's")[3] == f"{sum(judged) / 4:#.3g}"


def test_known_fields_enable_more_questions(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    given = [folder / "images" / f"cat{index}.png" for index in (2, 0)]
    chosen = ["--spec", folder / "spec.yaml", "--variant", "low", "--field", "subject=a cat", "--json"]
    code, out, err = dp(capsys, "score", *given, *chosen)
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert (found["spec"], found["variant"]) == ("found", "low")
    assert found["images"] == [str(path) for path in given]
    assert [score["name"] for score in found["scores"]] == ["horizon", "kept"]
    assert found["scores"][0]["target"] == 0.6
    assert found["scores"][1]["values"] == [None, None]
    assert min(found["preserved"]) > 0.5
    _, out, _ = dp(capsys, "score", *given, *chosen[:-1])
    assert "subjects kept" in out
    assert row(out, "subjects kept")[2] == "100%"


def test_batching_by_size_does_not_change_the_results(folder: Path, spec: TaskSpec) -> None:
    instruments, prompt = Evaluators(spec), prompt_for(spec, {"subject": "a cat"})
    files = image_files([folder / "images"])
    seen: list[int] = []
    together = measure_batches(instruments, batches(files, 2), prompt, seen.append)
    assert seen == [2, 1, 1]
    alone = [measure_images(instruments, read_image(file)[None], [prompt], [0]) for file in files]
    for name in ("judge", "referee", "preserved"):
        assert getattr(together, name) == pytest.approx([getattr(one, name)[0] for one in alone], abs=1e-5)
    values = [one.scores[0].values[0] for one in alone]
    assert together.scores[0].values == pytest.approx(values, nan_ok=True)
    assert together.scores[0].on_target == sum(0.25 <= value <= 0.35 for value in values) / 4
    assert math.isnan(together.hack_meter)
    assert replace(together.scores[0], values=(), on_target=None) == replace(
        alone[0].scores[0], values=(), on_target=None
    )


def test_prompt_contains_only_the_known_fields(spec: TaskSpec) -> None:
    assert prompt_for(spec, {}).fields == {}
    known = prompt_for(spec, {"subject": "a cat"})
    assert (known.text, dict(known.fields)) == (
        "a cartoon of a cat",
        {"subject": "a cat", "prompt": "a cartoon of a cat"},
    )
    assert prompt_for(spec, {"prompt": "a cat"}).text == "a cat"


def test_measuring_computes_no_gradient(folder: Path, spec: TaskSpec) -> None:
    images = read_image(folder / "images" / "cat0.png")[None].requires_grad_()
    measured = measure_batches(Evaluators(spec), [images], prompt_for(spec, {"subject": "a cat"}))
    assert images.grad is None
    assert all(isinstance(value, float) for value in measured.judge)
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["FOLDER/images"], "FOLDER/images is not a run"),
        (["FOLDER/images"], "any images:  dp score IMAGES --spec"),
        (["FOLDER/images"], "a run:       dp score runs/"),
        (["FOLDER/images/cat0.png"], "is a file, not the folder of a run"),
        (["FOLDER/nowhere"], "no such folder: FOLDER/nowhere"),
        (["FOLDER/images", "FOLDER"], "expected one run, got 2"),
        (["FOLDER/images", "--json"], "need images and --spec"),
        (["FOLDER", "--spec", "SPEC"], "the folder FOLDER has no images\n  there are images in FOLDER/images"),
        (["FOLDER/images", "--spec", "SPEC", "--set", "judge.type=tinny"], "did you mean `tiny`?"),
        (["FOLDER/images", "--spec", "SPEC", "--field", "colour=red"], "have no field `colour`"),
        (["FOLDER/images", "--spec", "SPEC", "--set", "question.template=Is it {subject}?"],
         "add --field subject=..."),
        (["FOLDER/images/cat0.png", "--spec", "SPEC", "--csv", "FOLDER/no/where.csv"], "cannot write FOLDER/no"),
    ],
)  # fmt: skip
def test_mistakes_give_one_message_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], folder: Path, arguments: list[str], message: str
) -> None:
    variant = ["--variant", "high"] if "--spec" in arguments else []
    filled = [text.replace("SPEC", str(folder / "spec.yaml")).replace("FOLDER", str(folder)) for text in arguments]
    code, _, err = dp(capsys, "score", *filled, *variant)
    assert code == 2
    assert message.replace("FOLDER", str(folder)) in err
    assert err.count("error:") == 1


def test_run_folder_with_spec_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A run folder has images only in its subfolders, so `--spec` finds none."""
    RunFolder.create(tmp_path / "run", spec_text="", resolved_text="name: x\n").close()
    (tmp_path / "spec.yaml").write_text(SPEC)
    code, _, err = dp(capsys, "score", tmp_path / "run", "--spec", tmp_path / "spec.yaml", "--variant", "high")
    assert code == 2
    assert "has no images" in err
