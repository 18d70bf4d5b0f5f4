"""Pipelines and their components from hub ids or folders, and text encoders that are loaded only while needed."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dualproc.errors import PluginError
from dualproc.kit.devices import as_current, free_memory
from dualproc.kit.model_params import ModelParams
from dualproc.kit.offload import offload
from dualproc.kit.weights import SAFE_ARGUMENTS, freeze, quantization, safe_loading

if TYPE_CHECKING:
    import torch
    from torch import nn

BACKBONES = ("transformer", "unet")
"""The names of the pipeline component that is trained."""
TEXT_ENCODER = "text_encoder"
"""How the names of a pipeline's text encoders start."""


def load_pipeline(params: ModelParams, dtype: torch.dtype, *, scheduler: str | None = None) -> Any:
    """`DiffusionPipeline.from_pretrained`, with errors that say what to do.

    Backbone and text encoders are quantised if `params` says so; `scheduler` is the name of a class to use instead of
    the model's own. Reads weights from safetensors only, and runs no code that comes with the model. Raises
    PluginError.
    """
    from diffusers import DiffusionPipeline, PipelineQuantizationConfig

    model, quantize = params.model, params.quantize
    with safe_loading("the generator", model, "a diffusers pipeline", params.source):
        index = DiffusionPipeline.load_config(model, revision=params.revision)
        _check_index(model, index)
        _check_packages(model, index["_class_name"])
        more: dict[str, Any] = {}
        if quantize is not None:
            parts = [name for name, kind in index.items() if name.startswith((*BACKBONES, TEXT_ENCODER)) and kind[0]]
            configs = {
                name: quantization(quantize, dtype, "transformers" if name.startswith(TEXT_ENCODER) else "diffusers")
                for name in parts
            }
            more["quantization_config"] = PipelineQuantizationConfig(quant_mapping=configs)
        more |= {**SAFE_ARGUMENTS, **params.source, "dtype": _precisions(index, dtype)}
        pipe = DiffusionPipeline.from_pretrained(model, **more)
    _cast_inputs(getattr(pipe, "vae", None))
    if scheduler is not None:
        pipe.scheduler = _scheduler(scheduler).from_config(pipe.scheduler.config)
    return pipe


def load_tiny_vae(model: str, dtype: torch.dtype) -> Any:
    """An `AutoencoderTiny`, frozen. Raises PluginError."""
    from diffusers import AutoencoderTiny

    with safe_loading("the reward_vae", model, "a diffusers AutoencoderTiny"):
        vae = AutoencoderTiny.from_pretrained(model, dtype=dtype, use_safetensors=True)
    freeze(vae)
    return vae


def load_text_encoder(
    kind: Any, name: str, *, params: ModelParams, dtype: torch.dtype, device: torch.device
) -> nn.Module:
    """The component `name` of a model, of class `kind`, frozen."""
    dtype = _precision(name, kind.__name__, dtype)
    more: dict[str, Any] = {**SAFE_ARGUMENTS, **params.source, "dtype": dtype, "subfolder": name}
    if params.quantize:
        more["quantization_config"] = quantization(params.quantize, dtype, "transformers")
    with (
        as_current(device),
        safe_loading(f"the generator's {name}", params.model, "a diffusers pipeline", params.source),
    ):
        encoder: nn.Module = kind.from_pretrained(params.model, **more)
    freeze(encoder)
    if not params.offload:
        return encoder.to(device)
    offload(encoder, device)
    return encoder


def _precision(name: str, kind: str, dtype: torch.dtype) -> torch.dtype:
    """The precision of the component `name` of class `kind`: `dtype`, except where float16 overflows.

    VAEs such as those of SDXL, Kolors and Sana overflow in float16 when they decode. diffusers then converts them for
    each call, which breaks the backward pass. Gemma overflows when it encodes.
    """
    import torch

    if dtype != torch.float16:
        return dtype
    if name == "vae":
        return torch.float32
    return torch.bfloat16 if name.startswith(TEXT_ENCODER) and kind.startswith("Gemma") else dtype


def _precisions(index: Mapping[str, Any], dtype: torch.dtype) -> torch.dtype | dict[str, torch.dtype]:
    """The precision of each component of a pipeline, as `from_pretrained` takes it."""
    parts = {name: str(kind[1]) for name, kind in index.items() if isinstance(kind, list) and kind[0]}
    different = {name: own for name, kind in parts.items() if (own := _precision(name, kind, dtype)) != dtype}
    return {**different, "default": dtype} if different else dtype


def _cast_inputs(vae: Any) -> None:
    """Let a VAE decode latents of another precision than its own; not every pipeline converts them."""
    for part in (getattr(vae, "post_quant_conv", None), getattr(vae, "decoder", None)):
        if part is not None:
            part.register_forward_pre_hook(_cast)


