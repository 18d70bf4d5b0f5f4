"""Judges by name: each a set of parameters for `transformers`.

Where a processor cuts pictures into tiles, that is off (in the paper: image splitting off): the judge reads one view of
the whole picture, at a fraction of the memory. Two families cannot do without: the tiles are settled in the model's own
configuration, which an argument of the image processor alone would contradict.
"""

from __future__ import annotations

from pathlib import Path

from dualproc.protocols import Preset

WEIGHTS = Path(__file__).resolve().parents[2] / "weights"

TINY = Preset(
    of="transformers",
    summary="The shipped judge (LLaVA classes, 64 x 64 pixels): line weight, horizon, subjects.",
    params={"model": str(WEIGHTS / "judge")},
)
TINY_REFEREE = Preset(
    of="transformers",
    summary="The shipped referee (Idefics3 classes, trained apart): the same questions, never differentiated.",
    params={"model": str(WEIGHTS / "referee")},
)

IDEFICS2 = Preset(
    of="transformers",
    summary="Idefics2-8B, in bfloat16, pictures not split: a judge of the paper.",
    params={"model": "HuggingFaceM4/idefics2-8b", "dtype": "bfloat16", "images": {"do_image_splitting": False}},
)
IDEFICS3 = Preset(
    of="transformers",
    summary="Idefics3-8B, in bfloat16, pictures not split.",
    params={"model": "HuggingFaceM4/Idefics3-8B-Llama3", "dtype": "bfloat16", "images": {"do_image_splitting": False}},
)
SMOLVLM2 = Preset(
    of="transformers",
    summary="SmolVLM2-2.2B-Instruct, in bfloat16, pictures not split (needs the package num2words).",
    params={
        "model": "HuggingFaceTB/SmolVLM2-2.2B-Instruct",
        "dtype": "bfloat16",
        "images": {"do_image_splitting": False},
    },
)
QWEN2_5_VL = Preset(
    of="transformers",
    summary="Qwen2.5-VL-7B-Instruct, in bfloat16: a judge of the paper.",
    params={"model": "Qwen/Qwen2.5-VL-7B-Instruct", "dtype": "bfloat16"},
)
QWEN3_VL = Preset(
    of="transformers",
    summary="Qwen3-VL-8B-Instruct, in bfloat16.",
    params={"model": "Qwen/Qwen3-VL-8B-Instruct", "dtype": "bfloat16"},
)
GEMMA3 = Preset(
    of="transformers",
    summary="Gemma 3 4B, in bfloat16, no crops: a judge of the paper.",
    params={"model": "google/gemma-3-4b-it", "dtype": "bfloat16", "images": {"do_pan_and_scan": False}},
)
LLAVA_1_5 = Preset(
    of="transformers",
    summary="LLaVA-1.5-7B, in bfloat16: a judge of the paper.",
    params={"model": "llava-hf/llava-1.5-7b-hf", "dtype": "bfloat16"},
)
LLAVA_ONEVISION = Preset(
    of="transformers",
    summary="LLaVA-OneVision-7B, in bfloat16; pictures of more than 384 pixels are split.",
    params={"model": "llava-hf/llava-onevision-qwen2-7b-ov-hf", "dtype": "bfloat16"},
)
PIXTRAL = Preset(
    of="transformers",
    summary="Pixtral-12B, in bfloat16: a judge of the paper.",
    params={"model": "mistral-community/pixtral-12b", "dtype": "bfloat16"},
)
PALIGEMMA2 = Preset(
    of="transformers",
    summary="PaliGemma 2 3B (mix, 448 pixels), in bfloat16; was taught to answer in lower case: yes, no.",
    params={
        "model": "google/paligemma2-3b-mix-448",
        "dtype": "bfloat16",
        "template": "<image>answer en {{ messages[0]['content'][-1]['text'] }}",
    },
)
INTERNVL3 = Preset(
    of="transformers",
    summary="InternVL3-8B, in bfloat16, pictures not split.",
    params={"model": "OpenGVLab/InternVL3-8B-hf", "dtype": "bfloat16", "images": {"crop_to_patches": False}},
)
MLLAMA = Preset(
    of="transformers",
    summary="Llama 3.2 11B Vision, in bfloat16; pictures of more than 560 pixels are split.",
    params={"model": "meta-llama/Llama-3.2-11B-Vision-Instruct", "dtype": "bfloat16"},
)
