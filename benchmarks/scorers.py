"""Accuracy of the classical scorers over image size, on rendered scenes whose truth is known.

    python benchmarks/scorers.py [--sizes 64 256 512 1024] [--scenes 12] [--tune] [--only horizon ...]

Every scene is drawn at every size, on four kinds of surface: *flat* colours without noise; *gradient*; *texture*
(fractal noise); *photo* (a photograph, or its shading in the scene's colours). All but the flat ones get grain and JPEG
compression. *nothing*: photographs, noise and a gradient that have nothing to measure; a scorer should give no value.

The default seeds and photographs are those of the published table. `--tune` draws other scenes with other photographs,
for work on the scorers. The photographs come with scikit-image; none is downloaded. `LEGEND`, printed below the table,
describes its cells.
"""

from __future__ import annotations

import argparse
import io
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw

from dualproc.kit.colors import distances, to_lab
from dualproc.plugins.scorers.composition import Composition
from dualproc.plugins.scorers.depth_order import DepthOrder
from dualproc.plugins.scorers.horizon import Horizon
from dualproc.plugins.scorers.line_weight import LineWeight
from dualproc.plugins.scorers.palette import Palette, palette_distance
from dualproc.plugins.scorers.region_color import RegionColor
from dualproc.protocols import Scorer
from dualproc.types import ScoreContext

Pixels = npt.NDArray[np.float64]
KINDS = ("flat", "gradient", "texture", "photo")
NOTHING = "nothing"
PHOTOS = {
    True: ("astronaut.png", "coffee.png", "motorcycle_left.png", "gravel.png", "brick.png"),
    False: ("chelsea.png", "rocket.jpg", "ihc.png", "camera.png", "grass.png"),
}
"""For tuning, and for the report. They lie in `skimage/data` of the installed package."""
GROUNDS = {True: ("gravel.png", "brick.png", "coffee.png"), False: ("grass.png", "chelsea.png", "ihc.png")}
"""The photographs that fill a whole ground: grey ones are tinted."""
EMPTY = {
    True: ("astronaut.png", "coffee.png", "motorcycle_left.png", "gravel.png", "brick.png"),
    False: ("chelsea.png", "ihc.png", "grass.png", "coins.png", "moon.png", "retina.jpg", "hubble_deep_field.jpg"),
}
"""Photographs without a horizon between two regions, and without outlines."""
GRAIN, QUALITY = 0.015, 85
"""Standard deviation of the grain, and JPEG quality."""
LEGEND = """\
Each cell: *measured*, the share of the scenes with a value; *error*, the median distance to the truth; *right*, the
share of the measured scenes whose error is within the tolerance (horizon .05 of the height, line weight 30 %,
composition .1) or whose value is on the same side of the threshold as the truth (depth order .03, palette 10, region
color 12). For *nothing*, only *measured*, which should be 0 %."""


@dataclass(frozen=True)
class Case:
    """One scene at one size."""

    kind: str
    image: torch.Tensor
    """[3, H, W] in [0, 1]."""
    scorer: Scorer
    truth: float
    """nan if there is nothing to measure."""


# --- surfaces ---------------------------------------------------------------------------------------------------


@lru_cache(maxsize=64)
def photograph(name: str, size: int) -> Pixels:
    """[size, size, 3] in [0, 1]: the middle square of a photograph of scikit-image."""
    import skimage

    with Image.open(Path(skimage.__file__).parent / "data" / name) as file:
        image = file.convert("RGB")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(square, dtype=np.float64) / 255


def fractal(seed: int, size: int, *, first: int = 3, falloff: float = 0.6) -> Pixels:
    """[size, size]: noise of octaves from `first` to 256 cells, mean 0 and standard deviation 1; alike at all sizes."""
    total, cells, weight = torch.zeros(1, 1, size, size), first, 1.0
    while cells <= 256:
        grid = torch.randn(1, 1, cells, cells, generator=torch.Generator().manual_seed(seed * 1000 + cells))
        mode = "area" if cells >= size else "bicubic"
        total += weight * F.interpolate(grid, size=(size, size), mode=mode)
        cells, weight = 2 * cells, weight * falloff
    field = total[0, 0].double().numpy()
    return np.asarray((field - field.mean()) / field.std())


