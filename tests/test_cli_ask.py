"""`dp ask`, and reading image files of any origin."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from found_images import SPEC, cats, dp, row
from PIL import Image

from dualproc.engine.ensemble import build_judge
from dualproc.errors import DualprocError
from dualproc.kit.image_files import batches, image_files, read_image
from dualproc.spec import PluginRef
from dualproc.types import Question

CAT = "Is this a drawing of a cat?"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three drawings of cats, and one of another size; other files that are not images."""
    folder = tmp_path_factory.mktemp("images")
    first = cats(folder)[0]
    Image.open(first).resize((96, 80)).save(folder / "larger.bmp")
    (folder / "notes.txt").write_text("not an image")
    (folder / ".hidden.png").write_text("not an image")
    return folder


# dp ask


def test_one_image_gives_answer_and_probabilities(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    code, out, err = dp(capsys, "ask", folder / "cat0.png", CAT)
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == f"{CAT} Answer with Yes or No."
    name, answer, yes, no = row(out, str(folder))
    assert (name, answer) == (str(folder / "cat0.png"), "yes")
    judge = build_judge([(1.0, PluginRef(type="tiny"))])
    question = Question(f"{CAT} Answer with Yes or No.")
    found = judge.answer_log_likelihoods(read_image(folder / "cat0.png")[None], [[question]]).log_likelihoods.exp()
    assert [float(yes), float(no)] == pytest.approx(found.flatten().tolist(), rel=5e-3)


def test_folder_gives_one_row_per_image_and_equal_json(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    names = ["cat0.png", "cat1.png", "cat2.png", "larger.bmp"]
    _, out, _ = dp(capsys, "ask", folder, CAT)
    assert [line.split()[0] for line in out.splitlines()[2:]] == [str(folder / name) for name in names]
    _, out, _ = dp(capsys, "ask", folder, CAT, "--json")
    found = json.loads(out)
    assert [Path(one["image"]).name for one in found] == names
    assert {one["question"] for one in found} == {f"{CAT} Answer with Yes or No."}
    assert found[0]["probabilities"]["Yes"] > 0.8
    assert found[3]["probabilities"]["Yes"] == pytest.approx(found[0]["probabilities"]["Yes"], abs=0.05)


def test_improbable_candidates_give_a_warning(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    code, _, err = dp(capsys, "ask", folder / "cat0.png", "Is this a cat or a dog?", "--candidates", "cat,dog")
    assert code == 0
    assert "does not answer" in err
    assert "it answers: yes" in err or "it answers: no" in err
    _, _, err = dp(capsys, "ask", folder / "cat0.png", "Is it a spaceship?")
    assert "does not know the words: it, spaceship?" in err
    assert "does not answer" not in err


def test_one_word_with_a_question_mark_is_a_question(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    code, out, _ = dp(capsys, "ask", folder / "cat0.png", "Cat?")
    assert code == 0
    assert out.startswith("Cat? Answer with")


def test_options_set_candidates_suffix_and_judge(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    image = folder / "cat0.png"
    _, out, _ = dp(capsys, "ask", image, "Is this a cat?", "--candidates", "No, Yes", "--json")
    (asked,) = json.loads(out)
    assert asked["question"] == "Is this a cat? Answer with No or Yes."
    assert list(asked["probabilities"]) == ["No", "Yes"]
    code, out, _ = dp(capsys, "ask", image, CAT, "--suffix", "", "--tokens", "3", "--judge", "tiny-referee")
    assert code == 0
    assert out.splitlines()[0] == CAT
    weights = Path(__file__).parents[1] / "dualproc" / "weights" / "referee"
    other = ["--judge", "transformers", "--set", f"model={weights}", "--set", "dtype=float32"]
    _, same, _ = dp(capsys, "ask", image, CAT, "--suffix", "", "--tokens", "3", *other)
    assert same == out


def test_spec_provides_questions_judge_and_visual_prompt(
    capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path
) -> None:
    spec = tmp_path / "spec.yaml"
    about = "Is this a drawing of {subject}?"
    both = f'question: [{{template: "Does the red line match the horizon?"}}, {{template: "{about}"}}]'
    spec.write_text(SPEC.replace('question: {template: "Does the red line match the horizon?"}', both))
    image = folder / "cat0.png"
    found = {}
    for variant in ("high", "low"):
        code, out, err = dp(capsys, "ask", image, "--spec", spec, "--variant", variant, "--json")
        assert code == 0
        assert f"warning: not asked: {about} (add --field subject=...)" in err
        (only,) = json.loads(out)
        found[variant] = only["probabilities"]["Yes"]
    assert abs(found["high"] - found["low"]) > 0.05  # the judge sees the line of the visual prompt
    code, out, err = dp(capsys, "ask", image, "--spec", spec, "--variant", "high", "--field", "subject=a cat")
    assert (code, err) == (0, "")
    assert "Is this a drawing of a cat? Answer with Yes or No." in out
    _, out, _ = dp(
        capsys, "ask", image, "Is the sky blue?", "--spec", spec, "--variant", "low", "--judge", "tiny-referee"
    )
    assert out.startswith("Is the sky blue? Answer")
    assert "horizon" not in out


def test_several_judges_of_a_spec_are_averaged(
    capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path
) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text(SPEC + "judge: [{type: tiny}, {type: tiny-referee}]\n")
    yes = []
    for judge in (["--judge", "tiny"], ["--judge", "tiny-referee"], []):
        _, out, _ = dp(capsys, "ask", folder / "cat1.png", "--spec", spec, "--variant", "high", "--json", *judge)
        yes.append(json.loads(out)[0]["probabilities"]["Yes"])
    assert yes[2] == pytest.approx((yes[0] + yes[1]) / 2, abs=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["FOLDER/no.png", CAT], "no such image or folder: FOLDER/no.png"),
        (["FOLDER/notes.txt", CAT], "FOLDER/notes.txt cannot be read as an image: not an image of a known format"),
        (["FOLDER/empty", CAT], "the folder FOLDER/empty has no images"),
        (["FOLDER/.hidden.png", CAT], "cannot be read as an image"),
        (["FOLDER/cat0.png"], "the question is missing"),
        (["FOLDER/cat0.png", "FOLDER/no such.png"], "the question is missing"),
        ([CAT], "the images are missing"),
        (["FOLDER/cat0.png", CAT, "--judge", "tinny"], "did you mean `tiny`?"),
        (["FOLDER/cat0.png", CAT, "--set", "modle=x"], "did you mean `model`?"),
        (["FOLDER/cat0.png", CAT, "--set", "model"], "expected KEY=VALUE, got `model`"),
        (["FOLDER/cat0.png", CAT, "--candidates", "Yes,Yes"],
         "expected different answers, separated by commas, got `--candidates Yes,Yes`"),
        (["FOLDER/cat0.png", CAT, "--candidates", "Yes,zyzzyva"], "'zyzzyva'"),
        (["FOLDER/cat0.png", CAT, "--field", "subject=a cat"], "--variant, --field and --at need --spec"),
        (["FOLDER/cat0.png", "--spec", "FOLDER/no.yaml"], "no.yaml"),
        (["FOLDER/cat0.png", "--spec", "FOLDER/spec.yaml"], "no variant is chosen"),
        (["FOLDER/cat0.png", "--spec", "FOLDER/spec.yaml", "--variant", "low", "--field", "subjekt=x"],
         "did you mean `subject`?"),
        (["FOLDER/cat0.png", "--spec", "FOLDER/spec.yaml", "--variant", "low", "--field", "x"],
         "expected --field NAME=VALUE, got `--field x`"),
    ],
)  # fmt: skip
def test_mistakes_give_one_message_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], folder: Path, arguments: list[str], message: str
) -> None:
    (folder / "empty").mkdir(exist_ok=True)
    (folder / "spec.yaml").write_text(SPEC)
    code, out, err = dp(capsys, "ask", *(argument.replace("FOLDER", str(folder)) for argument in arguments))
    assert (code, out) == (2, "")
    assert message.replace("FOLDER", str(folder)) in err
    assert err.count("error:") == 1


@pytest.mark.parametrize("command", ["ask", "score"])
def test_help_has_three_examples(capsys: pytest.CaptureFixture[str], command: str) -> None:
    _, out, _ = dp(capsys, command, "--help")
    assert sum(line.strip().startswith(f"dp {command} ") for line in out.splitlines()) >= 3


# reading image files


def save(image: Image.Image, file: Path, **options: object) -> torch.Tensor:
    image.save(file, **options)  # type: ignore[arg-type]
    return read_image(file)


def test_image_has_shape_and_range(tmp_path: Path) -> None:
    red = save(Image.new("RGB", (5, 3), (255, 0, 51)), tmp_path / "a.png")
    assert red.shape == (3, 3, 5)
    torch.testing.assert_close(red[:, 1, 2], torch.tensor([1.0, 0.0, 0.2]))
    grey = save(Image.new("L", (2, 2), 51), tmp_path / "b.gif")
    torch.testing.assert_close(grey, torch.full((3, 2, 2), 0.2))


def test_16_bit_grey_keeps_its_brightness(tmp_path: Path) -> None:
    deep = save(Image.new("I;16", (2, 2), 257 * 51), tmp_path / "deep.png")
    torch.testing.assert_close(deep, torch.full((3, 2, 2), 0.2))
    with pytest.raises(DualprocError, match="floating-point"):
        save(Image.new("F", (2, 2), 0.5), tmp_path / "float.tif")


def test_transparent_pixels_are_white(tmp_path: Path) -> None:
    clear = Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    clear.putpixel((1, 0), (0, 0, 0, 255))
    shown = save(clear, tmp_path / "clear.png")
    assert shown[:, 0].T.tolist() == [[1, 1, 1], [0, 0, 0]]
    half = save(Image.new("LA", (1, 1), (0, 51)), tmp_path / "half.png")
    torch.testing.assert_close(half, torch.full((3, 1, 1), 0.8))
    palette = Image.new("P", (1, 1), 0)
    palette.putpalette([255, 0, 0])
    assert save(palette, tmp_path / "palette.gif", transparency=0).flatten().tolist() == [1, 1, 1]


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    lying = Image.new("RGB", (4, 2))
    lying.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees clockwise
    upright = save(lying, tmp_path / "turned.png", exif=exif)
    assert upright.shape == (3, 4, 2)
    assert upright[:, 0, 1].tolist() == [1, 1, 1]


def test_neighbours_of_one_size_form_a_batch(tmp_path: Path) -> None:
    sizes = [(4, 4), (4, 4), (4, 4), (6, 4), (4, 4)]
    for index, size in enumerate(sizes):
        Image.new("RGB", size, (index, 0, 0)).save(tmp_path / f"{index}.png")
    found = list(batches(image_files([tmp_path]), 2))
    assert [tuple(batch.shape) for batch in found] == [(2, 3, 4, 4), (1, 3, 4, 4), (1, 3, 4, 6), (1, 3, 4, 4)]
    assert [round(image[0, 0, 0].item() * 255) for batch in found for image in batch] == [0, 1, 2, 3, 4]


def test_damaged_image_is_named_in_the_error(tmp_path: Path) -> None:
    whole = tmp_path / "whole.png"
    Image.effect_noise((64, 64), 50).save(whole)
    cut = tmp_path / "cut.png"
    cut.write_bytes(whole.read_bytes()[:500])
    with pytest.raises(DualprocError, match=r"cut\.png cannot be read as an image"):
        read_image(cut)


def test_folder_without_images_names_subfolders_that_have_some(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    Image.new("RGB", (2, 2)).save(tmp_path / "inner" / "a.PNG")
    with pytest.raises(DualprocError, match=r"there are images in .*inner"):
        image_files([tmp_path])
    assert image_files([tmp_path / "inner"]) == [tmp_path / "inner" / "a.PNG"]
