"""Any diffusers text-to-image pipeline as a generator."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from dualproc.adapters import lora_off
from dualproc.errors import PluginError
from dualproc.plugins._devices import Device, pick_device
from dualproc.plugins._offload import offload, whole_or_quantized
from dualproc.plugins._weights import warn_of_unknown
from dualproc.types import Recipe, Sample

from .export import save_layers
from .loading import (
    BACKBONES,
    TextEncoders,
    checkpoint_activations,
    freeze,
    load_pipeline,
    load_text_encoder,
    load_tiny_vae,
)
from .prompts import PromptCache
from .schedulers import Encoded, OneLevel, Recorder, Standin, Stopped, Unstarted
from .standins import StraightThrough, given_latents, swapped
from .targets import find_targets

if TYPE_CHECKING:
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
        guidance: float | None = Field(
            0.0, ge=0, description="Guidance scale, as the pipeline understands it; the pipeline's default if null."
        )
        scheduler: str | None = Field(
            None, description="Name of a diffusers scheduler class to sample with instead of the model's own."
        )
        dtype: Literal["float32", "bfloat16", "float16"] = Field(
            "float32", description="Precision of the frozen weights."
        )
        device: Device = "auto"
        lora_targets: list[str] | None = Field(
            None,
            min_length=1,
            description="Name endings of the backbone's linear layers that receive the LoRA; `*`: any part of a name."
            " If unset, those of attention and feed-forward in its repeated blocks.",
        )
        call: dict[str, Any] = Field(
            default_factory=dict, description="More arguments for the pipeline's call, such as max_sequence_length."
        )
        keep_text_encoders: bool = Field(
            False, description="Keep them in memory after the prompts are encoded, instead of loading them when needed."
        )
        checkpointing: bool = Field(
            False,
            description="Compute activations again in the backward pass instead of keeping them: slower, smaller.",
        )
        offload: bool = Field(
            False,
            description="Keep backbone and VAE in main memory, each layer on the device while in use; with"
            " `checkpointing`, or the backward pass keeps them all; not with `quantize`.",
        )
        reward_vae: str | None = Field(
            None,
            description="Model id or folder of an AutoencoderTiny that decodes in training only: faster, less memory.",
        )
        quantize: Literal["8bit", "4bit"] | None = Field(
            None, description="Load the frozen backbone and text encoders with fewer bits (needs bitsandbytes)."
        )
        _weights = model_validator(mode="after")(whole_or_quantized)

    def __init__(self, params: Params) -> None:
        import torch

        self.params = params
        self.device = pick_device(params.device)
        self.dtype: torch.dtype = getattr(torch, params.dtype)
        self.pipe = load_pipeline(params.model, self.dtype, quantize=params.quantize, scheduler=params.scheduler)
        if not params.offload:
            self.pipe.to(self.device)
        self.pipe.set_progress_bar_config(disable=True)
        for part in self.pipe.components.values():
            if isinstance(part, torch.nn.Module):
                freeze(part)
                if params.offload:
                    offload(part, self.device)
        self.backbone = next((name for name in BACKBONES if getattr(self.pipe, name, None) is not None), "")
        if not self.backbone:
            raise PluginError(
                f"{params.model}: {type(self.pipe).__name__} has neither a transformer nor a unet to teach"
            )
        if not hasattr(self.pipe, "prepare_latents"):
            raise PluginError(
                f"{params.model}: {type(self.pipe).__name__} has no prepare_latents, so that it cannot start from "
                "given latents, as anchors and the hack meter need it",
                hint="choose a model whose pipeline makes its pictures from latents, as most do",
            )
        self.targets = params.lora_targets or find_targets(self.adapter_module)
        self.reward_vae = self._reward_vae(params.reward_vae) if params.reward_vae else None
        if params.checkpointing:
            decoders = [vae for vae in (self.pipe.vae, self.reward_vae) if vae is not None]
            checkpoint_activations(self.adapter_module, decoders)
        anew = partial(
            load_text_encoder,
            model=params.model,
            dtype=self.dtype,
            device=self.device,
            quantize=params.quantize,
            offloaded=params.offload,
        )
        self.encoders = TextEncoders(self.pipe, anew)
        encode = getattr(self.pipe, "encode_prompt", None)
        self.prompts = PromptCache(encode, self.encoders.load) if encode is not None else None

    @property
    def adapter_module(self) -> nn.Module:
        """The pipeline's transformer or U-Net."""
        module: nn.Module = getattr(self.pipe, self.backbone)
        return module

    @property
    def lora_targets(self) -> Sequence[str]:
        """Name endings of the linear layers that the LoRA goes to."""
        return self.targets

    def prepare(self, prompts: Sequence[str]) -> None:
        """Encode all prompts once, and give up the text encoders until a prompt comes that is not among them.

        Warns of words that the tokenizer does not know: a generator can only draw what it has a word for.
        """
        if (tokenizer := getattr(self.pipe, "tokenizer", None)) is not None:
            warn_of_unknown(f"the generator {self.params.model!r}", tokenizer, prompts)
        if self.prompts is None:
            return
        ordered = sorted(set(prompts), key=lambda prompt: (len(prompt.split()), prompt))
        uneven = [[ordered[-1], ordered[0], ordered[-1]]] if ordered else []  # what batches are compared with
        for batch in [*([prompt] for prompt in ordered), *uneven]:
            with suppress(Encoded):
                self._call(Unstarted(self.pipe.scheduler), batch, seeds=[0] * len(batch))
        if self.prompts.holds and not self.params.keep_text_encoders:
            self.encoders.release()

    def sample(self, prompts: Sequence[str], seeds: Sequence[int], *, grad: bool = False, base: bool = False) -> Sample:
        """Pictures [B, 3, H, W] in [0, 1] and clean latents, one for each prompt and seed.

        With `grad`, step i, drawn from the seeds, is the last and the only differentiable one (paper, section 3).
        """
        scheduler = self.pipe.scheduler
        standin: Standin = Stopped(scheduler, seeds[0]) if grad else Recorder(scheduler)
        parts = {"vae": self.reward_vae} if grad and self.reward_vae is not None else {}
        images = self._call(standin, prompts, seeds=seeds, grad=grad, base=base, standins=parts)
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
        noised = standin.noised(latents.detach(), torch.stack(noise).to(latents))
        parts = {"prepare_latents": given_latents(self.pipe, noised)}
        call = {"num_inference_steps": 1, "output_type": "latent"}
        self._call(standin, prompts, seeds=seeds, base=base, standins=parts, call=call)
        assert standin.clean is not None
        return standin.clean.float()

    def save_lora(self, folder: Path, layers: Mapping[str, Tensor]) -> None:
        """Write `pytorch_lora_weights.safetensors` with the pipeline's own `save_lora_weights`, where it has one.

        See `export.save_layers` for pipelines without.
        """
        if hasattr(self.pipe, "save_lora_weights"):
            self.pipe.save_lora_weights(str(folder), **{f"{self.backbone}_lora_layers": dict(layers)})
        else:
            save_layers(folder, self.backbone, layers)

    def recipe(self) -> Recipe:
        """The model, and how to draw with it in plain diffusers."""
        params = self.params
        own = {"height": params.height, "width": params.width, "guidance_scale": params.guidance}
        set_here = {name: value for name, value in own.items() if value is not None}
        call = {**set_here, "num_inference_steps": params.steps, **params.call}
        own_loader = hasattr(self.pipe, "load_lora_weights")
        return Recipe(params.model, params.dtype, call, params.scheduler, None if own_loader else self.backbone)

    def pipeline(self) -> Any:
        """The diffusers pipeline itself, with its text encoders; it has the LoRA on."""
        self.encoders.load()
        return self.pipe

    def _call(
        self,
        standin: Standin,
        prompts: Sequence[str],
        *,
        seeds: Sequence[int],
        grad: bool = False,
        base: bool = False,
        standins: Mapping[str, Any] | None = None,
        call: Mapping[str, Any] | None = None,
    ) -> Tensor:
        """The pipeline's own `__call__` without its `no_grad`, with stand-ins for some of its parts.

        `call` has arguments that win over the recipe's.
        """
        import torch

        pipe = self.pipe
        arguments = {**self.recipe().call, "output_type": "pt", **(call or {}), "prompt": list(prompts)}
        for name, value in arguments.items():
            if name.startswith("negative_prompt") and isinstance(value, str):
                arguments[name] = [value] * len(prompts)  # not every pipeline takes one for a whole batch
        arguments["generator"] = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        parts = {"scheduler": standin, "image_processor": StraightThrough(pipe.image_processor), **(standins or {})}
        if self.prompts is not None:
            parts["encode_prompt"] = self.prompts
        if getattr(pipe, "safety_checker", None) is not None:
            parts["safety_checker"] = None  # it blacks pictures out, and the gradient with them
        run = inspect.unwrap(type(pipe).__call__)  # what torch.no_grad decorates
        with swapped(pipe, parts), torch.set_grad_enabled(grad), lora_off(self.adapter_module, base):
            images: Tensor = run(pipe, **arguments).images
        return images

    def _reward_vae(self, model: str) -> nn.Module:
        """The small VAE that decodes in training. Raises PluginError if it decodes other latents."""
        vae, real = load_tiny_vae(model, self.dtype), self.pipe.vae
        ours = (vae.config.latent_channels, 2 ** (len(vae.config.decoder_block_out_channels) - 1))
        theirs = (real.config.get("latent_channels"), self.pipe.vae_scale_factor)
        if ours != theirs or "scaling_factor" not in real.config:  # which is how a pipeline can tell them apart
            raise PluginError(
                f"the reward_vae {model!r} (channels, scale: {ours}) does not fit the {type(real).__name__} {theirs} of"
                f" {type(self.pipe).__name__}",
                hint="give an AutoencoderTiny made for this generator, or leave reward_vae out",
            )
        module: nn.Module = vae.to(self.device)
        return module
