"""Any diffusers text-to-image pipeline as a generator."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from dualproc.errors import PluginError
from dualproc.kit.adapters import lora_off
from dualproc.kit.blocks import compile_blocks
from dualproc.kit.devices import as_current, pick_device
from dualproc.kit.model_params import ModelParams
from dualproc.kit.offload import offload
from dualproc.kit.patching import replaced
from dualproc.kit.weights import freeze, warn_about_unknown_words
from dualproc.types import Recipe, Sample

from .export import comfyui_file, save_for_comfyui, save_layers
from .licences import LICENCES
from .loading import (
    BACKBONES,
    TextEncoders,
    checkpoint_activations,
    load_pipeline,
    load_text_encoder,
    load_tiny_vae,
    use_flash_attention,
)
from .overrides import StraightThrough, fixed_latents, mirrored_latents, overridden
from .prompts import PromptCache
from .schedulers import Encoded, EncodeOnly, RecordLatents, SchedulerOverride, SingleNoiseLevel, StopAtStep
from .targets import find_targets

if TYPE_CHECKING:
    from torch import Tensor, nn

NOISE_SEED = 0x5EED
"""Added to the seeds of re-noising, so that its noise differs from the noise that the image was made from."""

LARGE = 512 * 512
"""Images with at least this many pixels are decoded one by one: a VAE needs gigabytes for each of them."""


def _plain(seed: int) -> int:
    """The seed that noise is drawn from: of a negative one, which means this noise times -1, its counterpart."""
    return seed if seed >= 0 else ~seed


class DiffusersGenerator:
    """Any diffusers text-to-image pipeline, unmodified, driven through its own `__call__`."""

    api_version: ClassVar[int] = 1

    class Params(ModelParams):
        """The model to load, and how to sample from it."""

        height: int | None = Field(
            None, ge=8, description="Height of the images in pixels; the pipeline's default if unset."
        )
        width: int | None = Field(
            None, ge=8, description="Width of the images in pixels; the pipeline's default if unset."
        )
        steps: int = Field(
            1, ge=1, description="Sampling steps. In training, one of them, drawn at random, is differentiable."
        )
        guidance: float | None = Field(
            0.0, ge=0, description="Guidance scale, as the pipeline understands it; the pipeline's default if null."
        )
        scheduler: str | None = Field(
            None, description="Name of a diffusers scheduler class, instead of the model's own."
        )
        lora_targets: list[str] | None = Field(
            None,
            min_length=1,
            description="Name endings of the backbone's linear layers that receive the LoRA; `*` is any part of a name."
            " If unset, attention and feed-forward layers in its repeated blocks.",
        )
        call: dict[str, Any] = Field(
            default_factory=dict, description="Further arguments of the pipeline's call, such as max_sequence_length."
        )
        keep_text_encoders: bool = Field(
            False,
            description="Keep the text encoders in memory after encoding the prompts; else reload them when needed.",
        )
        reward_vae: str | None = Field(
            None,
            description="Hub id or folder of an AutoencoderTiny that decodes in training only: faster, less memory.",
        )

    def __init__(self, params: Params) -> None:
        import torch

        self.params = params
        self.device = pick_device(params.device)
        self.dtype: torch.dtype = getattr(torch, params.dtype)
        with as_current(self.device):
            self.pipe = load_pipeline(params, self.dtype, scheduler=params.scheduler)
        if not params.offload:
            self.pipe.to(self.device)
        vae: Any = getattr(self.pipe, "vae", None)
        if (params.height or 1024) * (params.width or 1024) >= LARGE and hasattr(vae, "enable_slicing"):
            vae.enable_slicing()
        self.pipe.set_progress_bar_config(disable=True)
        for part in self.pipe.components.values():
            if isinstance(part, torch.nn.Module):
                freeze(part)
                if params.offload:
                    offload(part, self.device)
        self.backbone = next((name for name in BACKBONES if getattr(self.pipe, name, None) is not None), "")
        if not self.backbone:
            raise PluginError(f"{params.model}: {type(self.pipe).__name__} has neither a transformer nor a unet")
        if not hasattr(self.pipe, "prepare_latents"):
            raise PluginError(
                f"{params.model}: {type(self.pipe).__name__} has no prepare_latents, so it cannot start from given "
                "latents, which anchors and the hack meter need",
                hint="choose a model whose pipeline generates images from latents, as most do",
            )
        self.targets = params.lora_targets or find_targets(self.adapter_module)
        self.reward_vae = self._reward_vae(params.reward_vae) if params.reward_vae else None
        if params.checkpointing:
            decoders = [decoder for decoder in (vae, self.reward_vae) if decoder is not None]
            checkpoint_activations(self.adapter_module, decoders)
        if params.attention == "flash":
            use_flash_attention(self.adapter_module)
        if params.compile:
            compile_blocks(self.adapter_module, dynamic=False)
        self.encoders = TextEncoders(
            self.pipe, partial(load_text_encoder, params=params, dtype=self.dtype, device=self.device)
        )
        encode = getattr(self.pipe, "encode_prompt", None)
        how = {"alone": params.quantize == "8bit", "half": params.dtype == "float16"}
        self.prompts = PromptCache(encode, self.encoders.load, **how) if encode is not None else None

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
        """Encode all prompts once, then release the text encoders until a new prompt needs them.

        Warns about words that the tokenizer does not know: a generator cannot draw them.
        """
        if (tokenizer := getattr(self.pipe, "tokenizer", None)) is not None:
            warn_about_unknown_words(f"the generator {self.params.model!r}", tokenizer, prompts)
        if self.prompts is None:
            return
        ordered = sorted(set(prompts), key=lambda prompt: (len(prompt.split()), prompt))
        uneven = (
            [[ordered[-1], ordered[0], ordered[-1]]] if ordered else []
        )  # a batch of uneven lengths, to learn how batches are padded
        for batch in [*([prompt] for prompt in ordered), *uneven]:
            with suppress(Encoded):
                self._call(EncodeOnly(self.pipe.scheduler), batch, seeds=[0] * len(batch))
        if self.prompts.holds and not self.params.keep_text_encoders:
            self.encoders.release()

    def sample(self, prompts: Sequence[str], seeds: Sequence[int], *, grad: bool = False, base: bool = False) -> Sample:
        """Images [B, 3, H, W] in [0, 1] and clean latents, one for each prompt and seed.

        With `grad`, a sampling step drawn from the seeds is the last one and the only differentiable one (paper,
        section 3).
        """
        scheduler = self.pipe.scheduler
        override: SchedulerOverride = StopAtStep(scheduler, seeds[0]) if grad else RecordLatents(scheduler)
        parts: dict[str, Any] = {"vae": self.reward_vae} if grad and self.reward_vae is not None else {}
        if min(seeds) < 0:
            parts["prepare_latents"] = mirrored_latents(self.pipe, seeds)
        images = self._call(override, prompts, seeds=seeds, grad=grad, base=base, parts=parts)
        assert override.clean is not None
        return Sample(images=images.float(), latents=override.clean.float())

    def denoise(
        self, latents: Tensor, noise_level: float, prompts: Sequence[str], seeds: Sequence[int], *, base: bool = True
    ) -> Tensor:
        """Clean latents, re-noised to `noise_level` in (0, 1) and denoised in one step; no gradient."""
        import torch

        override = SingleNoiseLevel(self.pipe.scheduler, noise_level)
        noise = [
            torch.randn(latents.shape[1:], generator=torch.Generator().manual_seed(_plain(seed) + NOISE_SEED))
            for seed in seeds
        ]
        noised = override.noised(latents.detach(), torch.stack(noise).to(latents))
        parts = {"prepare_latents": fixed_latents(self.pipe, noised)}
        call = {"num_inference_steps": 1, "output_type": "latent"}
        self._call(override, prompts, seeds=seeds, base=base, parts=parts, call=call)
        assert override.clean is not None
        return override.clean.float()

    def save_lora(self, folder: Path, layers: Mapping[str, Tensor]) -> None:
        """Write `pytorch_lora_weights.safetensors` with the pipeline's own `save_lora_weights`, if it has one.

        For pipelines without, and for a second file for ComfyUI, see `export`.
        """
        if hasattr(self.pipe, "save_lora_weights"):
            self.pipe.save_lora_weights(str(folder), **{f"{self.backbone}_lora_layers": dict(layers)})
        else:
            save_layers(folder, self.backbone, layers)
        save_for_comfyui(folder, type(self.pipe).__name__, layers, self.adapter_module)

    def recipe(self) -> Recipe:
        """The model, its licence, how to draw with it in plain diffusers, and the LoRA file for ComfyUI."""
        comfyui = comfyui_file(type(self.pipe).__name__)
        return replace(self._drawing(), license=LICENCES.get(self.params.model), comfyui=comfyui)

    def _drawing(self) -> Recipe:
        """The model, and how to draw with it in plain diffusers."""
        params = self.params
        own = {"height": params.height, "width": params.width, "guidance_scale": params.guidance}
        set_here = {name: value for name, value in own.items() if value is not None}
        call = {**set_here, "num_inference_steps": params.steps, **params.call}
        own_loader = hasattr(self.pipe, "load_lora_weights")
        peft_module = None if own_loader else self.backbone
        return Recipe(params.model, params.dtype, call, params.scheduler, peft_module, source=params.source)

    def pipeline(self) -> Any:
        """The diffusers pipeline itself, with its text encoders and the LoRA on."""
        self.encoders.load()
        return self.pipe

    def _call(
        self,
        scheduler: SchedulerOverride,
        prompts: Sequence[str],
        *,
        seeds: Sequence[int],
        grad: bool = False,
        base: bool = False,
        parts: Mapping[str, Any] | None = None,
        call: Mapping[str, Any] | None = None,
    ) -> Tensor:
        """The pipeline's own `__call__` without its `no_grad`, with some of its parts overridden for this call.

        `call` has arguments that take precedence over the recipe's.
        """
        import torch

        pipe = self.pipe
        arguments = {**self._drawing().call, "output_type": "pt", **(call or {}), "prompt": list(prompts)}
        for name, value in arguments.items():
            if name.startswith("negative_prompt") and isinstance(value, str):
                arguments[name] = [value] * len(prompts)  # not every pipeline takes one for a whole batch
        arguments["generator"] = [torch.Generator("cpu").manual_seed(_plain(seed)) for seed in seeds]
        overrides = {"scheduler": scheduler, "image_processor": StraightThrough(pipe.image_processor), **(parts or {})}
        overrides["maybe_free_model_hooks"] = lambda: None  # it searches all modules for hooks, which we do not set
        if self.prompts is not None:
            overrides["encode_prompt"] = self.prompts
        if getattr(pipe, "safety_checker", None) is not None:
            overrides["safety_checker"] = None  # it would black out images, and cut their gradient
        run = inspect.unwrap(type(pipe).__call__)  # what torch.no_grad decorates
        # Pipelines ask for their device several times per call, and diffusers then searches all modules.
        device = replaced(type(pipe), "_execution_device", property(lambda _: self.device))
        with device, overridden(pipe, overrides), torch.set_grad_enabled(grad), lora_off(self.adapter_module, base):
            images: Tensor = run(pipe, **arguments).images
        return images

    def _reward_vae(self, model: str) -> nn.Module:
        """The small VAE that decodes in training. Raises PluginError if it is for other latents."""
        vae, real = load_tiny_vae(model, self.dtype), self.pipe.vae
        ours = (vae.config.latent_channels, 2 ** (len(vae.config.decoder_block_out_channels) - 1))
        theirs = (real.config.get("latent_channels"), self.pipe.vae_scale_factor)
        if ours != theirs or "scaling_factor" not in real.config:  # pipelines tell the two kinds of latents apart by it
            raise PluginError(
                f"the reward_vae {model!r} (channels, scale: {ours}) does not match the {type(real).__name__} {theirs}"
                f" of {type(self.pipe).__name__}",
                hint="name an AutoencoderTiny made for this generator, or leave reward_vae out",
            )
        module: nn.Module = vae.to(self.device)
        return module
