"""Load a vision-language model, and make its processor accept tensors."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from dualproc.errors import PluginError
from dualproc.kit.weights import SAFE_ARGUMENTS, quantization, safe_loading

from ._attention import pack_attention

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from .transformers import TransformersJudge


LOADING_ARGUMENTS = (
    "trust_remote_code", "code_revision", "revision", "subfolder", "cache_dir", "token", "proxies", "force_download",
    "local_files_only", "user_agent",
)  # fmt: skip
"""Arguments of `from_pretrained` that say where to load from and what to trust; `images` must not set them."""


GENERATION = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "forced_bos_token_id")
"""What is kept of a model's own settings for `generate`. Others change the answers of greedy decoding, such as a
repetition penalty, ask for code from a repository, or for a million beams."""


class TensorImageProcessor:
    """An image processor that processes the given tensors [B, 3, H, W] instead of the images that it is called with."""

    def __init__(self, real: Any, images: Tensor) -> None:
        self.real, self.images = real, images
        self.again: Callable[[Tensor], Any] = self.__call__
        """Processes other tensors as in the last call."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def __call__(self, images: Any, **kwargs: Any) -> Any:  # `images` as in transformers: some processors name it
        nested = isinstance(images[0], (list, tuple))
        self.again = lambda tensors: self.real([[one] for one in tensors] if nested else list(tensors), **kwargs)
        return self.again(self.images)


def checkpoint(model: Any) -> None:
    """Enable activation checkpointing of a model's blocks. Raises PluginError if it has no blocks that support it.

    The model's own switch works in training mode only, where blocks apply dropout and do not use the cache, which
    `generate` needs.
    """
    from torch.utils.checkpoint import checkpoint as recomputed
    from transformers.modeling_layers import GradientCheckpointingLayer

    blocks = [part for part in model.modules() if isinstance(part, GradientCheckpointingLayer)]
    if not blocks:
        raise PluginError(
            f"{type(model).__name__} does not support checkpointing", hint="remove `checkpointing` from the judge"
        )
    for block in blocks:
        block.forward = partial(recomputed, block.forward, use_reentrant=False)


def load(params: TransformersJudge.Params, device: torch.device) -> tuple[Any, Any]:
    """The model and its processor. Reads weights from safetensors only, and runs no code that comes with the model.

    Raises PluginError if they cannot be loaded, or if `images` sets one of LOADING_ARGUMENTS.
    """
    import torch
    from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoProcessor, GenerationConfig

    dtype = getattr(torch, params.dtype)
    more: dict[str, Any] = {"attn_implementation": "flash_attention_2"} if params.attention == "flash" else {}
    if params.quantize:
        more |= {
            "quantization_config": quantization(params.quantize, dtype, "transformers"),
            "device_map": {"": device},
        }
    if wrong := sorted(set(LOADING_ARGUMENTS) & set(params.images)):
        raise PluginError(
            f"the judge's `images` cannot set {', '.join(wrong)}: expected arguments of the image processor only",
            hint="remove it; another revision is the judge's parameter `revision`",
        )
    with safe_loading("the judge", params.model, "a vision-language model", params.source):
        try:
            # Some processors read these when they are built, others when they are called; `_inputs` passes them again.
            how = {"trust_remote_code": False, "revision": params.revision or "main", **params.images}
            processor = AutoProcessor.from_pretrained(params.model, **how)
            if getattr(processor.image_processor, "backend", None) == "pil":  # which takes no tensors
                how["backend"] = "torchvision"
                processor.image_processor = AutoImageProcessor.from_pretrained(params.model, **how)
            more |= {**SAFE_ARGUMENTS, **params.source, "dtype": dtype}
            model = AutoModelForImageTextToText.from_pretrained(params.model, **more)
        except ImportError as error:  # a package that the family's processor needs
            raise PluginError(
                f"cannot load the judge {params.model!r}: {error}",
                hint="install the missing package",
            ) from error
    model.generation_config = GenerationConfig(
        **{key: getattr(model.generation_config, key, None) for key in GENERATION if model.can_generate()}
    )
    pack_attention(model)
    moves = not (params.quantize or params.offload)  # quantised weights are already on the device
    return (model.to(device) if moves else model), processor
