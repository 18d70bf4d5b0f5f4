"""Generators by name: each a set of parameters for `diffusers`."""

from __future__ import annotations

from pathlib import Path

from dualproc.protocols import Preset

WEIGHTS = Path(__file__).resolve().parents[2] / "weights"
ATTENTION = ["to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"]
FEED_FORWARD = ["ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2"]
# What the small noise codes of the shipped world go through before anything else: without these, many more steps.
ENTRANCE = ["x_embedder", "proj_mlp"]

TINY = Preset(
    of="diffusers",
    summary="The shipped FluxPipeline: cartoons at 64 x 64 pixels in one step, made for two CPU cores.",
    params={
        "model": str(WEIGHTS / "generator"),
        "height": 64,
        "width": 64,
        "steps": 1,
        "guidance": 0.0,
        "lora_targets": ATTENTION + FEED_FORWARD + ENTRANCE,
        "call": {"max_sequence_length": 14},
    },
)

FLUX_SCHNELL = Preset(
    of="diffusers",
    summary="FLUX.1-schnell (12 B parameters): 512 x 512 pixels in one step; a LoRA on the double-stream blocks.",
    params={
        "model": "black-forest-labs/FLUX.1-schnell",
        "height": 512,
        "width": 512,
        "steps": 1,
        "guidance": 0.0,
        "dtype": "bfloat16",
        # The single-stream blocks have a to_q, to_k and to_v too, and are left alone, as in the paper.
        "lora_targets": [f"transformer_blocks.*.attn.{name}" for name in ATTENTION]
        + [f"transformer_blocks.*.{name}" for name in FEED_FORWARD],
        "call": {"max_sequence_length": 256},
    },
)