def _cast(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """The first input in the precision of the module's weights."""
    return (inputs[0].to(next(module.parameters()).dtype), *inputs[1:])


def checkpoint_activations(backbone: nn.Module, others: Sequence[nn.Module]) -> None:
    """Recompute activations in the backward pass, with diffusers' own checkpointing; in `others` where supported.

    Raises PluginError if the backbone does not support it.
    """
    if not getattr(backbone, "_supports_gradient_checkpointing", False):
        raise PluginError(
            f"{type(backbone).__name__} does not support checkpointing", hint="leave the generator's checkpointing out"
        )
    for module in (backbone, *others):
        if getattr(module, "_supports_gradient_checkpointing", False):
            module.enable_gradient_checkpointing()  # type: ignore[operator]


def use_flash_attention(backbone: Any) -> None:
    """Let the backbone use the package flash-attn. Raises PluginError if it is missing, or the GPU or model refuses."""
    # The attention of U-Nets, SD 3.5, Sana, PixArt and Lumina would ignore the choice without a word.
    if not any(hasattr(getattr(part, "processor", None), "_attention_backend") for part in backbone.modules()):
        raise PluginError(
            f"attention: flash is not possible for {type(backbone).__name__}: its attention is always torch's",
            hint="leave `attention` out",
        )
    try:
        backbone.set_attention_backend("flash")
    except (AttributeError, ImportError, RuntimeError, ValueError) as error:
        raise PluginError(
            f"attention: flash is not possible for {type(backbone).__name__}: {str(error).strip()[:300]}",
            hint="pip install flash-attn, for a GPU that it supports; or leave `attention` out",
        ) from error


class TextEncoders:
    """A pipeline's text encoders: released once all prompts are encoded, reloaded when needed."""

    def __init__(self, pipe: Any, load: Callable[[type, str], nn.Module]) -> None:
        """`load(class, name)` loads the component `name`."""
        self.pipe, self._load = pipe, load
        self.released: dict[str, type] = {}
        """The classes of released encoders, by component name."""

    def release(self) -> None:
        """Free their memory."""
        import torch

        loaded = self.pipe.components.items()
        for name in [n for n, part in loaded if n.startswith(TEXT_ENCODER) and isinstance(part, torch.nn.Module)]:
            self.released[name] = type(self.pipe.__dict__[name])
            # Not through the pipeline's __setattr__, which would forget their classes in its configuration.
            self.pipe.__dict__[name] = None
        free_memory()

    def load(self) -> None:
        """Load the released encoders again."""
        for name in list(self.released):
            self.pipe.__dict__[name] = self._load(self.released[name], name)
            del self.released[name]


def _check_index(model: str, index: Mapping[str, Any]) -> None:
    """Raises PluginError if a pipeline's index names a class that is not part of diffusers and transformers.

    Also for a pipeline within the pipeline, for which diffusers would accept pickled weights.
    """
    import diffusers

    foreign = [] if isinstance(index.get("_class_name"), str) else ["its pipeline"]
    for name, kind in index.items():
        if name.startswith("_") or not isinstance(kind, list) or kind[:1] == [None]:
            continue
        library = kind[0] if kind and isinstance(kind[0], str) else ""
        ours = library in ("diffusers", "transformers") or (library and hasattr(diffusers.pipelines, library))
        if not ours or Path(model, name, f"{library}.py").exists():
            foreign.append(name)
        found = getattr(getattr(diffusers.pipelines, library, diffusers), str(kind[-1]), None)
        if isinstance(found, type) and issubclass(found, diffusers.DiffusionPipeline):
            raise PluginError(f"cannot load the generator {model!r}: its component {name[:200]} is itself a pipeline")
    if foreign:
        raise PluginError(
            f"cannot load the generator {model!r}: it comes with its own code for {', '.join(foreign)[:200]}, and "
            "dualproc never runs code that comes with a model",
            hint="use a model whose classes are part of the installed diffusers and transformers",
        )


def _check_packages(model: str, pipeline: str) -> None:
    """Raises PluginError if diffusers lacks a package that the pipeline's class needs."""
    import diffusers

    needed = getattr(getattr(diffusers, pipeline, None), "_backends", ())
    missing = [package for package in needed if importlib.util.find_spec(package) is None]
    if missing:
        raise PluginError(
            f"cannot load the generator {model!r}: {pipeline} needs the package {' and '.join(missing)}",
            hint=f"pip install {' '.join(missing)}",
        )


def _scheduler(name: str) -> Any:
    """The scheduler class of that name."""
    import diffusers

    found = getattr(diffusers, name, None)
    if not (isinstance(found, type) and issubclass(found, diffusers.SchedulerMixin)):
        known = ", ".join(("DDIMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler"))
        raise PluginError(f"diffusers has no scheduler class {name!r}", hint=f"name a class such as {known}")
    return found
