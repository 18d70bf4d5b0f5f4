"""`dp generate` with the LoRAs of several runs at once. Imported on use."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from dualproc.errors import DualprocError
from dualproc.wording import plural

from .arguments import given_folder
from .output import say

AT_A_TIME = 8
"""Images drawn at a time; fewer if the first run's evaluation drew fewer, for which memory was enough."""
_FORM = "repeat the option for each run: --strength 0.7 --strength 0.5"


def generate_sum(
    runs: Sequence[str], prompt: str, strengths: Sequence[float], *, seed: int, count: int, out: str | None
) -> None:
    """Write one PNG file per seed, by default to the first run's folder, and print its path.

    Raises DualprocError if there is neither one strength for all runs nor one for each, or if one is not finite.
    """
    if not any(character.isalpha() for character in prompt):  # --strength .7 .7
        raise DualprocError(f"expected a prompt after the runs, got `{prompt}`", hint=_FORM)
    if len(strengths) not in (1, len(runs)):
        message = f"expected one --strength, or one for each of {plural(len(runs), 'run')}, got {len(strengths)}"
        raise DualprocError(message, hint=_FORM)
    for strength in strengths:
        if not math.isfinite(strength):
            raise DualprocError(f"expected a finite number, got `--strength {strength}`", hint=_FORM)
    each = [*strengths] * (len(runs) if len(strengths) == 1 else 1)
    from .progress import quiet

    quiet()
    from dualproc.engine.reload import generate, load_sum, open_run
    from dualproc.run import write_images
    from dualproc.run.images import image_names

    seeds = range(seed, seed + count)
    generator = load_sum(runs, each)
    generator.prepare([prompt])
    opened, spec = open_run(runs[0])
    batch = min(AT_A_TIME, spec.evaluation.batch)
    images = generate(generator, prompt, seeds, batch=batch)
    folder = opened.generated() if out is None else given_folder(out)
    ending = "".join(f"-{Path(run).resolve().name}{strength:g}" for run, strength in zip(runs, each, strict=True))
    for path in write_images(folder, images, image_names([prompt] * count, seeds, ending=ending)):
        say(str(path))
