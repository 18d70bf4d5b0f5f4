"""The visual prompt layers: areas and places of what they draw, and what their parameters refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from dualproc.errors import PluginError
from dualproc.plugins.visual_prompts.box import Box
from dualproc.plugins.visual_prompts.image import ImageLayer
from dualproc.plugins.visual_prompts.line import Line
from dualproc.plugins.visual_prompts.points import Points
from dualproc.plugins.visual_prompts.swatches import Swatches
from dualproc.plugins.visual_prompts.text import Text

RED = (255, 0, 0, 255)


def drawn(cls: Any, params: dict[str, Any], *, size: tuple[int, int] = (400, 200)) -> np.ndarray:
    """The canvas after drawing, [H, W, 4]."""
    canvas = Image.new("RGBA", size)
    cls(cls.Params(**params)).draw(canvas)
    return np.asarray(canvas)


def opacity(pixels: np.ndarray) -> np.ndarray:
    return pixels[..., 3] / 255


def extent(pixels: np.ndarray) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of everything that is not transparent."""
    rows, columns = np.nonzero(pixels[..., 3])
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


# line


@pytest.mark.parametrize("width", [0.007, 0.0123, 0.045, 0.5])
def test_a_level_line_is_exactly_as_thick_as_told(width: float) -> None:
    pixels = drawn(Line, {"from": [0.05, 0.5], "to": [0.95, 0.5], "width": width})
    thickness = opacity(pixels)[:, 40:360].sum(axis=0)
    assert thickness == pytest.approx(np.full(320, width * 200), abs=0.01)


@pytest.mark.parametrize(
    ("start", "end"), [([0.1, 0.1], [0.8, 0.9]), ([0.7, 0.2], [0.3, 0.9]), ([0.5, 0.9], [0.5, 0.1])]
)
def test_a_slanted_line_covers_length_times_width(start: list[float], end: list[float]) -> None:
    pixels = drawn(Line, {"from": start, "to": end, "width": 0.05})
    length = np.hypot((end[0] - start[0]) * 400, (end[1] - start[1]) * 200)
    assert opacity(pixels).sum() == pytest.approx(length * 10, rel=0.005)


def test_a_line_lies_where_it_is_told_and_has_its_colour() -> None:
    pixels = drawn(Line, {"from": [0.25, 0.5], "to": [0.75, 0.5], "width": 0.1, "color": "#0080ff"})
    assert extent(pixels) == (100, 90, 300, 110)
    assert tuple(pixels[100, 200]) == (0, 128, 255, 255)


def test_a_line_at_the_edge_is_cut_there() -> None:
    assert opacity(drawn(Line, {"from": [0, 1], "to": [1, 1], "width": 0.1})).sum() == pytest.approx(10 * 400)


def test_an_arrow_has_a_head_at_its_end() -> None:
    params = {"from": [0.5, 0.1], "to": [0.5, 0.9], "width": 0.02}
    line, arrow = drawn(Line, params), drawn(Line, {**params, "arrow": True})
    assert extent(arrow)[3] == extent(line)[3] == 180
    breadths = opacity(arrow).sum(axis=1)
    assert breadths[20:160] == pytest.approx(np.full(140, 4), abs=0.1)
    assert breadths[164:180].max() == pytest.approx(16, abs=1)
    assert breadths[178] < 3


def test_a_half_transparent_line_lets_the_canvas_through() -> None:
    canvas = Image.new("RGBA", (100, 100), (255, 255, 255, 255))
    Line(Line.Params(**{"from": [0, 0.5], "to": [1, 0.5], "width": 0.2, "color": "#ff000080"})).draw(canvas)
    assert canvas.getpixel((50, 50)) == pytest.approx((255, 127, 127, 255), abs=1)


# points


def test_points_are_discs_of_the_given_radius() -> None:
    pixels = drawn(Points, {"points": [{"at": [0.25, 0.5]}, {"at": [0.75, 0.5]}], "radius": 0.1, "color": "blue"})
    assert opacity(pixels).sum() == pytest.approx(2 * np.pi * 20**2, rel=0.005)
    assert tuple(pixels[100, 100]) == tuple(pixels[100, 300]) == (0, 0, 255, 255)
    assert pixels[100, 200, 3] == 0


