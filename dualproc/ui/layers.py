"""Drawing a visual prompt with the mouse: each gesture becomes a layer of the spec, or changes one.

Places are [x, y] as fractions of the image, as in a spec. A layer is a mapping with the key `type`; all functions
return new layers and leave the given ones as they are.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dualproc.errors import DualprocError
from dualproc.kit.image_files import load_image
from dualproc.run.files import make_folder, write_atomically

from .runs import inside

if TYPE_CHECKING:
    from PIL.Image import Image

Layer = Mapping[str, Any]
Point = tuple[float, float]

TOOLS = {
    "Pick and move": "Press on a layer and drag it.",
    "Line": "Drag from its start to its end.",
    "Arrow": "Drag from its start to its head.",
    "Box": "Drag from one corner to the opposite one.",
    "Filled box": "Drag from one corner to the opposite one.",
    "Point": "Click. Its label is the text below.",
    "Text": "Click. It says the text below.",
    "Swatches": "Drag a box. Its colours are the text below, such as `red, green`.",
    "Free-hand": "Draw. Further strokes join the chosen drawing.",
}
"""The tools, and how each is used."""
THICKNESS = {"line": "width", "box": "width", "points": "radius", "text": "size"}
"""The parameter of each type of layer that says how thick or large it is, as a fraction of the image height."""
DEFAULT = {"width": 0.02, "radius": 0.02, "size": 0.06}
IMAGES = "images"
"""The subfolder of the specs that has drawings and uploaded images."""
DRAWING = f"{IMAGES}/drawing_"
"""What the paths of free-hand drawings start with."""
EDGE, STRAIGHT, CLICK = 0.02, 0.05, 0.01
"""Ends of lines this near to the image's edge are moved to it; lines less oblique than this (radians) become upright
or level; a drag shorter than this is a click. Otherwise it is hard to draw a line across the image by hand."""
MAX_POINTS = 5000
"""Points of one free-hand stroke."""
MAX_BYTES = 12 * 2**20
"""Bytes of an uploaded image file."""
MAX_PIXELS = 2048 * 2048
"""Pixels of an uploaded image. The page scales larger ones down before it sends them."""
DRAWN = 1024
"""Height of a free-hand drawing in pixels."""


def points_of(data: Any) -> list[Point]:
    """The places of a gesture, moved into the image. Raises DualprocError if the browser sent anything else."""
    given = data if isinstance(data, list) else []
    if not 0 < len(given) <= MAX_POINTS or not all(_is_place(one) for one in given):
        raise DualprocError(f"nothing was drawn: expected 1 to {MAX_POINTS} places in the image")
    return [(_fraction(x), _fraction(y)) for x, y in given]


def drawn(tool: str, points: Sequence[Point], *, color: str, thickness: float, text: str) -> dict[str, Any]:
    """The layer that a gesture with a tool draws; not for `Free-hand` and `Pick and move`.

    Raises DualprocError if the gesture is too short for the tool.
    """
    start, end = points[0], points[-1]
    if tool == "Point":
        dot = {"at": [*start], **({"label": text.strip()} if text.strip() else {})}
        return {"type": "points", "points": [dot], "radius": thickness, "color": color}
    if tool == "Text":
        return {"type": "text", "text": text.strip() or "A", "at": [*start], "size": thickness, "color": color}
    if math.dist(start, end) < CLICK:
        raise DualprocError(f"{tool.lower()}: press the mouse button, and drag")
    if tool in ("Line", "Arrow"):
        start, end = _straight(start, end)
        arrow = {"arrow": True} if tool == "Arrow" else {}
        return {"type": "line", "from": [*start], "to": [*end], "width": thickness, "color": color, **arrow}
    box = _box(start, end)
    if tool == "Swatches":
        colors = [one.strip() for one in text.split(",") if one.strip()]
        return {"type": "swatches", "colors": colors or ["red", "green", "blue"], "box": box}
    fill = {"width": 0, "fill": color} if tool == "Filled box" else {"width": thickness}
    return {"type": "box", "box": box, "color": color, **fill}


def picked(layers: Sequence[Layer], point: Point) -> int | None:
    """The index of the topmost layer that is shown at a place; None if there is none."""
    for index in reversed(range(len(layers))):
        places = _numbers(layers[index])
        if places and not layers[index].get("hidden"):
            near = _reach(layers[index])
            (left, right), (top, bottom) = ((min(axis) - near, max(axis) + near) for axis in zip(*places, strict=True))
            if left <= point[0] <= right and top <= point[1] <= bottom:
                return index
    return None


def moved(layer: Layer, points: Sequence[Point]) -> dict[str, Any]:
    """The layer moved from the first point to the last, as far as the image's edge.

    Raises DualprocError if its place is a placeholder, which the variants of a spec fill in.
    """
    places = _numbers(layer)
    if not places:
        raise DualprocError(
            f"the layer `{layer.get('type')}` cannot be moved with the mouse: it covers the image, or its place is a "
            "placeholder of the variants",
            hint="change it in the table or in the YAML text",
        )
    (x0, y0), (x1, y1) = points[0], points[-1]
    by = [
        min(max(step, -min(axis)), 1 - max(axis))
        for step, axis in zip((x1 - x0, y1 - y0), zip(*places, strict=True), strict=True)
    ]

    def place(value: Sequence[float]) -> list[float]:
        """A place [x, y] or box [left, top, right, bottom], moved."""
        return [_fraction(one + by[index % 2]) for index, one in enumerate(value)]

    new = {key: place(value) if key in ("from", "to", "at", "box") else value for key, value in layer.items()}
    if layer.get("type") == "points":
        new["points"] = [{**dot, "at": place(dot["at"])} for dot in layer["points"]]
    if layer.get("type") == "swatches" and "box" not in layer:
        left, top, right, bottom = _strip(layer)
        new = {key: value for key, value in new.items() if key not in ("top", "height")}
        new["box"] = place([left, top, right, bottom])
    return new


def with_look(layer: Layer, *, color: str, thickness: float, text: str) -> dict[str, Any]:
    """The layer with another colour, thickness and text, as far as its type has them; what is the same is kept."""
    kind, new = str(layer.get("type")), dict(layer)
    before = look_of(layer)
    if before[0] is not None and _hex(color) != before[0]:
        new["color"] = color
        if "fill" in layer:
            new["fill"] = color
    if before[1] is not None and thickness != before[1] and thickness > 0:
        new[THICKNESS[kind]] = thickness
    text = text.strip()
    if text == before[2].strip():
        return new
    if kind == "text" and text:
        new["text"] = text
    if kind == "swatches" and (colors := [one.strip() for one in text.split(",") if one.strip()]):
        new["colors"] = colors
    if kind == "points" and len(dots := layer.get("points") or []) == 1:
        dot = {key: value for key, value in dots[0].items() if key != "label"}
        new["points"] = [{**dot, "label": text} if text else dot]
    return new


def look_of(layer: Layer) -> tuple[str | None, float | None, str]:
    """Colour (hex), thickness and text of a layer; None where it has none."""
    kind = str(layer.get("type"))
    key = THICKNESS.get(kind)
    size = layer.get(key, DEFAULT[key] if kind != "box" else 0.01) if key else None
    text = str(layer.get("text", ""))
    if kind == "swatches":
        text = ", ".join(map(str, layer.get("colors") or []))
    if kind == "points" and len(dots := layer.get("points") or []) == 1:
        text = str(dots[0].get("label", "")) if isinstance(dots[0], Mapping) else ""
    color = _hex(str(layer.get("color", "red"))) if kind in THICKNESS else None
    filled = kind == "box" and size == 0  # an area without an outline: it has no thickness
    return color, size if isinstance(size, (int, float)) and not filled else None, text


def ordered(layers: Sequence[Layer], index: int, by: int) -> tuple[list[Layer], int]:
    """The layers with one moved up (`by` 1) or down (-1), and its new index."""
    new, target = list(layers), min(max(index + by, 0), len(layers) - 1)
    new.insert(target, new.pop(index))
    return new, target


def name_of(index: int, layer: Layer) -> str:
    """What the list of layers calls a layer: `2: line, red`."""
    look = next((str(layer[key]) for key in ("text", "path", "color") if layer.get(key)), "")
    return f"{index + 1}: {layer.get('type')}{f', {look[:30]}' if look else ''}" + (
        " (hidden)" if layer.get("hidden") else ""
    )


def color_of(given: str) -> str:
    """A colour of the page's colour field as the spec writes it: its CSS name if it has one, or its hex value.

    Red if it is unknown.
    """
    import re

    from PIL import ImageColor

    parts = re.fullmatch(r"rgba?\(([^)]*)\)", given.strip())
    if parts:
        try:
            red, green, blue, *alpha = (float(part) for part in parts[1].split(","))
        except ValueError:
            return "red"
        values = [red, green, blue] + ([255 * alpha[0]] if alpha and alpha[0] < 1 else [])
        given = "#" + "".join(f"{min(max(round(value), 0), 255):02x}" for value in values)
    given = given.strip().lower()
    named = next((name for name in ImageColor.colormap if _hex(name) == given), None)
    return named or (given if _hex(given) else "red")


# --- drawings and uploads, saved as image files beside the spec -----------------------------------------------------


def stroke(
    folder: Path, points: Sequence[Point], *, color: str, thickness: float, aspect: float, onto: str | None
) -> str:
    """Draw a free-hand stroke into an image file in the folder of the specs; returns its path, relative to `folder`.

    `thickness` is a fraction of the image height, `aspect` its width divided by its height. `onto` is the path of a
    drawing that the stroke joins; that file stays as it is, because saved specs may name it.

    Raises DualprocError if a file cannot be read or written.
    """
    from PIL import Image, ImageDraw

    width = round(DRAWN * min(max(aspect, 0.2), 5.0)) if math.isfinite(aspect) else DRAWN
    image = Image.new("RGBA", (width, DRAWN))
    if onto is not None and onto.startswith(DRAWING) and inside(folder / onto, folder):
        image = load_image(folder / onto, max_pixels=5 * DRAWN * DRAWN).convert("RGBA")
    radius = max(1.0, thickness * image.height / 2)
    ends = [(x * image.width, y * image.height) for x, y in points]
    pen = ImageDraw.Draw(image)
    pen.line(ends, fill=color, width=round(2 * radius))
    for x, y in ends:  # round ends and joints
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=color)
    return _keep(folder, image, "drawing")


def upload(folder: Path, data: Any) -> str:
    """Save an image that the browser sent, `data:image/...;base64,...`, in the folder of the specs; returns its path.

    Only the pixels are kept, as a PNG file named by its content. Raises DualprocError if it is not an image, or has
    more than `MAX_BYTES` or `MAX_PIXELS`.
    """
    head, _, body = data.partition(",") if isinstance(data, str) else ("", "", "")
    if not head.startswith("data:image/") or len(body) > MAX_BYTES * 4 // 3 + 4:
        raise DualprocError(f"not an image file of at most {MAX_BYTES // 2**20} MiB")
    try:
        content = base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError):
        raise DualprocError("the image did not arrive complete: choose it again") from None
    made = _place(folder, f"{IMAGES}/{hashlib.sha256(content).hexdigest()[:12]}.upload")
    write_atomically(made, content)
    try:
        image = load_image(made, max_pixels=MAX_PIXELS)
    except DualprocError as error:
        raise DualprocError(error.message.replace(str(made), "the file"), hint="use a PNG or JPEG file") from None
    finally:
        made.unlink(missing_ok=True)
    return _keep(folder, image, "upload")


def _keep(folder: Path, image: Image, kind: str) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    path = f"{IMAGES}/{kind}_{hashlib.sha256(buffer.getvalue()).hexdigest()[:12]}.png"
    write_atomically(_place(folder, path), buffer.getvalue())
    return path


def _place(folder: Path, path: str) -> Path:
    """Where a file can be written. Raises DualprocError if a link leads out of the folder."""
    file = folder / path
    make_folder(file.parent)
    if not inside(file, folder):
        raise DualprocError(f"{file.parent} leads out of the folder of the specs", hint="delete this link")
    return file


# --- places ---------------------------------------------------------------------------------------------------------


def _is_place(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(isinstance(one, (int, float)) and math.isfinite(one) for one in value)
    )


def _fraction(value: float) -> float:
    """In [0, 1], with three decimals: a third of a pixel of the shipped generator's enlarged images."""
    return round(min(max(float(value), 0.0), 1.0), 3)


