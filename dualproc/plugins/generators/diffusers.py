"""Any diffusers text-to-image pipeline as a generator."""

from __future__ import annotations

import inspect
import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from dualproc.errors import DualprocWarning, PluginError
from dualproc.types import Recipe, Sample

from .schedulers import OneLevel, Recorder, Standin, Stopped

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

NOISE_SEED = 0x5EED
"""Added to the seeds of re-noising, so that its noise is not the noise that the picture was made from."""


class DiffusersGenerator:
    """Any diffusers text-to-image pipeline, unmodified, driven through its own `__call__`."""

    api_version: ClassVar[int] = 1

    class Params(BaseModel):
        """What to load, and how to sample from it."""

        model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

        model: str = Field(description="Model id of a hub, or a folder written by `save_pretrained`.")
        height: int | None = Field(
            None, ge=8, description="Height of the pictures in pixels; the pipeline's default if unset."
        )
        width: int | None = Field(
            None, ge=8, description="Width of the pictures in pixels; the pipeline's default if unset."
        )
        steps: int = Field(
            1, ge=1, description="Sampling steps. In training one of them, drawn at random, is differentiable."
        )
        guidance: float = Field(0.0, ge=0, description="Guidance scale, as the pipeline understands it.")
        dtype: Literal["float32", "bfloat16", "float16"] = Field(
            "float32", description="Precision of the frozen weights."
        )
        device: str = Field("auto", description="`auto` (a GPU if there is one), `cpu`, `cuda`, `cuda:1`, `mps`.")
        lora_targets: list[str] = Field(
            ["to_q", "to_k", "to_v", "to_out.0"],
            min_length=1,
            description="Name endings of the backbone's linear layers that receive the LoRA; `*`: any part of a name.",
        )
        call: dict[str, Any] = Field(
            default_factory=dict, description="More arguments for the pipeline's call, such as max_sequence_length."
        )

    def __init__(self, params: Params) -> None:
        import torch

        self.params = params
        self.device = torch.device(pick_device(params.device))
        self.pipe = load_pipeline(params.model, getattr(torch, params.dtype)).to(self.device)
        self.pipe.set_progress_bar_config(disable=True)
        for part in self.pipe.components.values():
            if isinstance(part, torch.nn.Module):
                part.requires_grad_(False).eval()
        self.backbone = next(
            (name for name in ("transformer", "unet") if getattr(self.pipe, name, None) is not None), ""
        )
        if not self.backbone:
            raise PluginError(
                f"{params.model}: {type(self.pipe).__name__} has neither a transformer nor a unet to teach"
            )

    @property
    def adapter_module(self) -> nn.Module:
        """The pipeline's transformer or U-Net."""
        module: nn.Module = getattr(self.pipe, self.backbone)
        return module

    @property
    def lora_targets(self) -> Sequence[str]:
        """Name endings of the linear layers that the LoRA goes to."""
        return self.params.lora_targets

    def prepare(self, prompts: Sequence[str]) -> None:
        """Warn of words that the tokenizer does not know: a generator can only draw what it has a word for."""
        tokenizer = getattr(self.pipe, "tokenizer", None)
        unknown = getattr(tokenizer, "unk_token_id", None)
        if tokenizer is None or unknown in (None, tokenizer.eos_token_id):  # CLIP's has no token of its own for it
            return
        words = dict.fromkeys(word for prompt in prompts for word in prompt.split())
        strange = [word for word in words if unknown in tokenizer(word, add_special_tokens=False)["input_ids"]]
        if strange:
            warnings.warn(
                f"the generator {self.params.model!r} has no word for: {', '.join(strange)}",
                DualprocWarning,
                stacklevel=2,
            )

    def sample(self, prompts: Sequence[str], seeds: Sequence[int], *, grad: bool = False, base: bool = False) -> Sample:
        """Pictures [B, 3, H, W] in [0, 1] and clean latents, one for each prompt and seed.

        With `grad`, step i, drawn from the seeds, is the last and the only differentiable one (paper, section 3).
        """
        import torch

        standin: Standin
        if grad:
            standin = Stopped(self.pipe.scheduler, random.Random(seeds[0]).randrange(self.params.steps))
        else:
            standin = Recorder(self.pipe.scheduler)
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        images = self._call(standin, prompts, grad=grad, base=base, generator=generators)
        assert standin.clean is not None
        return Sample(images=images.float(), latents=standin.clean.float())

    def denoise(
        self, latents: Tensor, noise_level: float, prompts: Sequence[str], seeds: Sequence[int], *, base: bool = True
    ) -> Tensor:
        """Clean latents after re-noising to `noise_level` in (0, 1) and one step back; no gradient."""
        import torch

        standin = OneLevel(self.pipe.scheduler, noise_level)
        noise = [
            torch.randn(latents.shape[1:], generator=torch.Generator().manual_seed(seed + NOISE_SEED)) for seed in seeds
        ]
        noised = standin.noised(latents.detach(), torch.stack(noise).to(latents)).to(self.pipe.dtype)
        self._call(standin, prompts, grad=False, base=base, latents=noised, num_inference_steps=1, output_type="latent")
        assert standin.clean is not None
        return standin.clean.float()

    def save_lora(self, folder: Path, layers: Mapping[str, Tensor]) -> None:
        """Write `pytorch_lora_weights.safetensors` with the pipeline's own `save_lora_weights`."""
        self.pipe.save_lora_weights(str(folder), **{f"{self.backbone}_lora_layers": dict(layers)})

    def recipe(self) -> Recipe:
        """The model, and the pipeline's call arguments."""
        size = {"height": self.params.height, "width": self.params.width}
        call = {
            **{name: value for name, value in size.items() if value is not None},
            "num_inference_steps": self.params.steps,
            "guidance_scale": self.params.guidance,
            **self.params.call,
        }
        return Recipe(self.params.model, self.params.dtype, call)

    def pipeline(self) -> Any:
        """The diffusers pipeline itself; it has the LoRA on."""
        return self.pipe

    def _call(self, standin: Standin, prompts: Sequence[str], *, grad: bool, base: bool, **kwargs: Any) -> Tensor:
        """The pipeline's own `__call__` without its `no_grad`, with stand-ins for scheduler and postprocessing."""
        import torch

        arguments = {**self.recipe().call, "output_type": "pt", **kwargs}
        pipe = self.pipe
        standins = {"scheduler": standin, "image_processor": StraightThrough(pipe.image_processor)}
        if getattr(pipe, "safety_checker", None) is not None:
            standins["safety_checker"] = None  # it blacks pictures out, and the gradient with them
        real = {name: getattr(pipe, name) for name in standins}
        run = inspect.unwrap(type(pipe).__call__)  # what torch.no_grad decorates
        try:
            # Not through the pipeline's __setattr__, which would register the stand-ins in its configuration.
            pipe.__dict__.update(standins)
            with torch.set_grad_enabled(grad), lora_off(self.adapter_module, base):
                images: Tensor = run(pipe, prompt=list(prompts), **arguments).images
        finally:
            pipe.__dict__.update(real)
        return images


