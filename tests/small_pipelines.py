"""Small complete pipelines of many families, with random weights, text encoders and tokenizers.

Each builder returns a pipeline for images of about 32 x 32 pixels. `FAMILIES` has the parameters to sample from it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import diffusers as df
import pytest
import torch
import transformers as tf
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from dualproc.plugins.generators.diffusers import DiffusersGenerator

WORDS = ["<pad>", "</s>", "<unk>", "a", "cat", "dog", "red", "big", "house", "on", "hill", "user", "assistant", "the"]
CHAT = "{% for message in messages %}{{ message['role'] }} {{ message['content'] }} {% endfor %}assistant"
FLOW = {"shift": 1.0}


def words(length: int = 16, *, chat: bool = False, side: str = "right") -> tf.PreTrainedTokenizerFast:
    """A tokenizer with one token per word."""
    inner = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    made = tf.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=length,
        padding_side=side,
    )  # fmt: skip
    if chat:
        made.chat_template = CHAT
    return made


def clip(size: int = 16, *, projected: bool = False) -> Any:
    config = tf.CLIPTextConfig(
        vocab_size=len(WORDS), hidden_size=size, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=16, projection_dim=size, pad_token_id=0, eos_token_id=1, bos_token_id=2,
    )  # fmt: skip
    return (tf.CLIPTextModelWithProjection if projected else tf.CLIPTextModel)(config)


def t5(size: int = 16) -> Any:
    config = tf.T5Config(
        vocab_size=len(WORDS), d_model=size, d_kv=8, d_ff=32, num_layers=2, num_heads=2, feed_forward_proj="gated-gelu",
    )  # fmt: skip
    return tf.T5EncoderModel(config)


LANGUAGE = {
    "vocab_size": len(WORDS), "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3,
    "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 256, "pad_token_id": 0,
    "eos_token_id": 1, "bos_token_id": 2,
}  # fmt: skip


def gemma2() -> Any:
    return tf.Gemma2Model(tf.Gemma2Config(**LANGUAGE, head_dim=8, query_pre_attn_scalar=8))


def qwen2_5_vl() -> Any:
    vision = {
        "depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16, "patch_size": 4,
        "fullatt_block_indexes": [0],
    }  # fmt: skip
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    text = {**LANGUAGE, "rope_parameters": rope}
    return tf.Qwen2_5_VLForConditionalGeneration(tf.Qwen2_5_VLConfig(text_config=text, vision_config=vision))


def kl(channels: int = 4, **more: Any) -> Any:
    """An AutoencoderKL with a scale of 2."""
    return df.AutoencoderKL(
        block_out_channels=(16, 16), latent_channels=channels, norm_num_groups=8, sample_size=32,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, **more,
    )  # fmt: skip


def kl_by_8(channels: int) -> Any:
    """An AutoencoderKL with a scale of 8, which some pipelines assume."""
    return df.AutoencoderKL(
        block_out_channels=(8,) * 4, latent_channels=channels, norm_num_groups=4, sample_size=32, shift_factor=0.1,
        scaling_factor=0.4, down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    )  # fmt: skip


def unet(text: int, **more: Any) -> Any:
    settings = {
        "sample_size": 16, "in_channels": 4, "out_channels": 4, "block_out_channels": (16, 32), "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"), "cross_attention_dim": text,
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"), "attention_head_dim": 4, "norm_num_groups": 8,
    }  # fmt: skip
    return df.UNet2DConditionModel(**settings, **more)


def flux(*, guided: bool = False) -> Any:
    transformer = df.FluxTransformer2DModel(
        in_channels=16, num_layers=2, num_single_layers=2, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=16, pooled_projection_dim=16, axes_dims_rope=(2, 2, 4), guidance_embeds=guided,
    )  # fmt: skip
    return df.FluxPipeline(
        transformer=transformer, scheduler=df.FlowMatchEulerDiscreteScheduler(**FLOW), vae=kl(shift_factor=0.1),
        text_encoder=clip(), tokenizer=words(), text_encoder_2=t5(), tokenizer_2=words(),
    )  # fmt: skip


def flux_dev() -> Any:
    return flux(guided=True)


def flux2_klein() -> Any:
    transformer = df.Flux2Transformer2DModel(
        in_channels=16, num_layers=2, num_single_layers=2, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=48, timestep_guidance_channels=16, axes_dims_rope=(2, 2, 2, 2), guidance_embeds=False,
    )  # fmt: skip
    vae = df.AutoencoderKLFlux2(
        block_out_channels=(8, 8), latent_channels=4, norm_num_groups=4, sample_size=32,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    return df.Flux2KleinPipeline(
        transformer=transformer, scheduler=df.FlowMatchEulerDiscreteScheduler(**FLOW), vae=vae,
        text_encoder=tf.Qwen3ForCausalLM(tf.Qwen3Config(**LANGUAGE, head_dim=8)), tokenizer=words(chat=True),
    )  # fmt: skip


def sd() -> Any:
    return df.StableDiffusionPipeline(
        vae=kl(), text_encoder=clip(), tokenizer=words(), unet=unet(16),
        scheduler=df.PNDMScheduler(skip_prk_steps=True, steps_offset=1),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


def sdxl(scheduler: Any = None) -> Any:
    backbone = unet(
        32, addition_embed_type="text_time", addition_time_embed_dim=4, use_linear_projection=True,
        projection_class_embeddings_input_dim=6 * 4 + 16, transformer_layers_per_block=2,
    )  # fmt: skip
    return df.StableDiffusionXLPipeline(
        vae=kl(), text_encoder=clip(), text_encoder_2=clip(projected=True), tokenizer=words(), tokenizer_2=words(),
        unet=backbone, scheduler=scheduler or df.EulerDiscreteScheduler(), add_watermarker=False,
    )  # fmt: skip


def sdxl_turbo() -> Any:
    return sdxl(df.EulerAncestralDiscreteScheduler(timestep_spacing="trailing"))


def sd3() -> Any:
    transformer = df.SD3Transformer2DModel(
        sample_size=16, patch_size=2, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=32, caption_projection_dim=16, pooled_projection_dim=32,
        pos_embed_max_size=16, qk_norm="rms_norm", dual_attention_layers=(0,),
    )  # fmt: skip
    return df.StableDiffusion3Pipeline(
        transformer=transformer, scheduler=df.FlowMatchEulerDiscreteScheduler(shift=3.0), vae=kl(shift_factor=0.1),
        text_encoder=clip(projected=True), tokenizer=words(), text_encoder_2=clip(projected=True),
        tokenizer_2=words(), text_encoder_3=t5(32), tokenizer_3=words(),
    )  # fmt: skip


def sana() -> Any:
    transformer = df.SanaTransformer2DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=8, num_layers=2,
        num_cross_attention_heads=2, cross_attention_head_dim=8, cross_attention_dim=16, caption_channels=16,
        sample_size=16,
    )  # fmt: skip
    vae = df.AutoencoderDC(
        latent_channels=4, attention_head_dim=8, encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8),
        encoder_block_types=("ResBlock", "EfficientViTBlock"), decoder_block_types=("ResBlock", "EfficientViTBlock"),
        encoder_layers_per_block=(1, 1), decoder_layers_per_block=(1, 1), encoder_qkv_multiscales=((), (5,)),
        decoder_qkv_multiscales=((), (5,)), scaling_factor=0.4,
    )  # fmt: skip
    scheduler = df.DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0, algorithm_type="dpmsolver++"
    )
    return df.SanaPipeline(
        tokenizer=words(), text_encoder=gemma2(), vae=vae, transformer=transformer, scheduler=scheduler
    )


def pixart_sigma() -> Any:
    transformer = df.PixArtTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=2,
        cross_attention_dim=16, sample_size=16, caption_channels=16, use_additional_conditions=False,
    )  # fmt: skip
    return df.PixArtSigmaPipeline(
        tokenizer=words(), text_encoder=t5(), vae=kl(), transformer=transformer,
        scheduler=df.DPMSolverMultistepScheduler(),
    )  # fmt: skip


def lumina2() -> Any:
    transformer = df.Lumina2Transformer2DModel(
        sample_size=4, patch_size=2, in_channels=4, hidden_size=24, num_layers=2, num_refiner_layers=1,
        num_attention_heads=3, num_kv_heads=1, multiple_of=8, axes_dim_rope=(4, 2, 2), axes_lens=(64, 16, 16),
        cap_feat_dim=16,
    )  # fmt: skip
    return df.Lumina2Pipeline(
        transformer=transformer, scheduler=df.FlowMatchEulerDiscreteScheduler(shift=6.0), vae=kl_by_8(4),
        text_encoder=gemma2(), tokenizer=words(64),
    )  # fmt: skip


def z_image() -> Any:
    transformer = df.ZImageTransformer2DModel(
        in_channels=4, dim=32, n_layers=2, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=16,
        axes_dims=[8, 4, 4], axes_lens=[256, 32, 32],
    )  # fmt: skip
    return df.ZImagePipeline(
        scheduler=df.FlowMatchEulerDiscreteScheduler(shift=3.0), vae=kl(shift_factor=0.1), transformer=transformer,
        text_encoder=tf.Qwen3Model(tf.Qwen3Config(**LANGUAGE, head_dim=8)), tokenizer=words(chat=True),
    )  # fmt: skip


def qwen_image() -> Any:
    transformer = df.QwenImageTransformer2DModel(
        in_channels=16, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=16, axes_dims_rope=(4, 6, 6),
    )  # fmt: skip
    vae = df.AutoencoderKLQwenImage(
        base_dim=8, z_dim=4, dim_mult=[1, 2], num_res_blocks=1, temperal_downsample=[False],
        latents_mean=[0.0, 0.1, -0.1, 0.0], latents_std=[1.0, 1.5, 2.0, 1.0],
    )  # fmt: skip
    return df.QwenImagePipeline(
        transformer=transformer, scheduler=df.FlowMatchEulerDiscreteScheduler(**FLOW), vae=vae,
        text_encoder=qwen2_5_vl(), tokenizer=words(128),
    )  # fmt: skip


def kolors() -> Any:
    """Its tokenizer needs the package sentencepiece, and is trained here on a few words."""
    import sentencepiece
    from diffusers.pipelines.kolors.text_encoder import ChatGLMConfig, ChatGLMModel
    from diffusers.pipelines.kolors.tokenizer import ChatGLMTokenizer

    with tempfile.TemporaryDirectory() as folder:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter([" ".join(WORDS[3:])] * 20), model_prefix=f"{folder}/tokenizer", vocab_size=50,
            hard_vocab_limit=False, minloglevel=2,
        )  # fmt: skip
        tokenizer = ChatGLMTokenizer(f"{folder}/tokenizer.model")
        vocabulary = tokenizer.vocab_size
        tokenizer.save_pretrained(kept := tempfile.mkdtemp())
    tokenizer = ChatGLMTokenizer.from_pretrained(kept)
    config = ChatGLMConfig(
        num_layers=2, padded_vocab_size=vocabulary + 16, hidden_size=16, ffn_hidden_size=32, kv_channels=8,
        num_attention_heads=2, seq_length=32, multi_query_attention=True, multi_query_group_num=1, original_rope=True,
        add_qkv_bias=True, apply_query_key_layer_scaling=True, torch_dtype="float32",
    )  # fmt: skip
    backbone = unet(
        16, addition_embed_type="text_time", addition_time_embed_dim=4, use_linear_projection=True,
        projection_class_embeddings_input_dim=6 * 4 + 16,
    )  # fmt: skip
    encoder = ChatGLMModel(config)
    for name, weight in encoder.named_parameters():  # its class does not initialise them
        torch.nn.init.constant_(weight, 1) if "norm" in name else torch.nn.init.normal_(weight, std=0.1)
    return df.KolorsPipeline(
        vae=kl(), text_encoder=encoder, tokenizer=tokenizer, unet=backbone,
        scheduler=df.EulerDiscreteScheduler(),
    )  # fmt: skip


@dataclass(frozen=True)
class Family:
    """A builder, the generator's parameters for its pipeline, and the name of the preset for the real model."""

    build: Callable[[], Any]
    preset: str
    params: dict[str, Any] = field(default_factory=dict)
    needs: str = "diffusers"
    """A package that the builder needs."""


