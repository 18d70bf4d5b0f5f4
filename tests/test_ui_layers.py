"""Drawing a visual prompt in `dp ui`: what each gesture does to the layers of a spec, and which images it accepts."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dualproc.errors import DualprocError
from dualproc.ui import layers as layers_of
from dualproc.ui import task

LOOK: dict[str, Any] = {"color": "red", "thickness": 0.02, "text": ""}


def check(layers: list[Any], runs: Path) -> str:
    """What the spec check says about a task with these layers."""
    return task.check(task.with_layers(task.EMPTY, task.rows_of(layers), "solid", 0.5), runs).message


@pytest.mark.parametrize("tool", [tool for tool in layers_of.TOOLS if tool not in ("Free-hand", "Pick and move")])
def test_every_tool_draws_a_valid_layer_that_can_be_picked_and_moved(tool: str, tmp_path: Path) -> None:
    start, end = (0.2, 0.3), (0.5, 0.7)
    layer = layers_of.drawn(tool, [start, end], color="#1133aa", thickness=0.04, text="red, lime")
    assert check([layer], tmp_path).startswith("ok: ")
    assert layers_of.picked([layer], start) == 0
    moved = layers_of.moved(layer, [start, (start[0] + 0.1, start[1])])
    assert moved != layer
    assert check([moved], tmp_path).startswith("ok: ")
    assert layers_of.picked([layers_of.moved(layer, [(0.2, 0.3), (0.9, 0.95)])], start) is None
    hidden = {**layer, "hidden": True}
    assert check([hidden], tmp_path).startswith("ok: ")
    assert layers_of.picked([hidden], start) is None


def test_line_across_the_image_is_level_and_reaches_the_edges() -> None:
    line = layers_of.drawn("Line", [(0.012, 0.62), (0.991, 0.63)], **LOOK)
    assert (line["from"], line["to"]) == ([0.0, 0.625], [1.0, 0.625])
    oblique = layers_of.drawn("Arrow", [(0.2, 0.2), (0.5, 0.4)], **LOOK)
    assert (oblique["from"], oblique["to"], oblique["arrow"]) == ([0.2, 0.2], [0.5, 0.4], True)


def test_gesture_without_length_is_refused_where_a_length_is_needed() -> None:
    for tool in ("Line", "Arrow", "Box", "Filled box", "Swatches"):
        with pytest.raises(DualprocError, match="drag"):
            layers_of.drawn(tool, [(0.5, 0.5)], **LOOK)


@pytest.mark.parametrize("data", [None, [], "x", [[0, 0]] * 5001, [[0]], [[0, "1"]], [[0, float("nan")]], {"a": 1}])
def test_places_that_a_crafted_request_sends_are_refused(data: Any) -> None:
    with pytest.raises(DualprocError, match="nothing was drawn"):
        layers_of.points_of(data)
    assert layers_of.points_of([[-3, 0.12345], [7, 1]]) == [(0.0, 0.123), (1.0, 1.0)]


def test_layers_stay_in_the_image_and_placeholders_are_not_overwritten() -> None:
    box = {"type": "box", "box": [0.1, 0.1, 0.4, 0.5]}
    assert layers_of.moved(box, [(0.2, 0.2), (1.0, 1.0)])["box"] == [0.7, 0.6, 1.0, 1.0]
    strip = layers_of.moved({"type": "swatches", "colors": ["red"]}, [(0.5, 0.9), (0.5, 0.1)])
    assert strip["box"] == pytest.approx([0.0, 0.05, 1.0, 0.2])
    for fixed in ({"type": "line", "from": [0, "{row}"], "to": [1, "{row}"]}, {"type": "image", "path": "a.png"}):
        with pytest.raises(DualprocError, match="cannot be moved with the mouse"):
            layers_of.moved(fixed, [(0.5, 0.5), (0.6, 0.6)])


def test_look_of_a_layer_is_changed_where_it_differs_only() -> None:
    line = {"type": "line", "from": [0, 0.5], "to": [1, 0.5], "width": 0.02, "color": "red"}
    assert layers_of.with_look(line, color="#ff0000", thickness=0.02, text="x") == line
    changed = layers_of.with_look(line, color="#00ff00", thickness=0.1, text="")
    assert (changed["color"], changed["width"]) == ("#00ff00", 0.1)
    filled = layers_of.drawn("Filled box", [(0.1, 0.1), (0.5, 0.5)], **LOOK)
    assert layers_of.with_look(filled, color="blue", thickness=0.3, text="") == {
        **filled,
        "color": "blue",
        "fill": "blue",
    }
    dots = {"type": "points", "points": [{"at": [0.1, 0.1], "label": "A"}], "color": "red", "radius": 0.02}
    assert layers_of.with_look(dots, color="red", thickness=0.02, text="B")["points"][0]["label"] == "B"
    swatches = {"type": "swatches", "colors": ["red"]}
    assert layers_of.with_look(swatches, color="red", thickness=0.1, text="blue, lime")["colors"] == ["blue", "lime"]


def test_order_and_names() -> None:
    layers: list[Any] = [{"type": "line", "color": "red"}, {"type": "text", "text": "A", "hidden": True}]
    assert layers_of.ordered(layers, 0, 1) == (layers[::-1], 1)
    assert layers_of.ordered(layers, 0, -1) == (layers, 0)
    assert [layers_of.name_of(*one) for one in enumerate(layers)] == ["1: line, red", "2: text, A (hidden)"]


@pytest.mark.parametrize(
    ("given", "color"),
    [("rgba(255, 0, 16, 1)", "#ff0010"), ("rgba(0,0,0,0.5)", "#00000080"), ("#FF0000", "red"),
     ("rgb(0, 0, 255)", "blue"), ("#12ab34", "#12ab34"), ("lime", "lime"),
     ("no colour", "red"), ("rgba(x)", "red")],
)  # fmt: skip
def test_colours_of_the_colour_field(given: str, color: str) -> None:
    assert layers_of.color_of(given) == color


# --- files ------------------------------------------------------------------------------------------------------


def test_strokes_join_a_drawing_and_older_drawings_stay(tmp_path: Path) -> None:
    specs = tmp_path / "specs"
    first = layers_of.stroke(specs, [(0.1, 0.1), (0.4, 0.4)], color="red", thickness=0.05, aspect=1.0, onto=None)
    second = layers_of.stroke(specs, [(0.9, 0.9)], color="blue", thickness=0.05, aspect=1.0, onto=first)
    assert first != second
    assert check([{"type": "image", "path": second}], tmp_path).startswith("ok: ")
    image = Image.open(specs / second)
    assert (image.size, image.mode) == ((1024, 1024), "RGBA")
    places = ((0.25, 0.25), (0.9, 0.9), (0.6, 0.2))
    assert [image.getpixel((int(x * 1024), int(y * 1024))) for x, y in places] == [
        (255, 0, 0, 255), (0, 0, 255, 255), (0, 0, 0, 0),
    ]  # fmt: skip
    assert Image.open(specs / first).getpixel((921, 921)) == (0, 0, 0, 0)
    wide = layers_of.stroke(specs, [(0.1, 0.1)], color="red", thickness=0.05, aspect=float("inf"), onto="../../x.png")
    assert Image.open(specs / wide).size == (1024, 1024)


def sent(image: Image.Image, form: str = "PNG") -> str:
    buffer = io.BytesIO()
    image.save(buffer, form)
    return f"data:image/x;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def test_uploaded_image_is_kept_as_pixels_only(tmp_path: Path) -> None:
    path = layers_of.upload(tmp_path / "specs", sent(Image.new("RGB", (30, 20), "purple"), "JPEG"))
    image = Image.open(tmp_path / "specs" / path)
    assert (image.size, image.format) == ((30, 20), "PNG")
    assert check([{"type": "image", "path": path}], tmp_path).startswith("ok: ")
    assert [file.name for file in (tmp_path / "specs" / "images").iterdir()] == [Path(path).name]


@pytest.mark.parametrize(
    "data",
    [None, 3, "", "data:text/html;base64,AAAA", "data:image/png;base64,", "data:image/png;base64,????",
     "data:image/png;base64," + base64.b64encode(b"<svg onload=alert(1)>" * 9).decode(),
     "data:image/png;base64," + "A" * 17_000_000, "/etc/passwd", "file:///etc/passwd"],
)  # fmt: skip
def test_upload_of_anything_else_is_refused_and_leaves_nothing(data: Any, tmp_path: Path) -> None:
    with pytest.raises(DualprocError):
        layers_of.upload(tmp_path / "specs", data)
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == []


def test_image_of_too_many_pixels_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with pytest.raises(DualprocError, match="expected at most"):
        layers_of.upload(tmp_path, sent(Image.new("1", (20_000, 2_000))))


def test_image_is_not_written_through_a_link_out_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "specs").mkdir()
    (tmp_path / "specs" / "images").symlink_to(tmp_path / "outside")
    with pytest.raises(DualprocError, match="leads out of the folder"):
        layers_of.upload(tmp_path / "specs", sent(Image.new("RGB", (3, 3))))
    with pytest.raises(DualprocError, match="leads out of the folder"):
        layers_of.stroke(tmp_path / "specs", [(0, 0)], color="red", thickness=0.1, aspect=1.0, onto=None)
    assert list((tmp_path / "outside").iterdir()) == []