def columns_with_ink(pixels: np.ndarray) -> list[int]:
    return np.flatnonzero(pixels[..., 3].any(axis=0)).tolist()


def test_a_label_stands_to_the_right_of_its_point() -> None:
    columns = columns_with_ink(drawn(Points, {"points": [{"at": [0.3, 0.5], "label": "Point A"}], "radius": 0.05}))
    assert columns[:20] == list(range(110, 130))
    assert 132 <= columns[20] <= 134


def test_a_label_without_room_stands_to_the_left_of_its_point() -> None:
    columns = columns_with_ink(drawn(Points, {"points": [{"at": [0.95, 0.5], "label": "Point A"}], "radius": 0.05}))
    assert columns[-20:] == list(range(370, 390))
    assert 365 <= columns[-21] <= 367


def test_half_transparent_text_stays_so() -> None:
    pixels = drawn(Text, {"text": "soft", "at": [0.5, 0.5], "size": 0.2, "color": "#ff000080"})
    assert pixels[..., 3].max() == 128


@pytest.mark.parametrize("at", [[0, 0], [1, 0], [0, 1], [1, 1], [0.9, 0.5]])
def test_a_label_never_leaves_the_image(at: list[float]) -> None:
    label = {"points": [{"at": at, "label": "Point B"}], "radius": 0.02}
    inside = drawn(Points, {**label, "points": [{"at": [0.4, 0.5], "label": "Point B"}]})
    pixels = drawn(Points, label)
    dot = opacity(drawn(Points, {**label, "points": [{"at": at}]})).sum()
    whole_dot = opacity(drawn(Points, {**label, "points": [{"at": [0.4, 0.5]}]})).sum()
    assert opacity(pixels).sum() - dot == pytest.approx(opacity(inside).sum() - whole_dot, rel=0.1)


# swatches


def test_swatches_share_the_bottom_strip_equally() -> None:
    colors = ["#3B1518", "#2E2B25", "#1F3A4A"]
    pixels = drawn(Swatches, {"colors": colors}, size=(401, 200))
    assert extent(pixels) == (0, 170, 401, 200)
    assert (pixels[170:, :, 3] == 255).all()
    for x, color in zip((66, 200, 333), colors, strict=True):
        assert tuple(pixels[185, x, :3]) == tuple(bytes.fromhex(color[1:]))
    counts = [(pixels[185, :, :3] == list(bytes.fromhex(color[1:]))).all(axis=-1).sum() for color in colors]
    assert max(counts) - min(counts) <= 1


def test_swatches_lie_where_they_are_told() -> None:
    assert extent(drawn(Swatches, {"colors": ["red"], "top": 0.1, "height": 0.2})) == (0, 20, 400, 60)


# box


def test_a_box_has_an_outline_of_the_given_width_inside() -> None:
    pixels = drawn(Box, {"from": [0.25, 0.25], "to": [0.75, 0.75], "width": 0.05})
    assert extent(pixels) == (100, 50, 300, 150)
    assert opacity(pixels).sum() == 200 * 100 - 180 * 80
    assert pixels[100, 200, 3] == 0


def test_a_filled_box_is_half_transparent_all_over() -> None:
    params = {"from": [0.25, 0.25], "to": [0.75, 0.75], "width": 0.05, "color": "#ff000080", "fill": "#0000ff80"}
    pixels = drawn(Box, params)
    assert set(np.unique(pixels[..., 3])) == {0, 128}
    assert tuple(pixels[100, 200]) == (0, 0, 255, 128)
    assert tuple(pixels[52, 200]) == (255, 0, 0, 128)


# text


@pytest.mark.parametrize(
    ("anchor", "edges"),
    [("top left", (0, 1)), ("bottom right", (2, 3)), ("bottom left", (0, 3)), ("top right", (2, 1))],
)
def test_the_anchor_of_a_text_stands_at_its_place(anchor: str, edges: tuple[int, int]) -> None:
    box = extent(drawn(Text, {"text": "this line", "at": [0.5, 0.5], "size": 0.1, "anchor": anchor}))
    assert (box[edges[0]], box[edges[1]]) == pytest.approx((200, 100), abs=2)


