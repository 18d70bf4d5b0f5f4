"""Seeds of images. Ranges that do not overlap, so that no image is both trained on and evaluated."""

from __future__ import annotations

import random

SPAN = 2**31
"""Training seeds lie below this, held-out seeds from here, monitoring seeds from twice this, audit seeds from
three times this."""


def training_seed(rng: random.Random) -> int:
    """A seed to train on."""
    return rng.randrange(SPAN)


def mirrored(seed: int) -> int:
    """The seed whose start noise is that of `seed` times -1."""
    return ~seed


def held_out_seeds(count: int) -> list[int]:
    """The seeds of an evaluation, the same in every run."""
    return [SPAN + index for index in range(count)]


def monitoring_seed(rng: random.Random) -> int:
    """A seed for monitoring during training."""
    return 2 * SPAN + rng.randrange(SPAN)


def audit_seeds(count: int) -> list[int]:
    """The seeds of audits and previews, the same in every one."""
    return [3 * SPAN + index for index in range(count)]