def _straight(start: Point, end: Point) -> tuple[Point, Point]:
    """A line's ends, moved to the image's edge if they are near it, and upright or level if it is almost so."""
    (x0, y0), (x1, y1) = start, end
    angle = math.atan2(abs(y1 - y0), abs(x1 - x0))
    if angle < STRAIGHT:
        y0 = y1 = _fraction((y0 + y1) / 2)
    if angle > math.pi / 2 - STRAIGHT:
        x0 = x1 = _fraction((x0 + x1) / 2)
    along_x, along_y = angle <= math.pi / 4, angle >= math.pi / 4
    snapped = [((_edge(x) if along_x else x), (_edge(y) if along_y else y)) for x, y in ((x0, y0), (x1, y1))]
    return snapped[0], snapped[1]


def _edge(value: float) -> float:
    return 0.0 if value < EDGE else 1.0 if value > 1 - EDGE else value


def _box(one: Point, other: Point) -> list[float]:
    (left, right), (top, bottom) = (sorted(axis) for axis in zip(one, other, strict=True))
    return [left, top, max(right, left + CLICK), max(bottom, top + CLICK)]


def _strip(layer: Layer) -> tuple[float, float, float, float]:
    """Where swatches without `box` are, see the layer `swatches`."""
    top, height = layer.get("top", 0.85), layer.get("height", 0.15)
    known = isinstance(top, (int, float)) and isinstance(height, (int, float))
    return (0.0, float(top), 1.0, float(top + height)) if known else (0.0, 0.0, 1.0, 1.0)


