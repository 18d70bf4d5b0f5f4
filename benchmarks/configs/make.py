"""Write the folders next to this file: models of real sizes without weights, for `dp plan` and `real_size.py`.

    python benchmarks/configs/make.py

The sizes are the published ones of FLUX.1-schnell, Stable Diffusion 1.5, Qwen2.5-VL-7B-Instruct, Idefics2-8B,
SmolVLM2-2.2B-Instruct, SmolVLM-256M-Instruct and the small FLUX autoencoder (taef1). The tokenizers are stand-ins with
one token per word, so texts have slightly fewer tokens than with the real ones.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import diffusers as df
import torch
import transformers as tf
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors

HERE = Path(__file__).parent
SPECS = HERE.parents[1] / "specs"


def words() -> list[str]:
    """Every word and punctuation mark of the specs, with and without a space before it."""
    text = "Yes No ? . : , User Assistant " + " ".join(file.read_text() for file in sorted(SPECS.glob("*.yaml")))
    found = dict.fromkeys(re.findall(r"\w+|[^\w\s]", text))
    return [space + word for word in found for space in ("", " ")]


def tokenizer(*special: str, unknown: str, padding: str, end: str, closed: bool, **more: Any) -> Any:
    """A tokenizer with one token per word; with `closed`, texts end with the token `end`."""
    vocabulary = {word: n for n, word in enumerate(dict.fromkeys([padding, end, unknown, *special, "\n", *words()]))}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token=unknown))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex(r" ?\w+| ?[^\w\s]|\s"), "isolated")
    inner.decoder = decoders.Fuse()
    if closed:
        inner.post_processor = processors.TemplateProcessing(single=f"$A {end}", special_tokens=[(end, 1)])
    return tf.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token=padding, unk_token=unknown, eos_token=end,
        extra_special_tokens=list(special), **more,
    )  # fmt: skip


def flux_schnell() -> None:
    folder = HERE / "flux-schnell"
    clip = tf.CLIPTextConfig(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, projection_dim=768,
        pad_token_id=0, eos_token_id=1, bos_token_id=1, architectures=["CLIPTextModel"],
    )  # fmt: skip
    t5 = tf.T5Config(
        d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64, feed_forward_proj="gated-gelu",
        architectures=["T5EncoderModel"],
    )  # fmt: skip
    end = "<|endoftext|>"
    pipe = df.FluxPipeline(
        transformer=df.FluxTransformer2DModel(guidance_embeds=False),  # all other sizes are the defaults of the class
        vae=df.AutoencoderKL(
            block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=16, sample_size=1024,
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
            scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False,
        ),
        scheduler=df.FlowMatchEulerDiscreteScheduler(shift=1.0),
        text_encoder=tf.CLIPTextModel(clip), text_encoder_2=tf.T5EncoderModel(t5),
        tokenizer=tokenizer(unknown=end, padding="<pad>", end=end, closed=True, model_max_length=77),
        tokenizer_2=tokenizer(unknown="<unk>", padding="<pad>", end="</s>", closed=True, model_max_length=512),
    )  # fmt: skip
    save(pipe, folder)


def stable_diffusion() -> None:
    clip = tf.CLIPTextConfig(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, projection_dim=768,
        pad_token_id=0, eos_token_id=1, bos_token_id=1, architectures=["CLIPTextModel"],
    )  # fmt: skip
    end = "<|endoftext|>"
    pipe = df.StableDiffusionPipeline(
        unet=df.UNet2DConditionModel(sample_size=64, cross_attention_dim=768),  # other sizes: the class's defaults
        vae=df.AutoencoderKL(
            block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4, sample_size=512,
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        ),
        scheduler=df.DDIMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
            set_alpha_to_one=False, steps_offset=1,
        ),
        text_encoder=tf.CLIPTextModel(clip),
        tokenizer=tokenizer(unknown=end, padding="<pad>", end=end, closed=True, model_max_length=77),
        safety_checker=None, feature_extractor=None, image_encoder=None, requires_safety_checker=False,
    )  # fmt: skip
    save(pipe, HERE / "sd1.5")


def save(pipe: Any, folder: Path) -> None:
    """Write the configurations of a pipeline and its components."""
    pipe.save_config(folder)
    for name, part in pipe.components.items():
        if hasattr(part, "save_config"):
            part.save_config(folder / name)
        elif part is not None:
            (part.config if isinstance(part, torch.nn.Module) else part).save_pretrained(folder / name)


def taef1() -> None:
    vae = df.AutoencoderTiny(latent_channels=16, scaling_factor=1.0, shift_factor=0.0)
    vae.save_config(HERE / "taef1")


def chat(image: str, *, before: str, after: str, answer: str) -> str:
    """A chat template for one question about one image."""
    return (
        f"{{{{ {before!r} }}}}{{% for message in messages %}}{{% for part in message['content'] %}}"
        f"{{% if part['type'] == 'image' %}}{{{{ {image!r} }}}}{{% else %}}{{{{ part['text'] }}}}{{% endif %}}"
        f"{{% endfor %}}{{% endfor %}}{{{{ {after!r} }}}}"
        f"{{% if add_generation_prompt %}}{{{{ {answer!r} }}}}{{% endif %}}"
    )


def qwen2_5_vl_7b() -> None:
    start, end, image = "<|im_start|>", "<|im_end|>", "<|image_pad|>"
    others = ("<|vision_start|>", "<|vision_end|>", "<|video_pad|>")
    tok = tokenizer(start, end, image, *others, unknown="<unk>", padding="<pad>", end="</s>", closed=False)
    named = {"image_token_id": image, "vision_start_token_id": others[0], "vision_end_token_id": others[1]}
    config = tf.Qwen2_5_VLConfig(
        text_config={
            "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
            "num_key_value_heads": 4, "vocab_size": 152064, "tie_word_embeddings": False,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
        },
        vision_config={
            "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": 3584,
            "patch_size": 14, "window_size": 112, "fullatt_block_indexes": [7, 15, 23, 31],
        },
        **{key: tok.convert_tokens_to_ids(token) for key, token in named.items()},
        video_token_id=tok.convert_tokens_to_ids(others[2]), tie_word_embeddings=False,
        architectures=["Qwen2_5_VLForConditionalGeneration"],
    )  # fmt: skip
    size = {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 1280}
    processor = tf.Qwen2_5_VLProcessor(
        tf.Qwen2VLImageProcessor(patch_size=14, merge_size=2, size=size), tok, tf.Qwen2VLVideoProcessor(),
        chat_template=chat(
            f"{others[0]}{image}{others[1]}",
            before=f"{start}system\nYou are a helpful assistant.{end}\n{start}user\n",
            after=f"{end}\n", answer=f"{start}assistant\n",
        ),
    )  # fmt: skip
    config.save_pretrained(HERE / "qwen2.5-vl-7b")
    processor.save_pretrained(HERE / "qwen2.5-vl-7b")


def idefics2_8b() -> None:
    fake, image, end = "<fake_token_around_image>", "<image>", "<end_of_utterance>"
    tok = tokenizer(fake, image, end, unknown="<unk>", padding="<pad>", end="</s>", closed=False)
    config = tf.Idefics2Config(
        vision_config={
            "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16,
            "image_size": 980, "patch_size": 14,
        },
        perceiver_config={"hidden_size": 4096, "num_key_value_heads": 4},
        text_config={
            "model_type": "mistral", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 32003, "sliding_window": None,
            "tie_word_embeddings": False, "pad_token_id": 0,
        },
        image_token_id=tok.convert_tokens_to_ids(image), tie_word_embeddings=False,
        architectures=["Idefics2ForConditionalGeneration"],
    )  # fmt: skip
    images = tf.Idefics2ImageProcessor(size={"shortest_edge": 378, "longest_edge": 980}, do_image_splitting=False)
    template = chat(image, before="User:", after=f"{end}\n", answer="Assistant:")
    processor = tf.Idefics2Processor(images, tok, image_seq_len=64, chat_template=template)
    config.save_pretrained(HERE / "idefics2-8b")
    processor.save_pretrained(HERE / "idefics2-8b")


def smolvlm_256m() -> None:
    fake, image, end, whole = "<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>"
    tok = tokenizer("<|im_start|>", fake, image, end, whole, unknown="<unk>", padding="<pad>", end="</s>", closed=False)
    config = tf.Idefics3Config(
        vision_config={
            "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
            "image_size": 512, "patch_size": 16,
        },
        text_config={
            "model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
            "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49280, "tie_word_embeddings": True,
            "max_position_embeddings": 8192, "pad_token_id": 0,
        },
        scale_factor=4, image_token_id=tok.convert_tokens_to_ids(image), pad_token_id=0, tie_word_embeddings=True,
        architectures=["Idefics3ForConditionalGeneration"],
    )  # fmt: skip
    images = tf.Idefics3ImageProcessor(
        size={"longest_edge": 512}, max_image_size={"longest_edge": 512}, do_image_splitting=False
    )
    template = chat(image, before="<|im_start|>User:", after=f"{end}\n", answer="Assistant:")
    processor = tf.Idefics3Processor(images, tok, image_seq_len=64, chat_template=template)
    config.save_pretrained(HERE / "smolvlm-256m")
    processor.save_pretrained(HERE / "smolvlm-256m")


def smolvlm2_2b() -> None:
    """Needs the package num2words."""
    fake, image, end, whole = "<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>"
    tiles = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    tok = tokenizer(
        "<|im_start|>", fake, image, end, whole, *tiles, unknown="<unk>", padding="<pad>", end="</s>", closed=False
    )
    config = tf.SmolVLMConfig(
        vision_config={
            "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16,
            "image_size": 384, "patch_size": 14,
        },
        text_config={
            "model_type": "llama", "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 24,
            "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 49280, "tie_word_embeddings": False,
            "max_position_embeddings": 8192, "pad_token_id": 0,
        },
        scale_factor=3, image_token_id=tok.convert_tokens_to_ids(image), pad_token_id=0, tie_word_embeddings=False,
        architectures=["SmolVLMForConditionalGeneration"],
    )  # fmt: skip
    images = tf.SmolVLMImageProcessor(size={"longest_edge": 4 * 384}, max_image_size={"longest_edge": 384})
    template = chat(image, before="<|im_start|>User:", after=f"{end}\n", answer="Assistant:")
    processor = tf.SmolVLMProcessor(images, tok, tf.SmolVLMVideoProcessor(), image_seq_len=81, chat_template=template)
    config.save_pretrained(HERE / "smolvlm2-2.2b")
    processor.save_pretrained(HERE / "smolvlm2-2.2b")


if __name__ == "__main__":
    with torch.device("meta"):
        flux_schnell()
        stable_diffusion()
        taef1()
    qwen2_5_vl_7b()
    idefics2_8b()
    smolvlm2_2b()
    smolvlm_256m()