def surface(kind: str, colour: Sequence[float], rng: np.random.Generator, size: int, photos: Sequence[str]) -> Pixels:
    """[size, size, 3]: a colour (RGB in [0, 1]) as a flat, graded or textured surface, or shaded like a photograph.

    The mean colour stays about the same.
    """
    seed, name, strength = int(rng.integers(10**6)), str(rng.choice(photos)), rng.uniform(0.06, 0.18)
    plain = np.broadcast_to(np.asarray(colour), (size, size, 3))
    if kind == "flat":
        return plain
    if kind == "gradient":
        shade = np.linspace(-1.7, 1.7, size)[:, None] * np.ones(size)
    elif kind == "texture":
        shade = fractal(seed, size)
    else:
        grey = photograph(name, size).mean(-1)
        shade = (grey - grey.mean()) / grey.std()
    return np.asarray((plain * (1 + strength * shade[..., None])).clip(0, 1))


def ground_of(kind: str, rng: np.random.Generator, size: int, *, tune: bool) -> Pixels:
    """[size, size, 3]: the ground of a landscape; a photograph in its own colours for the kind `photo`.

    With texture, in three of ten scenes, part of the ground is a band of another colour (water, a road).
    """
    colour, other = (rng.uniform([0.2, 0.25, 0.1], [0.8, 0.7, 0.6]) for _ in range(2))
    name, start, banded = str(rng.choice(GROUNDS[tune])), rng.uniform(0.2, 0.9), rng.random() < 0.3
    if kind == "photo":
        pixels = photograph(name, size)
        tint = colour / colour.mean() if np.ptp(pixels, axis=-1).max() < 0.01 else 1.0
        return np.asarray((pixels * tint).clip(0, 1))
    pixels = surface(kind, colour, rng, size, PHOTOS[tune])
    if kind == "texture" and banded:
        edge = (start + 0.02 * fractal(int(rng.integers(10**6)), size)[:, :1].T) * size
        near = (np.arange(size)[:, None] + 0.5 > edge)[..., None]
        pixels = np.where(near, surface(kind, other, rng, size, PHOTOS[tune]), pixels)
    return pixels


def sky_of(kind: str, rng: np.random.Generator, size: int) -> Pixels:
    """[size, size, 3]: a sky of two colours; with banks of clouds for the kinds `texture` and `photo`."""
    top, low = rng.uniform([0.2, 0.4, 0.6], [0.7, 0.8, 1.0]), rng.uniform([0.75, 0.7, 0.6], [1.0, 0.95, 1.0])
    seed, cover = int(rng.integers(10**6)), rng.uniform(0.2, 0.9)
    if kind == "flat":
        return np.broadcast_to(top, (size, size, 3))
    down = np.linspace(0, 1, size)[:, None, None]
    sky = np.broadcast_to((1 - down) * top + down * low, (size, size, 3))
    if kind != "gradient":
        banks = fractal(seed, size, falloff=0.55).reshape(size, size)
        clouds = cover * (0.2 + 0.5 * banks).clip(0, 1)[..., None]
        sky = (1 - clouds) * sky + clouds * (0.98 - 0.25 * (banks - 1).clip(0, 1)[..., None])
    return np.asarray(sky)


def mask_of(size: int, draw: Callable[[ImageDraw.ImageDraw, int], None]) -> Pixels:
    """[size, size, 1] in [0, 1]: what `draw` fills with 255 on a canvas of a given side, with blended edges."""
    times = 4 if size <= 512 else 2
    canvas = Image.new("L", (times * size, times * size))
    draw(ImageDraw.Draw(canvas), times * size)
    return np.asarray(canvas.resize((size, size), Image.Resampling.BOX), dtype=np.float64)[..., None] / 255


