"""The small world: cartoon scenes composed from OpenMoji drawings, with known ground truth.

A scene is a caption (its subjects and setting) and a vector of CODES, each uniform in [0, 1]. The codes determine
everything that the caption leaves open: line weight, horizon, colours, sizes, places. All labels follow from them.
Drawings: OpenMoji, CC BY-SA 4.0 (see NOTICE), from the npm package `@iconify-json/openmoji`.
"""

from __future__ import annotations

import colorsys
import dataclasses
import io
import json
import math
import re
import subprocess
import tarfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache, lru_cache
from pathlib import Path
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

OPENMOJI_PACKAGE = "@iconify-json/openmoji@1.2.29"
CACHE = Path(__file__).resolve().parents[2] / ".cache" / "tiny_world"

SUBJECTS: dict[str, str] = {  # word in the caption: name of the drawing in OpenMoji
    "cat": "cat-face", "dog": "dog", "sheep": "ewe", "elephant": "elephant", "penguin": "penguin",
    "horse": "horse", "pig": "pig", "rabbit": "rabbit", "camel": "camel", "tree": "deciduous-tree",
    "house": "house", "swan": "swan", "duck": "duck", "giraffe": "giraffe", "bear": "polar-bear",
    "snail": "snail", "cactus": "cactus", "mushroom": "mushroom", "owl": "owl", "turtle": "turtle",
    "frog": "frog", "man": "man", "dinosaur": "t-rex", "car": "automobile",
}  # fmt: skip
HELD_OUT = ("sheep", "elephant", "rabbit", "duck", "house", "owl")
"""Subjects that are neither in the judge's training nor in the training prompts of a spec."""
SETTINGS: dict[str, str | None] = {
    "": None,
    "on a sunny day": "full-moon",
    "on a cloudy day": "cloud",
    "in the moonlight": "crescent-moon",
}
NAMES = list(SUBJECTS)
PHRASES = list(SETTINGS)
KNOWN = [name for name in NAMES if name not in HELD_OUT]

CODES = (
    "line_weight", "horizon",
    "sky_hue", "sky_saturation", "sky_value", "ground_hue", "ground_saturation", "ground_value",
    "x_a", "size_a", "depth_a", "x_b", "size_b", "depth_b", "x_setting",
)  # fmt: skip
CODE = {name: index for index, name in enumerate(CODES)}

LINE_WEIGHT_MEDIAN, LINE_WEIGHT_LOG_SD, LINE_WEIGHT_RANGE = 0.024, 0.38, (0.011, 0.052)
WIDE_RANGE = (0.003, 0.08)
HORIZON_RANGE = (0.22, 0.68)
WIDE_HORIZON_RANGE = (0.1, 0.88)
MIN_LUMINANCE = 0.5
"""Fills with a lower luminance are lightened, so that only ink is black."""
MIN_GROUND_LUMINANCE = 0.42
"""The same for sky and ground, which are not next to small dark parts."""

GROUNDS = {"snow": "#f2f5fa", "sand": "#ecd29a", "grass": "#9ccf74", "water": "#86c5e8"}
"""Covers of the ground and their colours; wide scenes often have a colour near one of these, others only by chance."""
COLOURS = {
    "blue": "#8fc1f0", "pink": "#f5b5cf", "yellow": "#f5e08c", "green": "#a9dba0", "purple": "#c3a9e6",
    "orange": "#f4b98a", "white": "#f8f8f8", "gray": "#bdbdbd",
}  # fmt: skip
"""Colours in questions about the sky."""

ALIKE = 0.25
"""Share of wide scenes whose ground has nearly the colour of the sky: generators that are trained can do the same."""