def test_a_centred_text_has_its_middle_at_its_place() -> None:
    left, top, right, bottom = extent(drawn(Text, {"text": "a\nlonger", "at": [0.5, 0.5], "size": 0.1}))
    assert ((left + right) / 2, (top + bottom) / 2) == pytest.approx((200, 100), abs=2)


def test_the_size_of_a_text_is_a_share_of_the_height() -> None:
    small, large = (
        extent(drawn(Text, {"text": "HI", "at": [0.5, 0.5], "size": size}, size=(800, 400))) for size in (0.1, 0.2)
    )
    assert large[3] - large[1] == pytest.approx(2 * (small[3] - small[1]), abs=2)


def test_a_text_at_the_edge_is_moved_inside() -> None:
    params = {"text": "tree", "size": 0.2, "anchor": "center"}
    inside, moved = (opacity(drawn(Text, {**params, "at": at})).sum() for at in ([0.5, 0.5], [1, 1]))
    assert moved == pytest.approx(inside, rel=0.02)


def test_soft_edges_of_a_text_keep_its_colour() -> None:
    pixels = drawn(Text, {"text": "soft", "at": [0.5, 0.5], "size": 0.2, "color": "white"})
    edges = pixels[(pixels[..., 3] > 0) & (pixels[..., 3] < 255)]
    assert len(edges) > 20
    assert (edges[:, :3] >= 250).all()


def test_a_text_that_is_too_large_says_what_would_fit() -> None:
    params = {"text": "this region is a large expanse", "at": [0.5, 0.5]}
    with pytest.raises(PluginError, match="as large as the image") as caught:
        drawn(Text, {**params, "size": 0.5})
    fitting = float((caught.value.hint or "").split("at most ")[1].split(",")[0])
    drawn(Text, {**params, "size": fitting * 0.98})


# image


def test_an_image_is_laid_over_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGBA", (7, 5), (0, 200, 0, 100)).save("green.png")
    pixels = drawn(ImageLayer, {"path": "green.png", "at": [0.5, 0.25], "size": [0.25, 0.5]})
    assert extent(pixels) == (200, 50, 300, 150)
    assert np.abs(pixels[50:150, 200:300].astype(int) - (0, 200, 0, 100)).max() <= 2


def test_an_image_file_that_is_none_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("notes.png").write_text("not an image")
    for path, message in (("missing.png", "there is no file"), ("notes.png", "not an image"), (".", "not an image")):
        with pytest.raises(PluginError, match=message):
            ImageLayer(ImageLayer.Params(path=path))


# parameters


@pytest.mark.parametrize(
    ("cls", "params", "message"),
    [
        (Line, {"from": [0, 0], "to": [1, 1], "width": 0.1, "color": "redd"}, "did you mean 'red'"),
        (Line, {"from": [0, 0], "to": [1, 1], "width": 0.1, "color": "#12"}, "hex value such as #cc2244"),
        (Line, {"from": [0, 0], "to": [1, 1], "width": 0.1, "color": None}, "needs quotes"),
        (Line, {"from": [0, 0], "to": [0, 0], "width": 0.1}, "same place"),
        (Line, {"from": [0, 0], "to": [1.2, 0], "width": 0.1}, "less than or equal to 1"),
        (Line, {"from": [0, 0], "to": [1, 0], "width": 0}, "greater than 0"),
        (Line, {"from": [0, 0], "to": [1, 0], "width": 0.1, "colour": "red"}, "Extra inputs"),
        (Points, {"points": []}, "at least 1"),
        (Points, {"points": [{"at": [0, 0], "name": "A"}]}, "Extra inputs"),
        (Swatches, {"colors": ["red", "nocolour"]}, "is no colour"),
        (Swatches, {"colors": ["red"], "top": 0.9, "height": 0.2}, "ends below the image"),
        (Box, {"from": [0.5, 0.5], "to": [0.4, 0.9]}, "above and to the left"),
        (Box, {"from": [0, 0], "to": [1, 1], "width": 0}, "nothing would be drawn"),
        (Text, {"text": "  ", "at": [0, 0]}, "pattern"),
        (Text, {"text": "a", "at": [0, 0], "anchor": "middle"}, "Input should be"),
        (ImageLayer, {"path": "a.png", "at": [0.5, 0]}, "does not fit"),
    ],
)
def test_wrong_parameters_are_refused(cls: Any, params: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        cls.Params(**params)