FAMILIES = {
    "flux": Family(flux, "flux-schnell", {"call": {"max_sequence_length": 8}}),
    "flux-dev": Family(flux_dev, "flux-dev", {"guidance": 3.5, "call": {"max_sequence_length": 8}}),
    "flux2-klein": Family(
        flux2_klein,
        "flux2-klein",
        {"guidance": 4.0, "call": {"max_sequence_length": 12, "text_encoder_out_layers": [1, 2, 3]}},
    ),
    "sd": Family(sd, "sd1.5", {"guidance": 3.0, "scheduler": "DDIMScheduler"}),
    "sd-pndm": Family(sd, "sd1.5", {"guidance": 3.0}),
    "sdxl": Family(sdxl, "sdxl", {"guidance": 3.0}),
    "sdxl-turbo": Family(sdxl_turbo, "sdxl-turbo", {"guidance": 0.0}),
    "sd3": Family(sd3, "sd3.5", {"guidance": 3.0, "call": {"max_sequence_length": 8}}),
    "sana": Family(
        sana,
        "sana",
        {
            "guidance": 3.0,
            "call": {"max_sequence_length": 8, "use_resolution_binning": False, "complex_human_instruction": None},
        },
    ),
    "pixart-sigma": Family(
        pixart_sigma,
        "pixart-sigma",
        {"guidance": 3.0, "call": {"max_sequence_length": 8, "use_resolution_binning": False, "clean_caption": False}},
    ),
    "lumina2": Family(lumina2, "lumina2", {"guidance": 3.0, "call": {"max_sequence_length": 48}}),
    "z-image": Family(z_image, "z-image-turbo", {"guidance": 2.0, "call": {"max_sequence_length": 12}}),
    "qwen-image": Family(
        qwen_image, "qwen-image", {"guidance": None, "call": {"true_cfg_scale": 3.0, "negative_prompt": "a house"}}
    ),
    "kolors": Family(kolors, "kolors", {"guidance": 3.0, "call": {"max_sequence_length": 12}}, needs="sentencepiece"),
}


@cache
def saved(name: str) -> tempfile.TemporaryDirectory[str]:
    """A folder with a family's small pipeline, made once and removed when the tests end."""
    pytest.importorskip(FAMILIES[name].needs)
    folder = tempfile.TemporaryDirectory(prefix="small-")
    torch.manual_seed(0)
    FAMILIES[name].build().save_pretrained(folder.name)
    return folder


def small(name: str, **changes: Any) -> DiffusersGenerator:
    """A generator with a family's small pipeline: 32 x 32 pixels in two steps."""
    params = {"height": 32, "width": 32, "steps": 2, **FAMILIES[name].params, **changes}
    return DiffusersGenerator(DiffusersGenerator.Params(model=saved(name).name, **params))