@dataclasses.dataclass(frozen=True)
class Scene:
    """One scene: the names of one or two subjects, a setting phrase, and a number in [0, 1] for each of CODES."""

    subjects: tuple[str, ...]
    setting: str
    codes: npt.NDArray[np.float32]
    wide: bool = False
    """Whether values go far beyond what the generator draws: a judge must have seen more than a task asks for."""
    colours: tuple[str, str] | None = None
    """Colours of sky and ground, if the codes do not determine them."""
    measured: float | None = None
    """Line weight that the scorer measured on a generated image, which may differ from the intended one."""

    @property
    def line_weight(self) -> float:
        """Width of the outlines as a fraction of the image's height."""
        if self.measured is not None:
            return self.measured
        if self.wide:
            return float(WIDE_RANGE[0] * (WIDE_RANGE[1] / WIDE_RANGE[0]) ** self._code("line_weight"))
        u = min(max(float(self.codes[CODE["line_weight"]]), 1e-4), 1 - 1e-4)
        weight = LINE_WEIGHT_MEDIAN * math.exp(LINE_WEIGHT_LOG_SD * NormalDist().inv_cdf(u))
        return min(max(weight, LINE_WEIGHT_RANGE[0]), LINE_WEIGHT_RANGE[1])

    @property
    def horizon(self) -> float:
        """Row of the horizon as a fraction of the image's height, from the top."""
        return _lerp(*(WIDE_HORIZON_RANGE if self.wide else HORIZON_RANGE), self._code("horizon"))

    @property
    def palette(self) -> tuple[str, str]:
        """Colours of sky and ground, `#rrggbb`."""
        if self.colours is not None:
            return self.colours
        sky = colorsys.hsv_to_rgb(
            self._code("sky_hue"),
            _lerp(0.05, 0.55, self._code("sky_saturation")),
            _lerp(0.72, 1, self._code("sky_value")),
        )
        ground = colorsys.hsv_to_rgb(
            self._code("ground_hue"),
            _lerp(0.06, 0.62, self._code("ground_saturation")),
            _lerp(0.55, 0.97, self._code("ground_value")),
        )
        return hex_color(_at_least(MIN_GROUND_LUMINANCE, sky)), hex_color(_at_least(MIN_GROUND_LUMINANCE, ground))

    @property
    def boxes(self) -> list[tuple[float, float, float]]:
        """Per subject: centre x, foot y and size (the longer side), as fractions of the image."""
        if len(self.subjects) == 1:
            size = _lerp(*((0.26, 0.7) if self.wide else (0.48, 0.68)), self._code("size_a"))
            highest = min(max(self.horizon + 0.08, size + 0.06), 0.95)
            x = _lerp(*((0.15, 0.85) if self.wide else (0.30, 0.70)), self._code("x_a"))
            return [(x, _lerp(highest, 0.95, self._code("depth_a")), size)]
        boxes = []
        for which, left in (("a", 0.20), ("b", 0.68)):  # the first subject is on the left
            near = self._code(f"depth_{which}")
            size = _lerp(0.32, 0.54, near) * _lerp(0.94, 1.06, self._code(f"size_{which}"))
            foot = _lerp(min(max(self.horizon + 0.08, 0.45), 0.9), 0.96, near)
            boxes.append((left + 0.12 * self._code(f"x_{which}"), foot, size))
        return boxes

    @property
    def extents(self) -> list[tuple[float, float, float, float]]:
        """Per subject: left, top, right, bottom of its drawing, as fractions of the image."""
        out = []
        for (x, foot, size), name in zip(self.boxes, self.subjects, strict=True):
            left, top, right, bottom = ink_box(SUBJECTS[name])
            scale = size / max(right - left, bottom - top)
            half, height = scale * (right - left) / 2, scale * (bottom - top)
            out.append((x - half, foot - height, x + half, foot))
        return out

    @property
    def nearness(self) -> tuple[float, ...]:
        """Per subject: 0 at the farthest possible place, 1 at the nearest."""
        return tuple(self._code(f"depth_{which}") for which, _ in zip("ab", self.subjects, strict=False))

    @property
    def caption(self) -> str:
        """See the function `caption`."""
        return caption(self.subjects, self.setting)

    def _code(self, name: str) -> float:
        return float(self.codes[CODE[name]])


def caption(subjects: tuple[str, ...], setting: str = "") -> str:
    """The text that the generator is trained on: "a cartoon of a cat and an owl on a sunny day"."""
    named = " and ".join(f"{'an' if name[0] in 'aeiou' else 'a'} {name}" for name in subjects)
    return f"a cartoon of {named} {setting}".strip()


def draw_scenes(
    count: int, *, seed: int, pairs: float = 0.0, names: list[str] | None = None, wide: float = 0.0
) -> list[Scene]:
    """`count` random scenes; `pairs` is the share with two subjects, `wide` the share of wide scenes (`Scene.wide`)."""
    rng = np.random.default_rng(seed)
    names = names or NAMES
    scenes = []
    for _ in range(count):
        two = rng.random() < pairs
        subjects = tuple(str(name) for name in rng.choice(names, size=2 if two else 1, replace=False))
        setting = PHRASES[rng.integers(1, len(PHRASES))] if rng.random() < 0.4 else ""
        codes = rng.random(len(CODES), dtype=np.float32)
        beyond = bool(wide and rng.random() < wide)
        colours = _draw_colours(rng) if beyond else None
        scenes.append(Scene(subjects, setting, codes, wide=beyond, colours=colours))
    return scenes


