"""Loading a vision-language model, and showing it tensors."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from dualproc.errors import PluginError
from dualproc.kit.weights import SAFE, loading, quantization

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from .transformers import TransformersJudge


NOT_IMAGES = (
    "trust_remote_code", "code_revision", "revision", "subfolder", "cache_dir", "token", "proxies", "force_download",
    "local_files_only", "user_agent",
)  # fmt: skip
"""What `from_pretrained` takes besides arguments of the processor: where from, and how far it is trusted."""


class Shown:
    """An image processor that is shown tensors [B, 3, H, W], whatever it is called with."""

    def __init__(self, real: Any, images: Tensor) -> None:
        self.real, self.images = real, images

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def __call__(self, given: Any, **kwargs: Any) -> Any:
        nested = isinstance(given[0], (list, tuple))
        return self.real([[image] for image in self.images] if nested else list(self.images), **kwargs)


def checkpoint(model: Any) -> None:
    """Activation checkpointing of a model's blocks.

    Not the model's own, which asks for training: there blocks draw dropout, and take no cache, not even to generate.
    Raises PluginError if the model has no blocks to compute again.
    """
    from torch.utils.checkpoint import checkpoint as computed_again
    from transformers.modeling_layers import GradientCheckpointingLayer

    blocks = [part for part in model.modules() if isinstance(part, GradientCheckpointingLayer)]
    if not blocks:
        raise PluginError(
            f"{type(model).__name__} does not support checkpointing", hint="leave the judge's checkpointing out"
        )
    for block in blocks:
        block.forward = partial(computed_again, block.forward, use_reentrant=False)


def load(params: TransformersJudge.Params, device: torch.device) -> tuple[Any, Any]:
    """Model and processor; weights from safetensors only, and no code of the model's own.

    Raises PluginError if they cannot be loaded, or `images` has what is no argument of an image processor.
    """
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    dtype, more = getattr(torch, params.dtype), {}
    if params.quantize:
        more = {"quantization_config": quantization(params.quantize, dtype, "transformers"), "device_map": {"": device}}
    if wrong := sorted(set(NOT_IMAGES) & set(params.images)):
        raise PluginError(
            f"images: {', '.join(wrong)} cannot be set: arguments of the image processor belong there",
            hint="leave it out, and download a model by other means to choose its revision",
        )
    with loading("the judge", params.model, "a vision-language model"):
        try:
            # Some processors heed these where they are set, others where they are called; `_inputs` does the latter.
            processor = AutoProcessor.from_pretrained(params.model, trust_remote_code=False, **params.images)
            model = AutoModelForImageTextToText.from_pretrained(params.model, dtype=dtype, **SAFE, **more)
        except ImportError as error:  # what a family's processor needs
            raise PluginError(
                f"cannot load the judge {params.model!r}: {error}",
                hint="install the package that it names",
            ) from error
    moves = not (params.quantize or params.offload)  # weights of 4 or 8 bits are on the device already
    return (model.to(device) if moves else model), processor