class StraightThrough:
    """An image processor whose clamp to [0, 1] lets the gradient through, so that no pixel is stuck outside."""

    def __init__(self, processor: Any) -> None:
        self.processor = processor

    def __getattr__(self, name: str) -> Any:
        return getattr(self.processor, name)

    def postprocess(self, image: Tensor, output_type: str = "pt", **_: Any) -> Tensor:
        """Decoded pictures to [0, 1]; latents as they are."""
        if output_type == "latent":
            return image
        if self.processor.config.do_normalize:
            image = image * 0.5 + 0.5
        return image + (image.clamp(0, 1) - image).detach()


@contextmanager
def lora_off(module: nn.Module, off: bool = True) -> Iterator[None]:
    """Within, the module's LoRA layers pass their base layer's output through unchanged."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [part for part in module.modules() if isinstance(part, BaseTunerLayer)] if off else []
    for layer in layers:
        layer._disable_adapters = True  # its own switch, enable_adapters(), would also set requires_grad
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False


def load_pipeline(model: str, dtype: torch.dtype) -> Any:
    """`DiffusionPipeline.from_pretrained`, with an error that says what to do."""
    from diffusers import DiffusionPipeline

    try:
        return DiffusionPipeline.from_pretrained(model, torch_dtype=dtype)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise PluginError(
            f"cannot load the generator {model!r}: {reason}",
            hint="give the model id of a diffusers pipeline that can be reached, or a folder that holds one",
        ) from error


def pick_device(wanted: str) -> str:
    """`auto` is a GPU where there is one."""
    import torch

    if wanted != "auto":
        return wanted
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