def _numbers(layer: Layer) -> list[Point]:
    """The corners of a layer as numbers; empty if it has none, or they are placeholders."""
    given: list[Any] = [layer[key] for key in ("from", "to", "at", "box") if key in layer]
    if layer.get("type") == "points":
        given = [dot.get("at") if isinstance(dot, Mapping) else None for dot in layer.get("points") or []]
    if layer.get("type") == "swatches" and "box" not in layer:
        given = [[*_strip(layer)]]
    if layer.get("type") == "image" and ("at" in layer) != ("size" in layer):
        return []
    if not all(isinstance(one, (list, tuple)) and len(one) in (2, 4) for one in given):
        return []
    flat = [number for one in given for number in one]
    if layer.get("type") == "image" and "size" in layer and len(flat) == 2:
        size = layer["size"]
        flat += [flat[0] + size[0], flat[1] + size[1]] if _is_place(list(size)) and _is_place(flat) else [None]
    if not all(isinstance(one, (int, float)) and not isinstance(one, bool) for one in flat):
        return []
    return [(flat[index], flat[index + 1]) for index in range(0, len(flat), 2)]


def _reach(layer: Layer) -> float:
    """How far from its corners a layer can be picked."""
    _, size, _ = look_of(layer)
    return max(0.03, (size or 0.0) * (1.5 if layer.get("type") == "text" else 1.0))


def _hex(color: str) -> str | None:
    """A colour as `#rrggbb`; None if Pillow does not know it."""
    from PIL import ImageColor

    try:
        return "#" + "".join(f"{value:02x}" for value in ImageColor.getrgb(color)[:3])
    except ValueError:
        return None
