"""What the scorers by pretrained models cost: parameters, memory, and operations for an image of 512 x 512 pixels.

    python benchmarks/pretrained_scorers.py

The default models are built without weights in their published sizes, and run once on torch's `meta` device; nothing
is downloaded. The script prints one Markdown row for each scorer. Operations count a multiplication and an addition as
two, and leave out the text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import transformers as tf
from torch.utils.flop_counter import FlopCounterMode


def clip(hidden: int, layers: int, inner: int, text: int, text_layers: int, heads: int, dim: int) -> Any:
    return tf.CLIPModel(tf.CLIPConfig(
        vision_config={
            "hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": 16, "intermediate_size": inner,
            "image_size": 224, "patch_size": 14,
        },
        text_config={
            "hidden_size": text, "num_hidden_layers": text_layers, "num_attention_heads": heads,
            "intermediate_size": 4 * text,
        },
        projection_dim=dim,
    ))  # fmt: skip


def depth_anything() -> Any:
    backbone = tf.Dinov2Config(
        hidden_size=384, num_hidden_layers=12, num_attention_heads=6, image_size=518, patch_size=14,
        out_indices=[3, 6, 9, 12], reshape_hidden_states=False, apply_layernorm=True,
    )  # fmt: skip
    return tf.DepthAnythingForDepthEstimation(tf.DepthAnythingConfig(
        backbone_config=backbone, reassemble_hidden_size=384, neck_hidden_sizes=[48, 96, 192, 384],
        fusion_hidden_size=64, head_hidden_size=32,
    ))  # fmt: skip


MODELS: Mapping[str, tuple[str, Callable[[], Any], int, Callable[[Any, torch.Tensor], Any]]] = {
    "depth, depth_horizon": ("Depth Anything V2 Small", depth_anything, 518, lambda model, pixels: model(pixels)),
    "clip": (
        "CLIP ViT-L/14", lambda: clip(1024, 24, 4096, 768, 12, 12, 768), 224,
        lambda model, pixels: model.get_image_features(pixels),
    ),
    "pickscore": (
        "PickScore (CLIP ViT-H/14)", lambda: clip(1280, 32, 5120, 1024, 24, 16, 1024), 224,
        lambda model, pixels: model.get_image_features(pixels),
    ),
    "detect": (
        "OWLv2 base", lambda: tf.Owlv2ForObjectDetection(tf.Owlv2Config(vision_config={"image_size": 960})), 960,
        lambda model, pixels: model.image_embedder(pixels),
    ),
    "dino": ("DINOv2 base", lambda: tf.Dinov2Model(tf.Dinov2Config(image_size=518, patch_size=14)), 224,
             lambda model, pixels: model(pixels)),
}  # fmt: skip
"""By scorer: the name of its default model, how to build it, the side of its input in pixels, and one forward pass."""


def main() -> None:
    print("| scorer | default model | parameters | memory, float32 | operations for an image |")
    print("| --- | --- | --- | --- | --- |")
    for scorer, (name, build, side, run) in MODELS.items():
        with torch.device("meta"), torch.no_grad():
            model = build().eval()
            count = sum(weight.numel() for weight in model.parameters())
            with FlopCounterMode(display=False) as counter:
                run(model, torch.empty(1, 3, side, side))
        operations = counter.get_total_flops()
        print(
            f"| {scorer} | {name} | {count / 1e6:.0f} M | {4 * count / 1e9:.2f} GB | {operations / 1e12:.2f} x 10^12 |"
        )


if __name__ == "__main__":
    main()