def finish(kind: str, pixels: Pixels, rng: np.random.Generator) -> torch.Tensor:
    """[3, H, W]: rounded to 8 bits; with grain and JPEG compression unless the kind is `flat`."""
    if kind != "flat":
        pixels = pixels + GRAIN * rng.standard_normal(pixels.shape)
    image = Image.fromarray((255 * pixels).round().clip(0, 255).astype(np.uint8))
    if kind != "flat":
        stored = io.BytesIO()
        image.save(stored, "JPEG", quality=QUALITY)
        image = Image.open(stored)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


# --- scenes -----------------------------------------------------------------------------------------------------


def landscape(kind: str, rng: np.random.Generator, size: int, row: float, *, tune: bool) -> Pixels:
    """Sky above ground, with a slight slope; except for the kind `flat`, the horizon is wavy, and haze lies over it.

    With texture or a photograph, trees or rocks up to .2 of the height stand on part of the horizon.
    """
    slope, phase, haze = rng.normal(0, 0.02), rng.uniform(0, 6), rng.uniform(0, 0.7)
    x = (np.arange(size) + 0.5) / size
    line = row + slope * (x - 0.5) + (0 if kind == "flat" else 0.006) * np.sin(9 * x + phase)
    under = (np.arange(size)[:, None] + 0.5) / size - line
    below = (under * size + 0.5).clip(0, 1)[..., None]
    sky, ground = sky_of(kind, rng, size), ground_of(kind, rng, size, tune=tune)
    if kind != "flat":
        far = haze * np.exp(-under.clip(0, None) / 0.04)[..., None]
        ground = (1 - far) * ground + far * sky.mean((0, 1))
    pixels = (1 - below) * sky + below * ground
    if kind not in ("flat", "gradient"):
        profile = fractal(int(rng.integers(10**6)), size, falloff=0.7)[size // 2]
        top = rng.uniform(0.03, 0.13) * (profile - rng.uniform(-1.2, 1)).clip(0, 2)
        trees = ((under + top) * size + 0.5).clip(0, 1)[..., None] * (under < 0.01)[..., None] * (top > 0)[:, None]
        pixels = (1 - trees) * pixels + trees * surface("texture", rng.uniform(0.08, 0.4, 3), rng, size, PHOTOS[tune])
    return pixels


def figure_pixels(kind: str, rng: np.random.Generator, size: int, *, tune: bool) -> Pixels:
    """The inside of a figure in front of a landscape: a saturated colour or, for the kind `photo`, a photograph."""
    colour = rng.permutation([rng.uniform(0.6, 0.95), rng.uniform(0.1, 0.5), rng.uniform(0.05, 0.3)])
    name = str(rng.choice(PHOTOS[tune][:3]))
    return photograph(name, size) if kind == "photo" else surface(kind, colour, rng, size, PHOTOS[tune])


def horizon_case(kind: str, rng: np.random.Generator, size: int, *, tune: bool) -> Case:
    row = rng.uniform(0.2, 0.85)
    pixels = landscape(kind, rng, size, row, tune=tune)
    middle, width, top = rng.uniform(0.25, 0.75), rng.uniform(0.1, 0.3), row - rng.uniform(0.05, 0.4)
    if rng.random() < 0.7:
        box = (middle - width, top, middle + width, min(0.98, top + 0.6))
        mask = mask_of(size, lambda draw, side: draw.ellipse([edge * side for edge in box], fill=255))
        pixels = (1 - mask) * pixels + mask * figure_pixels(kind, rng, size, tune=tune)
    return Case(kind, finish(kind, pixels, rng), Horizon(Horizon.Params()), row)


def line_weight_case(kind: str, rng: np.random.Generator, size: int, *, tune: bool) -> Case:
    """A circle, a box and a line with outlines of one width; their insides are other surfaces.

    In half of the scenes, the box is hatched with lines of a third of the width: they are details, not outlines.
    """
    width = math.exp(rng.uniform(math.log(0.007), math.log(0.05)))
    ink = rng.uniform(0, 0.12)
    moved, hatched = rng.uniform(-0.06, 0.06, 8), rng.random() < 0.5

    def pale(light: float) -> Pixels:
        colour = rng.uniform(light, 1, 3)
        if kind == "photo":
            return np.asarray(0.25 + 0.75 * photograph(str(rng.choice(PHOTOS[tune])), size))
        return surface(kind, colour, rng, size, PHOTOS[tune])

    circle = [0.1 + moved[0], 0.12 + moved[1], 0.5 + moved[2], 0.52 + moved[1] + moved[2] - moved[0]]
    box = [0.55 + moved[3], 0.35 + moved[4], 0.9 + moved[3], 0.85 + moved[5]]
    stroke = [0.1, 0.9 + moved[6], 0.48, 0.66 + moved[7]]
    pixels = pale(0.5)
    for shape, where in (("ellipse", circle), ("rectangle", box)):
        inside = mask_of(size, lambda draw, side, s=shape, w=where: getattr(draw, s)([v * side for v in w], fill=255))  # type: ignore[misc]
        pixels = (1 - inside) * pixels + inside * pale(0.6)

    def outlines(draw: ImageDraw.ImageDraw, side: int) -> None:
        thick = max(1, round(width * side))
        draw.ellipse([v * side for v in circle], outline=255, width=thick)
        draw.rectangle([v * side for v in box], outline=255, width=thick)
        draw.line([v * side for v in stroke], fill=255, width=thick)
        for x in np.linspace(box[0] + 0.05, box[2] - 0.1, 5 if hatched else 0):
            draw.line([v * side for v in (x, box[3] - 0.1, x + 0.04, box[1] + 0.1)], fill=255, width=max(1, thick // 3))

    lines = mask_of(size, outlines)
    return Case(kind, finish(kind, (1 - lines) * pixels + lines * ink, rng), LineWeight(LineWeight.Params()), width)


PALETTES = (
    ("#b3937f", "#9c9580", "#7d98a6"),
    ("#cfc3ee", "#f9cfe0", "#f4b6c4"),
    ("#f0a860", "#cc7f5e", "#9aa86a"),
    ("#3b1518", "#2e2b25", "#1f3a4a"),
)
"""Those of specs/palette.yaml, and the paper's dark academia."""


def palette_case(kind: str, rng: np.random.Generator, size: int, *, tune: bool, lightness: float = 1.0) -> Case:
    """Patches of the palette's colours, or of only one of them, and of other colours; the truth is of plain colours."""
    colours = PALETTES[int(rng.integers(len(PALETTES)))]
    share = float(rng.choice([0.0, 0.15, 0.5, 1.0]))
    cells = rng.random((5, 5)) < share
    pixels = np.zeros((size, size, 3))
    edges = [round(size * i / 5) for i in range(6)]
    swatches = [np.array([int(c[i : i + 2], 16) for i in (1, 3, 5)]) / 255 for c in colours]
    layers = [surface(kind, swatch, rng, size, PHOTOS[tune]) for swatch in swatches]
    strange = [rng.uniform(0.1, 0.95, 3) for _ in range(2)]
    layers += [surface(kind, colour, rng, size, PHOTOS[tune]) for colour in strange]
    plain = [*colours, *("#{:02x}{:02x}{:02x}".format(*(round(255 * v) for v in colour)) for colour in strange)]
    which = np.where(cells, rng.integers(3, 5, (5, 5)), rng.integers(0, 3, (5, 5)))
    if rng.random() < 0.3:
        which[which < 3] = 0  # the other swatches are missing
    for i in range(5):
        for j in range(5):
            rows, columns = slice(edges[i], edges[i + 1]), slice(edges[j], edges[j + 1])
            pixels[rows, columns] = layers[which[i, j]][rows, columns]
    params = Palette.Params(colors=colours, lightness=lightness)
    truth = palette_distance(to_lab(plain), np.bincount(which.ravel(), minlength=len(plain)) / which.size, params)
    return Case(kind, finish(kind, pixels, rng), Palette(params), truth)


def region_color_case(kind: str, rng: np.random.Generator, size: int, *, tune: bool) -> Case:
    """A landscape whose ground has a known colour; the distance to a named one, near in half of the scenes."""
    colour = rng.uniform(0.15, 0.95, 3)
    shift = rng.uniform(-0.06, 0.06, 3) if rng.random() < 0.5 else rng.uniform(-0.5, 0.5, 3)
    ground, asked = (
        "#{:02x}{:02x}{:02x}".format(*(round(255 * v) for v in c)) for c in (colour, (colour + shift).clip(0, 1))
    )
    row = rng.uniform(0.3, 0.75)
    below = (np.arange(size)[:, None, None] + 0.5 > row * size).astype(float)
    pixels = (1 - below) * sky_of(kind, rng, size) + below * surface(kind, colour, rng, size, PHOTOS[tune])
    scorer = RegionColor(RegionColor.Params(region="ground", color=asked))
    return Case(kind, finish(kind, pixels, rng), scorer, float(distances(to_lab([ground]), [asked])[0]))


POINTS = ((0.26, 0.7), (0.74, 0.7))
BOX = (0.0, 0.4, 0.5, 1.0)


def figures_case(measure: str, kind: str, rng: np.random.Generator, size: int, *, tune: bool) -> Case:
    """A landscape with two outlined figures whose feet, axes and extent are known."""
    pixels = landscape(kind, rng, size, rng.uniform(0.3, 0.5), tune=tune)
    feet, height = rng.uniform(0.62, 0.95, 2), rng.uniform(0.25, 0.4, 2)
    axes = np.array([0.26, 0.74]) + rng.uniform(-0.07, 0.07, 2)
    half = rng.uniform(0.07, 0.13, 2)
    covered = np.zeros((size, size, 1))
    for i in np.argsort(feet):
        box = (axes[i] - half[i], feet[i] - height[i], axes[i] + half[i], feet[i])
        whole, inside = (
            mask_of(
                size,
                lambda d, s, b=box, g=gap: d.rounded_rectangle(
                    [(v + g * (1 if k < 2 else -1)) * s for k, v in enumerate(b)], 0.06 * s, fill=255
                ),
            )  # type: ignore[misc]
            for gap in (0.0, 0.012)
        )
        filled = inside * figure_pixels(kind, rng, size, tune=tune) + (1 - inside) * 0.08
        pixels, covered = (1 - whole) * pixels + whole * filled, np.maximum(covered, whole)
    image = finish(kind, pixels, rng)
    if measure == "depth_order":
        return Case(kind, image, DepthOrder(DepthOrder.Params(a=POINTS[0], b=POINTS[1], nearer="a")), feet[0] - feet[1])
    if measure == "upright":
        x = float(rng.uniform(0.2, 0.8))
        return Case(kind, image, Composition(Composition.Params(element="upright", x=x)), float(np.abs(axes - x).min()))
    rows, columns = (slice(round(size * a), round(size * b)) for a, b in ((BOX[1], BOX[3]), (BOX[0], BOX[2])))
    scorer = Composition(Composition.Params(element="expanse", box=BOX))
    return Case(kind, image, scorer, float(covered[rows, columns].mean()))


def nothing_cases(rng: np.random.Generator, size: int, scorer: Scorer, *, tune: bool) -> Iterator[Case]:
    """Photographs, noise and a gradient: neither a horizon between two regions nor outlines."""
    for name in EMPTY[tune]:
        yield Case(NOTHING, finish("photo", photograph(name, size), rng), scorer, math.nan)
    noise = 0.5 + 0.15 * fractal(int(rng.integers(10**6)), size)[..., None].repeat(3, -1)
    yield Case(NOTHING, finish("texture", noise, rng), scorer, math.nan)
    graded = surface("gradient", (0.5, 0.6, 0.7), rng, size, PHOTOS[tune])
    yield Case(NOTHING, finish("gradient", graded, rng), scorer, math.nan)


SCENES: dict[str, Callable[..., Case]] = {
    "horizon": horizon_case,
    "line_weight": line_weight_case,
    "palette": palette_case,
    "palette, lightness 2": lambda *args, **kw: palette_case(*args, **kw, lightness=2.0),
    "region_color": region_color_case,
    "depth_order": lambda *args, **kw: figures_case("depth_order", *args, **kw),
    "composition, upright": lambda *args, **kw: figures_case("upright", *args, **kw),
    "composition, expanse": lambda *args, **kw: figures_case("expanse", *args, **kw),
}
WITHOUT: dict[str, Callable[[], Scorer]] = {
    "horizon": lambda: Horizon(Horizon.Params()),
    "line_weight": lambda: LineWeight(LineWeight.Params()),
}
"""Scorers that must give no value for images of the kind `nothing`."""


# --- measurement ------------------------------------------------------------------------------------------------


def cases(name: str, size: int, count: int, *, tune: bool) -> Iterator[Case]:
    for number, kind in enumerate(KINDS):
        for index in range(count):
            rng = np.random.default_rng([0 if tune else 1, number, index])
            yield SCENES[name](kind, rng, size, tune=tune)
    if name in WITHOUT:
        yield from nothing_cases(np.random.default_rng(9), size, WITHOUT[name](), tune=tune)


def is_right(case: Case, value: float) -> bool:
    """Whether a value is within the tolerance of the truth, or on the same side of the threshold."""
    params: Any = case.scorer.params  # type: ignore[attr-defined]
    if isinstance(case.scorer, (Horizon, Composition)):
        return bool(abs(value - case.truth) <= params.tolerance)
    if isinstance(case.scorer, LineWeight):
        return bool(abs(value - case.truth) <= params.tolerance * case.truth)
    low, high = case.scorer.accepted  # type: ignore[attr-defined]
    return bool((low <= value <= high) == (low <= case.truth <= high))


def cell(kind: str, pairs: Sequence[tuple[Case, float]]) -> str:
    """`measured, error, right`; only `measured` if there is nothing more to say."""
    seen = [(case, value) for case, value in pairs if math.isfinite(value)]
    share = f"{len(seen) / len(pairs):.0%}"
    if kind == NOTHING or not seen:
        return share
    right = sum(is_right(case, value) for case, value in seen)
    error = statistics.median(abs(value - case.truth) for case, value in seen)
    return f"{share}, {error:.2g}, {right / len(seen):.0%}"


def measure(name: str, size: int, count: int, *, tune: bool) -> dict[str, str]:
    """The cell of each kind of surface."""
    found: dict[str, list[tuple[Case, float]]] = {}
    for case in cases(name, size, count, tune=tune):
        (value,) = case.scorer.score(case.image[None], ScoreContext(prompts=(), seeds=())).tolist()
        found.setdefault(case.kind, []).append((case, value))
    return {kind: cell(kind, pairs) for kind, pairs in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", type=int, default=[64, 256, 512, 1024])
    parser.add_argument("--scenes", type=int, default=12, help="scenes of each kind")
    parser.add_argument("--only", nargs="+", choices=SCENES, default=list(SCENES), help="these scorers")
    parser.add_argument("--tune", action="store_true", help="draw the scenes and photographs for tuning")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print("| " + " | ".join(["scorer", "surface", *(f"{size} px" for size in args.sizes)]) + " |")
    print("| " + " | ".join(["---"] * (2 + len(args.sizes))) + " |")
    for name in args.only:
        columns = [measure(name, size, args.scenes, tune=args.tune) for size in args.sizes]
        for kind in columns[0]:
            print(f"| {name} | {kind} | {' | '.join(column[kind] for column in columns)} |", flush=True)
    print("\n" + LEGEND)


if __name__ == "__main__":
    main()
