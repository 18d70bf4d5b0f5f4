"""What the header of a run's LoRA says about it, under the names that other tools show."""

from __future__ import annotations

import hashlib
from importlib.metadata import version

from dualproc.spec import TaskSpec
from dualproc.types import Recipe

from .base_model import base_name

PROMPTS = 8
"""The header has at most this many training prompts."""


def lora_facts(spec: TaskSpec, recipe: Recipe, resolved_text: str, *, rank: int | None = None) -> dict[str, str]:
    """Facts for `RunFolder.write_lora`: base model, task, rank, prompts, version, and the hash of the resolved spec.

    `rank` is the file's, by default the spec's.

    `ss_...` are names of kohya's tools, `modelspec...` those of Stability AI's ModelSpec; `dualproc...` are this
    project's own. Nothing depends on the time or the machine: the same fit writes the same file.
    """
    model, dim = base_name(recipe.model), str(rank or spec.train.lora.rank)
    prompts = "; ".join(prompt.text for prompt in spec.prompts.train_prompts()[:PROMPTS])
    return {
        "ss_sd_model_name": model,
        "ss_output_name": spec.label,
        "ss_network_dim": dim,
        "ss_network_alpha": dim,  # the trained scale is folded into the weights
        "modelspec.title": spec.label,
        "modelspec.description": spec.description,
        "modelspec.trigger_phrase": prompts,
        "dualproc.version": version("dualproc"),
        "dualproc.base_model": model,
        "dualproc.spec": spec.name,
        "dualproc.variant": spec.variant or "",
        "dualproc.rank": dim,
        "dualproc.prompts": prompts,
        "dualproc.spec_sha256": hashlib.sha256(resolved_text.encode("utf-8")).hexdigest(),
    }
