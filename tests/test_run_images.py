"""Images on disk and side by side."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dualproc.report import before_after_grid, sheet, write_samples
from dualproc.run import write_images
from dualproc.run.images import image_names, spread_out

RED, GREEN, BLUE = (torch.tensor(rgb).float().reshape(1, 3, 1, 1) for rgb in ((1, 0, 0), (0, 1, 0), (0, 0, 1)))


def plain(colour: torch.Tensor, count: int, size: tuple[int, int] = (64, 64)) -> torch.Tensor:
    return colour.expand(count, 3, *size)


def boxes(image: Image.Image, rgb: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of everything in exactly this colour."""
    rows, columns = np.nonzero((np.asarray(image) == rgb).all(axis=-1))
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def test_written_images_are_the_nearest_8_bit_values(tmp_path: Path) -> None:
    images = torch.tensor([-0.5, 0.0, 0.5, 0.7 / 255, 254.6 / 255, 2.0]).reshape(1, 1, 2, 3).expand(1, 3, 2, 3)
    (path,) = write_images(tmp_path / "new", images.requires_grad_(), ["a.png"])
    found = np.asarray(Image.open(path))
    assert found.shape == (2, 3, 3)
    assert found[..., 0].tolist() == [[0, 0, 128], [1, 255, 255]]


def test_the_grid_has_base_above_trained_above_the_visual_prompt() -> None:
    grid = before_after_grid(plain(RED, 2), plain(GREEN, 2), judge_view=plain(BLUE, 2), captions=["one", "two"])
    red, green, blue = (boxes(grid, rgb) for rgb in ((255, 0, 0), (0, 255, 0), (0, 0, 255)))
    assert red[2] - red[0] == 2 * 160 + 6  # small images are enlarged
    assert [box[3] - box[1] for box in (red, green, blue)] == [160, 160, 160]
    assert red[3] < green[1] < green[3] < blue[1]
    assert red[0] == green[0] == blue[0]
    left = np.asarray(grid)[:, : red[0]].min(axis=(1, 2))  # the labels: ink beside each row, white at the edges
    assert all(left[box[1] : box[3]].min() < 100 for box in (red, green, blue))
    assert np.asarray(grid)[: red[1] - 4].min() < 160  # the captions
    assert np.asarray(grid)[[0, -1]].min() == 255


def test_many_columns_wrap_into_blocks() -> None:
    one = before_after_grid(plain(RED, 6), plain(GREEN, 6))
    two = before_after_grid(plain(RED, 7), plain(GREEN, 7))
    assert one.width == two.width
    assert two.height > 1.9 * one.height - 60
    assert before_after_grid(plain(RED, 7), plain(GREEN, 7), columns=7).height == one.height


@pytest.mark.parametrize(
    ("size", "shown"), [((64, 64), (160, 160)), ((200, 100), (100, 200)), ((512, 1024), (512, 256))]
)
def test_images_keep_their_shape_in_a_readable_size(size: tuple[int, int], shown: tuple[int, int]) -> None:
    left, top, right, bottom = boxes(sheet(plain(BLUE, 1, size)), (0, 0, 255))
    assert (right - left, bottom - top) == shown


def test_long_captions_are_wrapped_and_shortened_inside_their_column() -> None:
    short = sheet(plain(RED, 2), captions=["a", "b"])
    words = sheet(plain(RED, 2), captions=["a cartoon of an elephant on a very sunny day by the sea " * 3, "b"])
    endless = sheet(plain(RED, 2), captions=["x" * 500, "b"])
    assert short.width == words.width == endless.width
    assert short.height < words.height <= short.height + 40
    for image in (words, endless):
        column = np.asarray(image)[:40, 20 + 160 : 20 + 166]  # the gap between the columns
        assert column.min() == 255


def test_names_say_what_a_image_shows_and_cannot_leave_the_folder() -> None:
    names = image_names(["a cartoon of an owl", "../../Ä <b>", "y" * 300], [7, 8, 9])
    assert names[:2] == ["000-a-cartoon-of-an-owl-seed7.png", "001-b-seed8.png"]
    assert len(names[2]) < 100


def test_a_choice_of_images_shows_every_prompt_first() -> None:
    prompts = ["owl"] * 12 + ["duck"] * 12 + ["cat"] * 12
    assert spread_out(prompts, 3) == [0, 12, 24]
    assert spread_out(prompts, 4) == [0, 1, 12, 24]
    assert spread_out(["owl"] * 2, 12) == [0, 1]


def test_samples_are_one_file_a_image_and_a_grid(tmp_path: Path) -> None:
    prompts = [f"a cartoon of {name}" for name in ("an owl", "a duck")] * 10
    grid = write_samples(tmp_path, plain(RED, 20), plain(GREEN, 20), prompts=prompts, seeds=range(20))
    assert grid == tmp_path / "before_after.png"
    assert {folder.name: len(list(folder.iterdir())) for folder in tmp_path.iterdir() if folder.is_dir()} == {
        "base": 20,
        "trained": 20,
    }
    left, top, right, bottom = boxes(Image.open(grid), (255, 0, 0))
    assert right - left == 6 * 166 - 6  # twelve of the twenty, in two blocks
    assert bottom - top > 2 * 160 + 160
