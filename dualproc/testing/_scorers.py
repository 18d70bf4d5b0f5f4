"""The check for scorers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from dualproc.errors import DualprocError
from dualproc.types import Prompt, ScoreContext
from dualproc.wording import plural

from ._conform import apart, call, conform, described, differ, has_form, one_per_image
from ._probes import PROMPTS, scenes

SCENES = ((3, (64, 64)), (2, (96, 128)))
"""Each: the number of images, and their height and width."""
BETTER = ("higher", "lower", "target")


def check_scorer(
    plugin: type[Any] | str,
    params: Mapping[str, Any] | None = None,
    /,
    *,
    images: Tensor | None = None,
    prompts: Sequence[Prompt] | None = None,
    tolerance: float = 1e-4,
) -> None:
    """Check that a scorer follows `dualproc.protocols.Scorer`; `dualproc.testing` describes what all checks share.

    Args:
        images: [B, 3, H, W] in [0, 1], at least 2 images that it can measure; by default simple scenes.
        prompts: the prompts of these images, with the fields that it uses.
        tolerance: the largest allowed difference between two measurements of one image.

    Raises DualprocError if there are fewer images, or not one prompt for each.
    """
    if images is not None and not (has_form(images, [None, 3, None, None]) and len(images) >= 2):
        raise DualprocError(f"expected `images` [B, 3, H, W] of 2 or more images, got {described(images)}")
    if images is not None and prompts is not None and len(prompts) != len(images):
        raise DualprocError(f"expected one prompt for each of {len(images)} images, got {len(prompts)} `prompts`")

    def checks(scorer: Any) -> Iterator[Iterator[str]]:
        sets = [images] if images is not None else [scenes(count, *size) for count, size in SCENES]
        contexts = [_context(each, prompts) for each in sets]
        yield _form(scorer, sets[0], contexts[0], tolerance)
        yield _declared(scorer)
        for each, context in zip(sets, contexts, strict=True):
            yield _each_alone(scorer, each, context, tolerance)
        yield _without_base(scorer, sets[0], contexts[0])

    conform("scorers", plugin, params, checks)


def _context(images: Tensor, prompts: Sequence[Prompt] | None) -> ScoreContext:
    count = len(images)
    given = prompts or [PROMPTS[index % len(PROMPTS)] for index in range(count)]
    # Every second base image differs from the image, so that a comparison sees equal and different pairs.
    base = images.clone()
    base[1::2] = images.flip(0, -1)[1::2]
    return ScoreContext(prompts=list(given), seeds=list(range(count)), base_images=base)


def _part(context: ScoreContext, rows: slice = slice(None)) -> ScoreContext:
    """A copy of the context for some of the images."""
    base = None if context.base_images is None else context.base_images[rows].clone()
    return ScoreContext(context.prompts[rows], context.seeds[rows], base)


def _form(scorer: Any, images: Tensor, context: ScoreContext, tolerance: float) -> Iterator[str]:
    """The values are reproducible, and the images are not changed."""
    given, copy = images.clone(), _part(context)
    first = _scored(scorer, given, copy)
    assert context.base_images is not None
    assert copy.base_images is not None
    if apart(images, given) or apart(context.base_images, copy.base_images):
        yield "score changes its images in place; other scorers measure the same images"
        return
    again = _scored(scorer, images, context)
    yield from differ("score is not reproducible for the same images:", first, again, tolerance)


def _scored(scorer: Any, images: Tensor, context: ScoreContext) -> Tensor:
    values = call(f"score of images {list(images.shape)}", scorer.score, images, context)
    return one_per_image(values, len(images), "score returns", f" for {plural(len(images), 'image')}")


def _declared(scorer: Any) -> Iterator[str]:
    """The attributes that the report shows beside the values."""
    if not (isinstance(scorer.unit, str) and scorer.unit.strip()):
        yield f"unit is {scorer.unit!r}; expected a text that follows the number, such as `of the height`"
    if scorer.better not in BETTER:
        yield f"better is {scorer.better!r}; expected one of {', '.join(BETTER)}"
    accepted = call("accepted", getattr, scorer, "accepted", None)
    if accepted is not None and not _is_range(accepted):
        yield f"accepted is {accepted!r}; expected None or two finite numbers (low, high) with low <= high"
        return
    if "target" not in type(scorer).Params.model_fields:
        if scorer.better == "target" and accepted is None:
            yield "better is 'target', but there is no target: add a parameter `target`, or the attribute `accepted`"
        return
    if not hasattr(getattr(scorer, "params", None), "target"):
        yield "its Params have a `target`, but the report finds no `params.target`; set self.params = params"
        return
    target = scorer.params.target
    if target is not None and not _is_number(target):
        yield f"target is {target!r}; expected None or a finite number"
    elif target is not None and accepted is not None and not accepted[0] <= target <= accepted[1]:
        yield f"the target {target:g} is outside `accepted`, which is {accepted[0]:g} to {accepted[1]:g}"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_range(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and all(map(_is_number, value)) and value[0] <= value[1]


def _each_alone(scorer: Any, images: Tensor, context: ScoreContext, tolerance: float) -> Iterator[str]:
    """Each image has a finite value or nan, which does not depend on the rest of the batch."""
    values = _scored(scorer, images, context)
    if values.isinf().any():
        found = [round(value, 4) for value in values.tolist()]
        yield f"score returns an infinite value: {found}; return nan for an image that cannot be measured"
    if values.isnan().all():
        yield f"score returns nan for all {len(images)} images; pass the check images that it can measure, as `images=`"
    for index in range(len(images)):
        only = slice(index, index + 1)
        alone = _scored(scorer, images[only], _part(context, only))
        what = f"image {index} gets different values alone and in a batch of {len(images)}:"
        if found := list(differ(what, values[only], alone, tolerance)):
            yield from found
            break


def _without_base(scorer: Any, images: Tensor, context: ScoreContext) -> Iterator[str]:
    """`dp score IMAGES` has no base images."""
    values = call("score without base_images", scorer.score, images, replace(context, base_images=None))
    if not has_form(values, [len(images)]):
        yield f"score without base_images returns {described(values)}; expected float [{len(images)}], nan if needed"