def _draw_colours(rng: np.random.Generator) -> tuple[str, str]:
    """Colours of sky and ground of a wide scene: near one that questions name, or any that is bright enough for ink."""

    def near(prototypes: dict[str, str]) -> str:
        if rng.random() < 0.35:
            return hex_color(_at_least(0.32, tuple(rng.random(3))))
        rgb = np.array([int(str(rng.choice(list(prototypes.values())))[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        return hex_color(_at_least(0.32, tuple((rgb + rng.normal(0, 0.05, 3)).clip(0, 1))))

    sky = near(COLOURS)
    if rng.random() < ALIKE:
        rgb = np.array([int(sky[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        return sky, hex_color(_at_least(0.32, tuple((rgb + rng.normal(0, rng.choice([0.01, 0.06]), 3)).clip(0, 1))))
    return sky, near(GROUNDS)


def to_svg(scene: Scene, size: int) -> str:
    """The scene as an SVG of `size` x `size` pixels."""
    sky, ground = scene.palette
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1 1" width="{size}" height="{size}">',
        f'<rect width="1" height="1" fill="{sky}"/>',
        f'<rect y="{scene.horizon}" width="1" height="1" fill="{ground}"/>',
    ]
    drawing = SETTINGS[scene.setting]
    if drawing:
        x = _lerp(0.14, 0.86, scene._code("x_setting"))
        parts.append(_place(drawing, x, 0.26, 0.21, scene.line_weight))
    order = sorted(zip(scene.boxes, scene.subjects, strict=True))
    for (x, foot, extent), name in sorted(order, key=lambda item: item[0][1]):  # nearer subjects cover farther ones
        parts.append(_place(SUBJECTS[name], x, foot, extent, scene.line_weight))
    return "".join(parts) + "</svg>"


def render(scene: Scene, size: int = 64) -> npt.NDArray[np.uint8]:
    """The scene as an array [size, size, 3] of uint8."""
    import resvg_py
    from PIL import Image

    png = bytes(resvg_py.svg_to_bytes(svg_string=to_svg(scene, size)))
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def render_all(scenes: list[Scene], size: int = 64, *, workers: int = 2) -> npt.NDArray[np.uint8]:
    """Renders of all scenes, [N, size, size, 3] of uint8, made by `workers` processes."""
    for name in drawings():  # downloaded and measured once, before the workers are forked
        ink_box(name)
    chunks = [scenes[i : i + 500] for i in range(0, len(scenes), 500)]
    with ProcessPoolExecutor(workers) as pool:
        return np.concatenate(list(pool.map(_render_chunk, chunks, [size] * len(chunks))))


def _render_chunk(scenes: list[Scene], size: int) -> npt.NDArray[np.uint8]:
    return np.stack([render(scene, size) for scene in scenes])


# --- the drawings -----------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def drawings() -> dict[str, str]:
    """Name -> SVG body (72 x 72 units) of the OpenMoji drawings, downloaded from npm once."""
    kept = CACHE / "openmoji.json"
    if not kept.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        out = subprocess.run(["npm", "pack", OPENMOJI_PACKAGE], cwd=CACHE, check=True, capture_output=True, text=True)
        with tarfile.open(CACHE / out.stdout.strip().splitlines()[-1]) as tar:
            member = tar.extractfile("package/icons.json")
            assert member is not None
            kept.write_bytes(member.read())
    icons = json.loads(kept.read_text())["icons"]
    wanted = [*SUBJECTS.values(), *(name for name in SETTINGS.values() if name)]
    return {name: _lighten(icons[name]["body"]) for name in wanted}


@cache
def ink_box(name: str) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of a drawing's visible area, in its own 72 units, without half of the outer stroke."""
    import resvg_py
    from PIL import Image

    scale = 8
    side = f'width="{72 * scale}" height="{72 * scale}"'
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 72 72" {side}>{drawings()[name]}</svg>'
    image = Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg))))
    box = image.getchannel("A").point(lambda a: 255 * (a > 127)).getbbox()
    assert box is not None
    return box[0] / scale + 1, box[1] / scale + 1, box[2] / scale - 1, box[3] / scale - 1


def _place(name: str, x: float, foot: float, extent: float, line_weight: float) -> str:
    left, top, right, bottom = ink_box(name)
    scale = extent / max(right - left, bottom - top)
    # OpenMoji's outlines are 2 of 72 units wide; other strokes keep their proportion to them.
    width = line_weight / scale / 2
    body = re.sub(r'stroke-width="([\d.]+)"', lambda m: f'stroke-width="{float(m[1]) * width:.4f}"', drawings()[name])
    # A stroke without a width is 1 unit wide.
    body = f'<g stroke-width="{width:.4f}">{body}</g>'
    return (
        f'<g transform="translate({x - scale * (left + right) / 2} {foot - scale * bottom}) scale({scale})">{body}</g>'
    )


def _lighten(body: str) -> str:
    def lightened(match: re.Match[str]) -> str:
        digits = match[1] if len(match[1]) == 6 else "".join(2 * c for c in match[1])
        rgb = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        if max(rgb) < 0.02:  # pure black is ink: eyes, nostrils
            return match[0]
        return f'fill="{hex_color(_at_least(MIN_LUMINANCE, rgb))}"'

    return re.sub(r'fill="#([0-9a-fA-F]{6}|[0-9a-fA-F]{3})"', lightened, body)


def _lerp(low: float, high: float, share: float) -> float:
    return low + (high - low) * share


def _at_least(luminance: float, rgb: Sequence[float]) -> tuple[float, ...]:
    """The colour, mixed with white until its luminance is at least `luminance`."""
    own = 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2]
    share = max(0.0, luminance - own) / max(1 - own, 1e-6)
    return tuple(c + (1 - c) * share for c in rgb)


def hex_color(rgb: tuple[float, ...]) -> str:
    return "#" + "".join(f"{round(255 * c):02x}" for c in rgb)
