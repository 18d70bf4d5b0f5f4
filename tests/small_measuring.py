"""Small models of the classes that scorers use, with random weights and their own processors, saved to a folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as tf
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn

SIDE, PATCH = 32, 8
WORDS = "a an cartoon of cat dog owl car big red house photo ."


def tokenizer(length: int = 12) -> Any:
    """One token per word; texts begin with <s> and end with </s>."""
    vocabulary = {word: n for n, word in enumerate(["<pad>", "<s>", "</s>", "<unk>", *WORDS.split()])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    return tf.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        cls_token="<s>", sep_token="</s>", model_max_length=length,
    )  # fmt: skip


def layers(**more: Any) -> dict[str, Any]:
    return {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, **more}


def sees(**more: Any) -> dict[str, Any]:
    return layers(image_size=SIDE, patch_size=PATCH, **more)


def reads(**more: Any) -> dict[str, Any]:
    count = len(tokenizer())
    return layers(vocab_size=count, max_position_embeddings=12, pad_token_id=0, bos_token_id=1, eos_token_id=2, **more)


def dino() -> tuple[Any, Any]:
    images = tf.BitImageProcessor(size={"shortest_edge": SIDE + 8}, crop_size={"height": SIDE, "width": SIDE})
    return tf.Dinov2Model(tf.Dinov2Config(**sees())), images


def depth() -> tuple[Any, Any]:
    backbone = tf.Dinov2Config(**sees(out_indices=[1, 2], reshape_hidden_states=False, apply_layernorm=True))
    config = tf.DepthAnythingConfig(
        backbone_config=backbone, patch_size=PATCH, reassemble_hidden_size=32, reassemble_factors=[1, 0.5],
        neck_hidden_sizes=[8, 8], fusion_hidden_size=8, head_hidden_size=8,
    )  # fmt: skip
    size = {"height": SIDE, "width": SIDE}
    images = tf.DPTImageProcessor(size=size, keep_aspect_ratio=True, ensure_multiple_of=PATCH)
    return tf.DepthAnythingForDepthEstimation(config), images


def clip() -> tuple[Any, Any]:
    config = tf.CLIPConfig(text_config=reads(), vision_config=sees(), projection_dim=16)
    images = tf.CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    return tf.CLIPModel(config), tf.CLIPProcessor(images, tokenizer())


def siglip() -> tuple[Any, Any]:
    config = tf.SiglipConfig(text_config=reads(projection_size=32), vision_config=sees())
    images = tf.SiglipImageProcessor(size={"height": SIDE, "width": SIDE})
    return tf.SiglipModel(config), tf.SiglipProcessor(images, tokenizer())


def owlv2() -> tuple[Any, Any]:
    config = tf.Owlv2Config(text_config=reads(), vision_config=sees(), projection_dim=32)
    images = tf.Owlv2ImageProcessor(size={"height": SIDE, "width": SIDE})
    return tf.Owlv2ForObjectDetection(config), tf.Owlv2Processor(images, tokenizer())


def grounding_dino() -> tuple[Any, Any]:
    backbone = tf.SwinConfig(
        image_size=SIDE, patch_size=2, embed_dim=8, depths=[1, 1, 1], num_heads=[1, 2, 2], window_size=4,
        out_indices=[2, 3],
    )  # fmt: skip
    config = tf.GroundingDinoConfig(
        backbone_config=backbone, text_config={"model_type": "bert", **reads()}, d_model=32, encoder_layers=1,
        decoder_layers=2, encoder_ffn_dim=32, decoder_ffn_dim=32, encoder_attention_heads=4, decoder_attention_heads=4,
        num_queries=8, num_feature_levels=2, max_text_len=12, encoder_n_points=2, decoder_n_points=2,
        disable_custom_kernels=True,
    )  # fmt: skip
    images = tf.GroundingDinoImageProcessor(size={"shortest_edge": SIDE, "longest_edge": 2 * SIDE})
    return tf.GroundingDinoForObjectDetection(config), tf.GroundingDinoProcessor(images, tokenizer())


FAMILIES: dict[str, Callable[[], tuple[Any, Any]]] = {
    "dino": dino,
    "depth": depth,
    "clip": clip,
    "siglip": siglip,
    "owlv2": owlv2,
    "grounding_dino": grounding_dino,
}


def save(name: str, folder: Path) -> Path:
    """Save a small model and its processor; its answers depend on the image and the text."""
    torch.manual_seed(0)
    model, processor = FAMILIES[name]()
    for key, weight in model.named_parameters():
        if weight.ndim > 1:  # with the default weights, outputs hardly depend on the input
            nn.init.normal_(weight, std=weight[0].numel() ** -0.5)
        elif name == "depth" and key.endswith("conv3.bias"):
            nn.init.constant_(weight, 3.0)  # the last layer is a ReLU
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
