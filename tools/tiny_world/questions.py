"""The questions that the judges of the small world learn: wordings, visual prompts, and the correct log-odds of Yes.

For one scene, a question draws its text, its overlay, and the correct log-odds of Yes against No. All truths follow
from the data that the scene was rendered from. The log-odds have long tails, so their slope is not zero far from the
target. A question for another task needs one function and one line in QUESTIONS.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from skimage.color import deltaE_ciede2000, rgb2lab

from dualproc.plugins.scorers.palette import Palette, palette_distance

from . import overlays
from .overlays import Canvas
from .scenes import COLOURS, GROUNDS, HORIZON_RANGE, NAMES, SETTINGS, Scene, hex_color

SUFFIX = "Answer with Yes or No."
SURE = 3.5
"""Log-odds of Yes where Yes is clearly correct."""
VISIBLE = 10.0
"""A horizon is fully visible if the colours of sky and ground differ by this (CIEDE2000)."""
WORDINGS = {
    "line_weight": (
        "Does the line weight of the image match the red line overlaid at the bottom?",
        "Ignoring the line color, does the line weight of the image match the red line overlaid at the bottom?",
        "Are the outlines of the drawing as thick as the red line?",
        "Is the red line as thick as the outlines of the image?",
        "Does the line weight of the image match the overlaid red line?",
    ),
    "horizon": (
        "Does the overlaid red line represent the horizon of the scene?",
        "Is the overlaid red line aligned with the horizon of the scene?",
        "Is the red line at the horizon of the image?",
        "Does the red line match the horizon?",
    ),
    "subject": (
        "Is this a drawing of {}?",
        "Is this still a drawing of {}?",
        "Is this a cartoon of {}?",
        "Is there {} in the image?",
        "Does the image show {}?",
    ),
    "both": (
        "Is this a drawing of {} and {}?",
        "Is this still a drawing of {} and {}?",
        "Are there {} and {} in the image?",
    ),
    "depth": (
        "Is Point {} in the foreground and Point {} in the background?",
        "Is Point {} closer to the camera than Point {}?",
        "Is Point {} in front of Point {}?",
    ),
    "much_closer": ("Is Point {} much closer to the camera than Point {}?",),
    "palette": (
        "Does the color palette overlaid at the bottom match the image?",
        "Is the color palette displayed at the bottom representative of the image's colors?",
        "Do the predominant colors of the image match the color palette overlaid at the bottom?",
    ),
    "ground": (
        "Is the {subject} on {ground}?",
        "Is the {subject} standing on {ground}?",
        "Is the ground covered with {ground}?",
        "Is there {ground} on the ground?",
    ),
    "sky": ("Is the sky {}?", "Is the sky of the image {}?", "Is the background of the image {}?"),
    "composition": (
        "Does the composition of the image match the overlaid red instructions?",
        "Does the image follow the overlaid red instructions?",
    ),
}


@dataclass(frozen=True)
class Asked:
    """One question about one scene: its text, the overlay if there is one, and the correct log-odds of Yes."""

    text: str
    log_odds: float
    canvas: Canvas | None = None
    shown: tuple[tuple[str, float], ...] = ()
    """Properties of the overlay, as numbers that the image tokens are trained to contain."""
    names: tuple[str, ...] = ()
    """The correct answers, all equally good, if the question is not a Yes-or-No question."""
    about: tuple[tuple[str, bool], ...] = ()
    """Words of the question that must be compared with the image, and whether each is true of it."""
    points: tuple[tuple[str, bool, bool], ...] = ()
    """For each point in the question: its letter, whether it is on the left, whether its subject is the nearer one."""
    needs: tuple[str, ...] = ()
    """The properties (names in `judges.KNOWN_NUMBERS`) that the answer depends on."""


SKY, GROUND = (tuple(f"{part}_{c}" for c in "rgb") for part in ("sky", "ground"))
SWATCHES = tuple(f"swatch_{i}_{c}" for i in range(3) for c in "rgb")
SIDES = ("left", "top", "right", "bottom")
Overlay = tuple[Canvas | None, tuple[tuple[str, float], ...]]


def line_weight(scene: Scene, rng: np.random.Generator) -> Asked:
    """Does the line weight match the bar? The log-odds depend on the ratio of the two widths."""
    shift = rng.normal(0, rng.choice([0.12, 0.35])) if rng.random() < 0.65 else rng.uniform(-1.6, 1.6)
    width = float(np.clip(scene.line_weight * np.exp(shift), 0.006, 0.07))
    off = abs(np.log(scene.line_weight / width))
    needs = ("line_weight", "bar_width")
    return Asked(_wording("line_weight", rng), SURE - 6.5 * np.sqrt(off), *_thick_bar(width, rng), needs=needs)


def horizon(scene: Scene, rng: np.random.Generator) -> Asked:
    """Is the bar on the horizon? The log-odds depend on their distance, in 64ths of the height.

    Where sky and ground have almost the same colour, no horizon is visible, and the answer is No. Otherwise a fit could
    make them alike and leave the judge to guess.
    """
    near = scene.horizon + rng.uniform(-0.14, 0.14)  # mostly near the target, where training ends
    row = near if rng.random() < 0.6 else rng.uniform(HORIZON_RANGE[0] - 0.12, HORIZON_RANGE[1] + 0.22)
    row = float(np.clip(row, 0.04, 0.96))
    off, width = 64 * abs(row - scene.horizon), float(rng.uniform(0.012, 0.03))
    invisible = max(0.0, 1 - _difference(*scene.palette) / VISIBLE)
    shown = (("bar_row", row), ("bar_width", width))
    canvas, needs = overlays.bar(0, 1, row, width), ("horizon", "bar_row")
    log_odds = SURE - 2.2 * np.sqrt(off) - 5 * invisible
    return Asked(_wording("horizon", rng), float(log_odds), canvas, shown, needs=needs)


def subject(scene: Scene, rng: np.random.Generator, names: list[str] = NAMES) -> Asked:
    """Is this subject in the image? Half of the questions name one that is."""
    right = rng.random() < 0.5
    name = str(rng.choice(scene.subjects if right else [n for n in names if n not in scene.subjects]))
    text = _wording("subject", rng, _with_article(name))
    return Asked(text, SURE if right else -SURE, *_any_overlay(rng), about=((name, right),))


def both(scene: Scene, rng: np.random.Generator, names: list[str] = NAMES) -> Asked:
    """Are both subjects in the image? In half of the questions, one of them is replaced."""
    pair = [*scene.subjects]
    right = rng.random() < 0.5
    if not right:
        pair[rng.integers(2)] = str(rng.choice([n for n in names if n not in scene.subjects]))
    if rng.random() < 0.2:
        pair.reverse()
    text = _wording("both", rng, *map(_with_article, pair))
    about = tuple((name, name in scene.subjects) for name in pair)
    return Asked(text, SURE if right else -SURE, *_any_overlay(rng), about=about)


def name(scene: Scene, rng: np.random.Generator) -> Asked:
    """What is in the image? Trains the words for the subjects; without it, "is this a cat?" is never learned."""
    return Asked("What is this a drawing of?", 0.0, *_any_overlay(rng), names=scene.subjects)


def depth(scene: Scene, rng: np.random.Generator) -> Asked:
    """Is Point A nearer than Point B? The log-odds depend on how much nearer the subject of the first point is."""
    drawn = _pool("points", rng)
    first_is_a = bool(rng.random() < 0.5)
    near_left, near_right = scene.nearness
    ahead = (near_left - near_right) * (1 if drawn.a_left == first_is_a else -1)
    much = rng.random() < 0.25
    off = ahead - 0.3 if much else ahead
    text = _wording("much_closer" if much else "depth", rng, *("AB" if first_is_a else "BA"))
    points = [("a", drawn.a_left, (near_left > near_right) == drawn.a_left)]
    points.append(("b", not points[0][1], not points[0][2]))
    a_near, b_near = (near_left, near_right) if drawn.a_left else (near_right, near_left)
    shown = (*_shown_points(drawn), ("a_near", a_near), ("b_near", b_near))
    needs = ("a_near", "b_near")
    log_odds = 4.5 * off / (0.3 + abs(off))
    return Asked(text, log_odds, drawn.canvas, shown, points=tuple(points), needs=needs)


def where(_: Scene, rng: np.random.Generator) -> Asked:
    """Is a point on the left or on the right? Trains reading the letters; without it, `depth` is never learned."""
    drawn = _pool("points", rng)
    letter = str(rng.choice(["A", "B"]))
    side = "left" if drawn.a_left == (letter == "A") else "right"
    return Asked(
        f"Where is Point {letter}?", 0.0, drawn.canvas, _shown_points(drawn), names=(side,), needs=("a_x", "b_x")
    )


def nearer(scene: Scene, rng: np.random.Generator) -> Asked:
    """Is the left or the right subject nearer? The other skill that `depth` needs."""
    side = "left" if scene.nearness[0] > scene.nearness[1] else "right"
    return Asked(
        "Which is closer to the camera?", 0.0, *_any_overlay(rng), names=(side,), needs=("bottom_a", "bottom_b")
    )


def palette(scene: Scene, rng: np.random.Generator) -> Asked:
    """Do the swatches match? The log-odds depend on the scorer's value for the scene's two large areas, sky and ground.

    So sky and ground are near swatches, two of the three swatches are in the image, and one colour between two swatches
    does not stand for both.
    """
    own = np.stack([_rgb(colour) for colour in scene.palette])
    colours = rng.random((3, 3))
    if rng.random() < 0.25:  # a theme: variations of one colour
        colours = (colours[:1] + rng.normal(0, 0.12, (3, 3))).clip(0, 1)
    if rng.random() < 0.8:  # at different distances from the image's colours: training passes through all of them
        shift = rng.normal(0, 1, (2, 3)) * rng.choice([0.01, 0.02, 0.04, 0.08, 0.14, 0.25], size=(2, 1))
        contrast = np.exp(rng.normal(0.2, 0.5)) if rng.random() < 0.35 else 1.0  # swatches that differ more, or less
        colours[:2] = (own.mean(0) + contrast * (own - own.mean(0)) + shift).clip(0, 1)
        colours = colours[rng.permutation(3)]
    wanted = Palette.Params(colors=tuple(hex_color(colour.tolist()) for colour in colours), missing=1)
    off = palette_distance(rgb2lab(own), np.array([scene.horizon, 1 - scene.horizon]), wanted)
    log_odds = SURE - 1.25 * np.sqrt(max(0.0, off - 2))
    canvas, shown = overlays.swatches(colours), _shown_swatches(colours)
    return Asked(_wording("palette", rng), log_odds, canvas, shown, needs=(*SKY, *GROUND, *SWATCHES))


def ground(scene: Scene, rng: np.random.Generator) -> Asked:
    """Is the ground snow, sand, grass or water? The log-odds depend on its colour."""
    distances = {word: _difference(scene.palette[1], colour) for word, colour in GROUNDS.items()}
    word = min(distances, key=lambda w: distances[w]) if rng.random() < 0.5 else str(rng.choice(list(GROUNDS)))
    subject = str(rng.choice(scene.subjects))
    template = str(rng.choice(WORDINGS["ground"]))
    return _coloured(template.format(subject=subject, ground=word), word, distances[word], GROUND, rng)


def sky(scene: Scene, rng: np.random.Generator) -> Asked:
    """Has the sky this colour? The log-odds depend on the distance of its colour."""
    distances = {word: _difference(scene.palette[0], colour) for word, colour in COLOURS.items()}
    word = min(distances, key=lambda w: distances[w]) if rng.random() < 0.5 else str(rng.choice(list(COLOURS)))
    word = "blue" if rng.random() < 0.25 else word
    return _coloured(str(rng.choice(WORDINGS["sky"])).format(word), word, distances[word], SKY, rng)


def composition(scene: Scene, rng: np.random.Generator) -> Asked:
    """Does the image follow a painting: is something upright where its bar is, or is its region empty?"""
    choices = [_pool("paintings", rng) for _ in range(1 if rng.random() < 0.5 else 8)]
    drawn, off = min(((painting, _off(painting, scene)) for painting in choices), key=lambda pair: pair[1])
    log_odds = SURE - (9 if drawn.box is None else 7) * np.sqrt(off)
    if drawn.box is None:
        shown: tuple[tuple[str, float], ...] = (("is_upright", 1.0), ("upright_x", drawn.x))
    else:
        shown = (("is_upright", 0.0), *zip((f"box_{side}" for side in SIDES), drawn.box, strict=True))
    needs = (*(key for key, _ in shown), *(f"{side}_a" for side in SIDES))
    return Asked(_wording("composition", rng), float(log_odds), drawn.canvas, shown, needs=needs)


QUESTIONS: dict[str, tuple[Callable[..., Asked], float]] = {
    "line_weight": (line_weight, 0.14),
    "horizon": (horizon, 0.18),
    "subject": (subject, 0.06),
    "name": (name, 0.02),
    "both": (both, 0.05),
    "depth": (depth, 0.15),
    "where": (where, 0.02),
    "nearer": (nearer, 0.02),
    "palette": (palette, 0.25),
    "ground": (ground, 0.03),
    "sky": (sky, 0.02),
    "composition": (composition, 0.13),
}
"""The function of each question and its share of the training; the shares add up to about 1."""
OF_PAIRS = ("both", "depth", "nearer")
"""Questions about two subjects."""


def ask(kind: str, scene: Scene, rng: np.random.Generator, names: list[str]) -> Asked:
    """One question of a kind about a scene; four out of five Yes-or-No questions have the suffix."""
    function = QUESTIONS[kind][0]
    asked = function(scene, rng, names) if kind in ("subject", "both") else function(scene, rng)
    if not asked.names and rng.random() < 0.8:
        return dataclasses.replace(asked, text=f"{asked.text} {SUFFIX}")
    return asked


def overlay(images: torch.Tensor, asked: list[Asked]) -> torch.Tensor:
    """Composite the overlays over images [B, 3, H, W] in [0, 1]; paintings have an opacity of one half."""
    height, width = images.shape[-2:]
    canvases = np.zeros((len(asked), height, width, 4), np.uint8)
    opacity = np.ones(len(asked), np.float32)
    for row, a in enumerate(asked):
        if a.canvas is not None:
            canvases[row] = a.canvas
            opacity[row] = 0.5 if any(key == "is_upright" for key, _ in a.shown) else 1.0
    rgba = torch.from_numpy(canvases).permute(0, 3, 1, 2).float() / 255
    alpha = rgba[:, 3:] * torch.from_numpy(opacity)[:, None, None, None]
    return images * (1 - alpha) + rgba[:, :3] * alpha


def _thick_bar(width: float, rng: np.random.Generator) -> Overlay:
    left = 0.05 if rng.random() < 0.6 else rng.uniform(0, 0.4)
    right = 0.95 if left == 0.05 else rng.uniform(0.6, 1)
    row = rng.uniform(0.8, 0.96) if rng.random() < 0.5 else rng.uniform(0.04, 0.96)
    return overlays.bar(left, right, float(row), width), (("bar_row", float(row)), ("bar_width", width))


def _any_overlay(rng: np.random.Generator) -> Overlay:
    """None in about half of the cases, else an overlay of another question: subjects must be seen under it too."""
    which = rng.choice(["", "bar", "points", "swatches", "painting"], p=[0.55, 0.15, 0.1, 0.1, 0.1])
    if which == "bar":
        return _thick_bar(float(rng.uniform(0.006, 0.07)), rng)
    if which == "points":
        points = _pool("points", rng)
        return points.canvas, _shown_points(points)
    if which == "swatches":
        colours = rng.random((3, 3))
        return overlays.swatches(colours), _shown_swatches(colours)
    if which == "painting":
        return _pool("paintings", rng).canvas, (("is_upright", 0.5),)
    return None, ()


def _pool(name: str, rng: np.random.Generator):  # type: ignore[no-untyped-def]
    pool = getattr(overlays, name)(7)
    return pool[rng.integers(len(pool))]


def _shown_points(drawn: overlays.PointsDrawn) -> tuple[tuple[str, float], ...]:
    a, b = (drawn.left, drawn.right) if drawn.a_left else (drawn.right, drawn.left)
    return (("a_x", a[0]), ("b_x", b[0]))


def _shown_swatches(colours: npt.NDArray[np.float64]) -> tuple[tuple[str, float], ...]:
    return tuple(zip(SWATCHES, colours.flatten().tolist(), strict=True))


def _coloured(text: str, word: str, distance: float, needs: tuple[str, ...], rng: np.random.Generator) -> Asked:
    log_odds = SURE - 1.25 * np.sqrt(max(0.0, distance - 4))
    canvas, shown = _any_overlay(rng) if rng.random() < 0.2 else (None, ())
    return Asked(text, float(log_odds), canvas, shown, about=((word, bool(log_odds > 0)),), needs=needs)


def _drawn(scene: Scene) -> list[tuple[float, float, float, float]]:
    """Extents of all drawings, including sun, moon or cloud."""
    out = scene.extents
    if SETTINGS[scene.setting]:
        x = 0.14 + 0.72 * scene._code("x_setting")
        out = [*out, (x - 0.1, 0.05, x + 0.1, 0.26)]
    return out


def _overlap(box: tuple[float, float, float, float], extent: tuple[float, float, float, float]) -> float:
    """Approximate share of the box that is covered by a roughly elliptic drawing within `extent`."""
    width = min(box[2], extent[2]) - max(box[0], extent[0])
    height = min(box[3], extent[3]) - max(box[1], extent[1])
    return 0.8 * max(0.0, width) * max(0.0, height) / ((box[2] - box[0]) * (box[3] - box[1]))


def _off(drawn: overlays.Painting, scene: Scene) -> float:
    """How far a scene is from a painting: distance of the nearest subject's axis, or the covered share of the box."""
    if drawn.box is None:
        assert drawn.x is not None
        return min(abs((left + right) / 2 - drawn.x) for left, _, right, _ in scene.extents)
    return min(1.0, sum(_overlap(drawn.box, extent) for extent in _drawn(scene)))


@lru_cache(maxsize=200_000)
def _difference(colour: str, other: str) -> float:
    """CIEDE2000 distance of two colours, `#rrggbb`."""
    return float(deltaE_ciede2000(rgb2lab(_rgb(colour)[None]), rgb2lab(_rgb(other)[None]))[0])


def _rgb(colour: str) -> npt.NDArray[np.float64]:
    return np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])


def _with_article(name: str) -> str:
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _wording(kind: str, rng: np.random.Generator, *parts: str) -> str:
    return str(rng.choice(WORDINGS[kind])).format(*parts)
