"""Presets of the generator `diffusers`: models by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dualproc.protocols import Preset

WEIGHTS = Path(__file__).resolve().parents[2] / "weights"
PROJECTIONS = ["to_q", "to_k", "to_v", "to_out.0"]
ATTENTION = [*PROJECTIONS, "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"]
FEED_FORWARD = ["ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2"]
# Only for the shipped generator: without a LoRA on these, its training needs many more steps.
TINY_ONLY = ["x_embedder", "proj_mlp"]

PAPER = "Dual-Process Image Generation, Luo et al., ICCV 2025, arXiv 2506.01955"
# The paper's training settings for FLUX.1. It trained Stable Diffusion 1.4, but not 1.5, and none of the others.
PAPER_TRAIN = {
    "steps": 100,
    "batch": 1,
    "lr": 5e-5,
    "weight_decay": 0.0,
    "clip": 1.0,
    "lora": {"rank": 16, "alpha": 8.0, "strength": 5.0},
}


def within(blocks: str, names: Sequence[str]) -> list[str]:
    """Name endings of these layers in all blocks of a list of blocks."""
    return [f"{blocks}.*.{name}" for name in names]


def large(
    summary: str,
    *,
    model: str,
    size: int,
    steps: int,
    guidance: float | None,
    lora_targets: Sequence[str],
    gated: bool = False,
    train: Mapping[str, Any] | None = None,
    **more: Any,
) -> Preset:
    """A model from the Hugging Face hub: square images, weights in bfloat16.

    With `checkpointing`, four images per step and a judge of 8 B parameters fit on a GPU of 80 GB.
    """
    return Preset(
        of="diffusers",
        summary=summary,
        gated=gated,
        train=train or {},
        train_source=PAPER if train else "",
        params={
            "model": model,
            "height": size,
            "width": size,
            "steps": steps,
            "guidance": guidance,
            "dtype": "bfloat16",
            "lora_targets": list(lora_targets),
            **more,
        },
    )


# The single-stream blocks of FLUX.1 and FLUX.2 have projections too, but receive no LoRA, as in the paper.
DOUBLE_STREAM = within("transformer_blocks", [f"attn.{name}" for name in ATTENTION])
FLUX_TARGETS = DOUBLE_STREAM + within("transformer_blocks", FEED_FORWARD)
FLUX2_TARGETS = DOUBLE_STREAM + within(
    "transformer_blocks", ["ff.linear_in", "ff.linear_out", "ff_context.linear_in", "ff_context.linear_out"]
)
CROSS_TARGETS = within(
    "transformer_blocks",
    [*(f"{attn}.{name}" for attn in ("attn1", "attn2") for name in PROJECTIONS), "ff.net.0.proj", "ff.net.2"],
)
# Sana's feed-forward layers are convolutions.
SANA_TARGETS = CROSS_TARGETS[:-2]
JOINT_TARGETS = [*DOUBLE_STREAM, *within("transformer_blocks", [f"attn2.{name}" for name in PROJECTIONS])]
SD3_TARGETS = JOINT_TARGETS + within("transformer_blocks", FEED_FORWARD)
QWEN_TARGETS = DOUBLE_STREAM + within(
    "transformer_blocks", [f"{stream}_mlp.net.{part}" for stream in ("img", "txt") for part in ("0.proj", "2")]
)
LUMINA2_TARGETS = within(
    "layers", [*(f"attn.{name}" for name in PROJECTIONS), *(f"feed_forward.linear_{n}" for n in (1, 2, 3))]
)
Z_IMAGE_TARGETS = within(
    "layers", [*(f"attention.{name}" for name in PROJECTIONS), *(f"feed_forward.w{n}" for n in (1, 2, 3))]
)

TINY = Preset(
    of="diffusers",
    summary="The shipped generator (a FluxPipeline): cartoons, 64 x 64 pixels in one step; runs on two CPU cores.",
    params={
        "model": str(WEIGHTS / "generator"),
        "height": 64,
        "width": 64,
        "steps": 1,
        "guidance": 0.0,
        "lora_targets": ATTENTION + FEED_FORWARD + TINY_ONLY,
        "call": {"max_sequence_length": 14},
    },
)

FLUX_SCHNELL = large(
    "FLUX.1-schnell (12 B parameters): 512 x 512 pixels in one step; LoRA on the double-stream blocks.",
    model="black-forest-labs/FLUX.1-schnell",
    gated=True,
    train=PAPER_TRAIN,
    size=512,
    steps=1,
    guidance=0.0,
    lora_targets=FLUX_TARGETS,
    checkpointing=True,
    call={"max_sequence_length": 256},
)
FLUX_DEV = large(
    "FLUX.1-dev (12 B parameters): 512 x 512 pixels in 28 steps; LoRA on the double-stream blocks.",
    model="black-forest-labs/FLUX.1-dev",
    gated=True,
    train=PAPER_TRAIN,
    size=512,
    steps=28,
    guidance=3.5,
    lora_targets=FLUX_TARGETS,
    checkpointing=True,
    call={"max_sequence_length": 256},
)
FLUX2_KLEIN = large(
    "FLUX.2-klein (4 B parameters, distilled): 512 x 512 pixels in 4 steps; LoRA on the double-stream blocks.",
    model="black-forest-labs/FLUX.2-klein-4B",
    size=512,
    steps=4,
    guidance=1.0,
    lora_targets=FLUX2_TARGETS,
    checkpointing=True,
    call={"max_sequence_length": 256},
)
SD1_5 = large(
    "Stable Diffusion 1.5 (0.9 B parameters): 512 x 512 pixels in 50 DDIM steps.",
    model="stable-diffusion-v1-5/stable-diffusion-v1-5",
    size=512,
    steps=50,
    guidance=7.5,
    lora_targets=CROSS_TARGETS,
    scheduler="DDIMScheduler",
)
SDXL = large(
    "Stable Diffusion XL (2.6 B parameters): 1024 x 1024 pixels in 40 steps.",
    model="stabilityai/stable-diffusion-xl-base-1.0",
    size=1024,
    steps=40,
    guidance=5.0,
    lora_targets=CROSS_TARGETS,
    checkpointing=True,
)
SDXL_TURBO = large(
    "SDXL-Turbo (2.6 B parameters): 512 x 512 pixels in one step.",
    model="stabilityai/sdxl-turbo",
    size=512,
    steps=1,
    guidance=0.0,
    lora_targets=CROSS_TARGETS,
)
SD3_5 = large(
    "Stable Diffusion 3.5 medium (2.5 B parameters): 1024 x 1024 pixels in 40 steps.",
    model="stabilityai/stable-diffusion-3.5-medium",
    gated=True,
    size=1024,
    steps=40,
    guidance=4.5,
    lora_targets=SD3_TARGETS,
    checkpointing=True,
    call={"max_sequence_length": 256},
)
# Published in float16 and float32. In float16, gradients would underflow, because nothing scales the loss.
SANA = large(
    "Sana (1.6 B parameters): 512 x 512 pixels in 20 steps.",
    model="Efficient-Large-Model/Sana_1600M_512px_diffusers",
    train={**PAPER_TRAIN, "lr": 5e-6},
    size=512,
    steps=20,
    guidance=4.5,
    lora_targets=SANA_TARGETS,
)
PIXART_SIGMA = large(
    "PixArt-Sigma (0.6 B parameters): 1024 x 1024 pixels in 20 steps.",
    model="PixArt-alpha/PixArt-Sigma-XL-2-1024-MS",
    size=1024,
    steps=20,
    guidance=4.5,
    lora_targets=CROSS_TARGETS,
    checkpointing=True,
    call={"clean_caption": False},
)
LUMINA2 = large(
    "Lumina-Image 2.0 (2.6 B parameters): 1024 x 1024 pixels in 30 steps.",
    model="Alpha-VLLM/Lumina-Image-2.0",
    size=1024,
    steps=30,
    guidance=4.0,
    lora_targets=LUMINA2_TARGETS,
    checkpointing=True,
)
Z_IMAGE_TURBO = large(
    "Z-Image-Turbo (6 B parameters): 1024 x 1024 pixels in 8 steps.",
    model="Tongyi-MAI/Z-Image-Turbo",
    size=1024,
    steps=8,  # 9 in older versions of diffusers, where the last one has no effect and no gradient
    guidance=0.0,
    lora_targets=Z_IMAGE_TARGETS,
    checkpointing=True,
)
QWEN_IMAGE = large(
    "Qwen-Image (20 B parameters): 1024 x 1024 pixels in 50 steps.",
    model="Qwen/Qwen-Image",
    size=1024,
    steps=50,
    guidance=None,  # not distilled for guidance: classifier-free guidance is the argument true_cfg_scale
    lora_targets=QWEN_TARGETS,
    checkpointing=True,
    call={"true_cfg_scale": 4.0, "negative_prompt": " "},
)
KOLORS = large(
    "Kolors (2.6 B parameters): 1024 x 1024 pixels in 50 steps.",
    model="Kwai-Kolors/Kolors-diffusers",
    variant="fp16",  # the only one that is published
    size=1024,
    steps=50,
    guidance=5.0,
    lora_targets=CROSS_TARGETS,
    checkpointing=True,
)
