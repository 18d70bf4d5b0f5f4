"""Presets of the judge `transformers`: models by name.

Splitting images into tiles is off, as in the paper: the judge reads one view of the whole image, with a fraction of the
memory. LLaVA-OneVision and Llama 3.2 Vision keep their tiles, because their model configurations depend on them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dualproc.protocols import Preset

WEIGHTS = Path(__file__).resolve().parents[2] / "weights"

TINY = Preset(
    of="transformers",
    summary="The shipped judge (LLaVA classes, 64 x 64 pixels) for the specs in specs/; runs on two CPU cores.",
    params={"model": str(WEIGHTS / "judge")},
)
TINY_REFEREE = Preset(
    of="transformers",
    summary="The shipped referee (Idefics3 classes, 64 x 64 pixels), trained separately from the shipped judge.",
    params={"model": str(WEIGHTS / "referee")},
)


def large(summary: str, *, model: str, gated: bool = False, **more: Any) -> Preset:
    """A model from the Hugging Face hub, with weights in bfloat16."""
    params = {"model": model, "dtype": "bfloat16", **more}
    return Preset(of="transformers", summary=summary, gated=gated, params=params)


IDEFICS2 = large(
    "Idefics2-8B in bfloat16, images not split; used in the paper.",
    model="HuggingFaceM4/idefics2-8b",
    images={"do_image_splitting": False},
)
IDEFICS3 = large(
    "Idefics3-8B in bfloat16, images not split.",
    model="HuggingFaceM4/Idefics3-8B-Llama3",
    images={"do_image_splitting": False},
)
SMOLVLM2 = large(
    "SmolVLM2-2.2B-Instruct in bfloat16, images not split.",
    model="HuggingFaceTB/SmolVLM2-2.2B-Instruct",
    images={"do_image_splitting": False},
)
QWEN2_5_VL = large(
    "Qwen2.5-VL-7B-Instruct in bfloat16; used in the paper.",
    model="Qwen/Qwen2.5-VL-7B-Instruct",
)
QWEN3_VL = large(
    "Qwen3-VL-8B-Instruct in bfloat16.",
    model="Qwen/Qwen3-VL-8B-Instruct",
)
GEMMA3 = large(
    "Gemma 3 4B in bfloat16, images not cropped; used in the paper.",
    model="google/gemma-3-4b-it",
    gated=True,
    images={"do_pan_and_scan": False},
)
LLAVA_1_5 = large(
    "LLaVA-1.5-7B in bfloat16; used in the paper.",
    model="llava-hf/llava-1.5-7b-hf",
)
LLAVA_ONEVISION = large(
    "LLaVA-OneVision-7B in bfloat16; images above 384 pixels are split.",
    model="llava-hf/llava-onevision-qwen2-7b-ov-hf",
)
PIXTRAL = large(
    "Pixtral-12B in bfloat16; used in the paper.",
    model="mistral-community/pixtral-12b",
)
PALIGEMMA2 = large(
    "PaliGemma 2 3B (mix, 448 pixels) in bfloat16; use lower-case answers (yes, no), which it was trained to give.",
    model="google/paligemma2-3b-mix-448",
    gated=True,
    template="<image>answer en {{ messages[0]['content'][-1]['text'] }}",
)
INTERNVL3 = large(
    "InternVL3-8B in bfloat16, images not split.",
    model="OpenGVLab/InternVL3-8B-hf",
    images={"crop_to_patches": False},
)
MLLAMA = large(
    "Llama 3.2 11B Vision in bfloat16; images above 560 pixels are split.",
    model="meta-llama/Llama-3.2-11B-Vision-Instruct",
    gated=True,
)
