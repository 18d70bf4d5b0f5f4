"""The visual prompt layers: the area and position of their drawings, and which parameters they refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from dualproc.errors import PluginError
from dualproc.kit.canvas import fill_disc, fill_polygon, fill_rectangle
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
    """Left, top, right, bottom of all pixels that are not transparent."""
    rows, columns = np.nonzero(pixels[..., 3])
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


# line


@pytest.mark.parametrize("width", [0.007, 0.0123, 0.045, 0.5])
def test_a_level_line_has_exactly_the_given_width(width: float) -> None:
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


def test_a_line_has_the_given_position_and_colour() -> None:
    pixels = drawn(Line, {"from": [0.25, 0.5], "to": [0.75, 0.5], "width": 0.1, "color": "#0080ff"})
    assert extent(pixels) == (100, 90, 300, 110)
    assert tuple(pixels[100, 200]) == (0, 128, 255, 255)


def test_a_line_on_the_edge_is_cut_off_there() -> None:
    assert opacity(drawn(Line, {"from": [0, 1], "to": [1, 1], "width": 0.1})).sum() == pytest.approx(10 * 400)


def test_an_arrow_has_a_head_at_its_end() -> None:
    params = {"from": [0.5, 0.1], "to": [0.5, 0.9], "width": 0.02}
    line, arrow = drawn(Line, params), drawn(Line, {**params, "arrow": True})
    assert extent(arrow)[3] == extent(line)[3] == 180
    breadths = opacity(arrow).sum(axis=1)
    assert breadths[20:160] == pytest.approx(np.full(140, 4), abs=0.1)
    assert breadths[164:180].max() == pytest.approx(16, abs=1)
    assert breadths[178] < 3


def test_the_canvas_shows_through_a_half_transparent_line() -> None:
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


def test_a_label_is_to_the_right_of_its_point() -> None:
    columns = columns_with_ink(drawn(Points, {"points": [{"at": [0.3, 0.5], "label": "Point A"}], "radius": 0.05}))
    assert columns[:20] == list(range(110, 130))
    assert 132 <= columns[20] <= 134


def test_a_label_without_space_on_the_right_is_to_the_left_of_its_point() -> None:
    columns = columns_with_ink(drawn(Points, {"points": [{"at": [0.95, 0.5], "label": "Point A"}], "radius": 0.05}))
    assert columns[-20:] == list(range(370, 390))
    assert 365 <= columns[-21] <= 367


def test_half_transparent_text_has_no_opaque_pixels() -> None:
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


def test_swatches_divide_the_bottom_strip_equally() -> None:
    colors = ["#3B1518", "#2E2B25", "#1F3A4A"]
    pixels = drawn(Swatches, {"colors": colors}, size=(401, 200))
    assert extent(pixels) == (0, 170, 401, 200)
    assert (pixels[170:, :, 3] == 255).all()
    for x, color in zip((66, 200, 333), colors, strict=True):
        assert tuple(pixels[185, x, :3]) == tuple(bytes.fromhex(color[1:]))
    counts = [(pixels[185, :, :3] == list(bytes.fromhex(color[1:]))).all(axis=-1).sum() for color in colors]
    assert max(counts) - min(counts) <= 1


def test_swatches_fill_their_box() -> None:
    assert extent(drawn(Swatches, {"colors": ["red", "blue"], "box": [0.25, 0.1, 0.75, 0.3]})) == (100, 20, 300, 60)


# box


def test_the_outline_of_a_box_is_inside_and_has_the_given_width() -> None:
    pixels = drawn(Box, {"box": [0.25, 0.25, 0.75, 0.75], "width": 0.05})
    assert extent(pixels) == (100, 50, 300, 150)
    assert opacity(pixels).sum() == 200 * 100 - 180 * 80
    assert pixels[100, 200, 3] == 0


def test_outline_and_area_of_a_half_transparent_box_do_not_overlap() -> None:
    params = {"box": [0.25, 0.25, 0.75, 0.75], "width": 0.05, "color": "#ff000080", "fill": "#0000ff80"}
    pixels = drawn(Box, params)
    assert set(np.unique(pixels[..., 3])) == {0, 128}
    assert tuple(pixels[100, 200]) == (0, 0, 255, 128)
    assert tuple(pixels[52, 200]) == (255, 0, 0, 128)


# text


@pytest.mark.parametrize(
    ("anchor", "edges"),
    [("top left", (0, 1)), ("bottom right", (2, 3)), ("bottom left", (0, 3)), ("top right", (2, 1))],
)
def test_the_anchor_of_a_text_is_at_its_position(anchor: str, edges: tuple[int, int]) -> None:
    box = extent(drawn(Text, {"text": "this line", "at": [0.5, 0.5], "size": 0.1, "anchor": anchor}))
    assert (box[edges[0]], box[edges[1]]) == pytest.approx((200, 100), abs=2)


def test_the_centre_of_a_centred_text_is_at_its_position() -> None:
    left, top, right, bottom = extent(drawn(Text, {"text": "a\nlonger", "at": [0.5, 0.5], "size": 0.1}))
    assert ((left + right) / 2, (top + bottom) / 2) == pytest.approx((200, 100), abs=2)


def test_the_size_of_a_text_is_a_fraction_of_the_image_height() -> None:
    small, large = (
        extent(drawn(Text, {"text": "HI", "at": [0.5, 0.5], "size": size}, size=(800, 400))) for size in (0.1, 0.2)
    )
    assert large[3] - large[1] == pytest.approx(2 * (small[3] - small[1]), abs=2)


def test_a_text_at_the_edge_is_moved_inside() -> None:
    params = {"text": "tree", "size": 0.2, "anchor": "center"}
    inside, moved = (opacity(drawn(Text, {**params, "at": at})).sum() for at in ([0.5, 0.5], [1, 1]))
    assert moved == pytest.approx(inside, rel=0.02)


def test_blended_edges_of_a_text_have_its_colour() -> None:
    pixels = drawn(Text, {"text": "soft", "at": [0.5, 0.5], "size": 0.2, "color": "white"})
    edges = pixels[(pixels[..., 3] > 0) & (pixels[..., 3] < 255)]
    assert len(edges) > 20
    assert (edges[:, :3] >= 250).all()


def test_a_text_that_is_too_large_is_refused_with_the_largest_size() -> None:
    params = {"text": "this region is a large expanse", "at": [0.5, 0.5]}
    with pytest.raises(PluginError, match="as large as the image") as caught:
        drawn(Text, {**params, "size": 0.5})
    fitting = float((caught.value.hint or "").split("at most ")[1].split(",")[0])
    drawn(Text, {**params, "size": fitting * 0.98})


# image


def test_an_image_is_stretched_to_its_box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGBA", (7, 5), (0, 200, 0, 100)).save("green.png")
    pixels = drawn(ImageLayer, {"path": "green.png", "box": [0.5, 0.25, 0.75, 0.75]})
    assert extent(pixels) == (200, 50, 300, 150)
    assert np.abs(pixels[50:150, 200:300].astype(int) - (0, 200, 0, 100)).max() <= 2


def test_a_file_that_is_missing_or_not_an_image_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("notes.png").write_text("not an image")
    for path, message in (
        ("missing.png", "no such file: missing.png"),
        ("notes.png", "notes.png cannot be read as an image"),
        (".", "cannot be read as an image"),
    ):
        with pytest.raises(PluginError, match=message):
            ImageLayer(ImageLayer.Params(path=path))


# both forms of a rectangle

TWO_FORMS: list[tuple[Any, dict[str, Any], list[float], dict[str, Any]]] = [
    (Box, {"width": 0.02, "fill": "blue"}, [0.1, 0.2, 0.7, 0.9], {"from": [0.1, 0.2], "to": [0.7, 0.9]}),
    (ImageLayer, {"path": "stripes.png"}, [0.25, 0.5, 0.5, 0.75], {"at": [0.25, 0.5], "size": [0.25, 0.25]}),
    (ImageLayer, {"path": "stripes.png"}, [0.0, 0.0, 0.25, 0.5], {"size": [0.25, 0.5]}),
    (Swatches, {"colors": ["red", "blue"]}, [0.0, 0.1, 1.0, 0.3], {"top": 0.1, "height": 0.2}),
    (Swatches, {"colors": ["red", "blue"]}, [0.0, 0.5, 1.0, 0.65], {"top": 0.5}),
    (Swatches, {"colors": ["red", "blue"]}, [0.0, 0.85, 1.0, 1.0], {}),
]
"""A layer, its other parameters, a box, and the same rectangle in the older form."""


@pytest.mark.parametrize(("cls", "params", "box", "older"), TWO_FORMS)
def test_both_forms_of_a_rectangle_draw_the_same(
    cls: Any, params: dict[str, Any], box: list[float], older: dict[str, Any], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3) * 5).save("stripes.png")
    pixels = drawn(cls, {**params, "box": box})
    assert pixels[..., 3].any()
    assert np.array_equal(drawn(cls, {**params, **older}), pixels)


@pytest.mark.parametrize(("cls", "params", "box", "older"), [form for form in TWO_FORMS if form[3]])
def test_both_forms_of_a_rectangle_together_are_refused(
    cls: Any, params: dict[str, Any], box: list[float], older: dict[str, Any]
) -> None:
    for key, value in older.items():
        with pytest.raises(ValidationError, match=f"`box` is given twice: remove .*`{key}`.*, its older form"):
            cls.Params(**params, box=box, **{key: value})


@pytest.mark.parametrize("box", [[0.5, 0, 0.5, 1], [0, 0.5, 1, 0.5], [0.6, 0, 0.4, 1], [0, 0.6, 1, 0.4]])
@pytest.mark.parametrize(
    ("cls", "params"), [(Box, {}), (ImageLayer, {"path": "a.png"}), (Swatches, {"colors": ["red"]})]
)
def test_an_empty_rectangle_is_refused(cls: Any, params: dict[str, Any], box: list[float]) -> None:
    with pytest.raises(
        ValidationError, match=r"the box is empty; expected \[left, top, right, bottom\] with left < right"
    ):
        cls.Params(**params, box=box)


@pytest.mark.parametrize("corners", [{}, {"from": [0, 0]}, {"to": [1, 1]}])
def test_a_box_without_a_rectangle_is_refused(corners: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=r"`box` is missing; expected \[left, top, right, bottom\]"):
        Box.Params(**corners)


def test_shapes_outside_the_canvas_draw_nothing() -> None:
    canvas = Image.new("RGBA", (20, 20))
    fill_polygon(canvas, [(30, 30), (40, 30), (40, 40)], "red")
    fill_disc(canvas, (-9, 5), 3, "red")
    fill_rectangle(canvas, (25, 0), (30, 9), "red")
    assert canvas.getbbox() is None


# parameters


@pytest.mark.parametrize(
    ("cls", "params", "message"),
    [
        (
            Line,
            {"from": [0, 0], "to": [1, 1], "width": 0.1, "color": "redd"},
            "unknown colour 'redd'; did you mean `red`",
        ),
        (Line, {"from": [0, 0], "to": [1, 1], "width": 0.1, "color": "#12"}, "hex value such as #cc2244"),
        (Line, {"from": [0, 0], "to": [1, 1], "width": 0.1, "color": None}, "the colour is empty; quote hex values"),
        (Line, {"from": [0, 0], "to": [0, 0], "width": 0.1}, "`from` and `to` are equal"),
        (Line, {"from": [0, 0], "to": [1.2, 0], "width": 0.1}, "less than or equal to 1"),
        (Line, {"from": [0, 0], "to": [1, 0], "width": 0}, "greater than 0"),
        (Line, {"from": [0, 0], "to": [1, 0], "width": 0.1, "colour": "red"}, "Extra inputs"),
        (Points, {"points": []}, "at least 1"),
        (Points, {"points": [{"at": [0, 0], "name": "A"}]}, "Extra inputs"),
        (Swatches, {"colors": ["red", "nocolour"]}, "unknown colour 'nocolour'"),
        (Swatches, {"colors": ["red"], "top": 0.9, "height": 0.2}, "extends below the image: `top` . `height` is 1.1"),
        (Box, {"from": [0.5, 0.5], "to": [0.4, 0.9]}, "the box is empty; `from` must be above and to the left of `to`"),
        (Box, {"from": [0, 0], "to": [1, 1], "width": 0}, "nothing would be drawn"),
        (Text, {"text": "  ", "at": [0, 0]}, "pattern"),
        (Text, {"text": "a", "at": [0, 0], "anchor": "middle"}, "Input should be"),
        (ImageLayer, {"path": "a.png", "at": [0.5, 0]}, "extends beyond the image: `at` . `size` is above 1"),
    ],
)
def test_wrong_parameters_are_refused(cls: Any, params: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        cls.Params(**params)
