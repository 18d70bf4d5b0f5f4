"""Small vision-language models of every family, with random weights and their own processors, for the tests.

Each builder returns a model and its processor, with a chat template like the family's. The models read images of
32 x 32 pixels or, if the family accepts any size, slightly more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers as tf
from PIL import Image
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor, nn

from dualproc.plugins.judges.transformers import TransformersJudge
from dualproc.types import Question

WORDS = (
    "Yes No Is is it the line red dark light a drawing of cat dog image ? Answer with or . : answer en "
    "User Assistant user assistant system model"
)
SIDE, PATCH = 32, 8
PLACES = (SIDE // PATCH) ** 2

Built = tuple[Any, Any]


def tokenizer(*special: str, bos: str | None = None, **named: str) -> Any:
    """A tokenizer with one token per word, including the space before it: "Yes" and " Yes" differ, as in real ones.

    `special` tokens and `named` ones, which are also attributes of the tokenizer, are never split.
    """
    fixed = ["<pad>", "<unk>", "</s>", *([bos] if bos else []), *special, *named.values()]
    words = [space + word for word in WORDS.split() for space in ("", " ")]
    vocabulary = {word: n for n, word in enumerate(dict.fromkeys([*fixed, "\n", " ", *words]))}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex(r" ?\w+| ?[^\w\s]|\s"), "isolated")
    inner.decoder = decoders.Fuse()
    return tf.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", unk_token="<unk>", eos_token="</s>", bos_token=bos,
        extra_special_tokens=list(special), model_specific_special_tokens=named, padding_side="left",
    )  # fmt: skip


def template(image: str, *, before: str = "", after: str = "", answer: str = "") -> str:
    """A chat template: `before`, the message with `image` for the image, `after`, and the start of the `answer`."""
    return (
        f"{{{{ {before!r} }}}}{{% for message in messages %}}{{% for part in message['content'] %}}"
        f"{{% if part['type'] == 'image' %}}{{{{ {image!r} }}}}{{% else %}}{{{{ part['text'] }}}}{{% endif %}}"
        f"{{% endfor %}}{{% endfor %}}{{{{ {after!r} }}}}"
        f"{{% if add_generation_prompt %}}{{{{ {answer!r} }}}}{{% endif %}}"
    )


def text(tok: Any, **more: Any) -> dict[str, Any]:
    """The settings of the language model, the same for all families."""
    return {
        "vocab_size": len(tok), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 2048, "pad_token_id": 0,
        "eos_token_id": 2, "bos_token_id": tok.bos_token_id, "tie_word_embeddings": False, **more,
    }  # fmt: skip


def vision(**more: Any) -> dict[str, Any]:
    """The settings of the image encoder, for families that use these names."""
    return {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "image_size": SIDE, "patch_size": PATCH, **more,
    }  # fmt: skip


def square() -> dict[str, int]:
    return {"height": SIDE, "width": SIDE}


def idefics2() -> Built:
    tok = tokenizer("<fake_token_around_image>", "<image>", "<end_of_utterance>", bos="<s>")
    latents = 4
    config = tf.Idefics2Config(
        vision_config=vision(), text_config={"model_type": "mistral", **text(tok, sliding_window=None)},
        perceiver_config={
            "hidden_size": 32, "resampler_n_latents": latents, "resampler_depth": 1, "resampler_n_heads": 4,
            "resampler_head_dim": 8, "num_key_value_heads": 2,
        },
        image_token_id=tok.convert_tokens_to_ids("<image>"),
    )  # fmt: skip
    images = tf.Idefics2ImageProcessor(size={"shortest_edge": SIDE // 2, "longest_edge": SIDE}, do_image_splitting=True)
    chat = template("<image>", before="User:", after="<end_of_utterance>\n", answer="Assistant:")
    return tf.Idefics2ForConditionalGeneration(config), tf.Idefics2Processor(
        images, tok, image_seq_len=latents, chat_template=chat
    )


def _idefics3(config: Any, model: Any, images: Any, processor: Any, *more: Any) -> Built:
    places = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    special = ["<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>", "<video>"]
    tok = tokenizer(*special, *places, bos="<|im_start|>")
    built = model(config(
        vision_config=vision(), text_config={"model_type": "llama", **text(tok)}, scale_factor=2,
        image_token_id=tok.convert_tokens_to_ids("<image>"), pad_token_id=0,
    ))  # fmt: skip
    inner = images(size={"longest_edge": 2 * SIDE}, max_image_size={"longest_edge": SIDE}, do_image_splitting=True)
    chat = template("<image>", before="<|im_start|>User:", after="<end_of_utterance>\n", answer="Assistant:")
    return built, processor(inner, tok, *more, image_seq_len=PLACES // 4, chat_template=chat)


def idefics3() -> Built:
    return _idefics3(
        tf.Idefics3Config, tf.Idefics3ForConditionalGeneration, tf.Idefics3ImageProcessor, tf.Idefics3Processor
    )


def smolvlm2() -> Built:
    """Its processor needs the package num2words."""
    return _idefics3(
        tf.SmolVLMConfig, tf.SmolVLMForConditionalGeneration, tf.SmolVLMImageProcessor, tf.SmolVLMProcessor,
        tf.SmolVLMVideoProcessor(),
    )  # fmt: skip


CHATML = {"after": "<|im_end|>\n", "answer": "<|im_start|>assistant\n"}


def _qwen(config: Any, model: Any, processor: Any, videos: Any, *, system: str, sees: Any, **of_text: Any) -> Built:
    tok = tokenizer(
        "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"
    )
    names = {"image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>",
             "vision_start_token_id": "<|vision_start|>", "vision_end_token_id": "<|vision_end|>"}  # fmt: skip
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}
    built = model(config(
        text_config=text(tok, rope_parameters=rope, **of_text),
        vision_config={
            "depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 4, "patch_size": PATCH,
            "out_hidden_size": 32, **sees,
        },
        **{key: tok.convert_tokens_to_ids(token) for key, token in names.items()},
    ))  # fmt: skip
    size = {"shortest_edge": SIDE**2, "longest_edge": 2 * SIDE**2}
    images = tf.Qwen2VLImageProcessor(patch_size=PATCH, merge_size=2, size=size)
    place = "<|vision_start|><|image_pad|><|vision_end|>"
    chat = template(place, before=f"{system}<|im_start|>user\n", **CHATML)
    return built, processor(images, tok, videos, chat_template=chat)


def qwen2_5_vl() -> Built:
    return _qwen(
        tf.Qwen2_5_VLConfig, tf.Qwen2_5_VLForConditionalGeneration, tf.Qwen2_5_VLProcessor, tf.Qwen2VLVideoProcessor(),
        system="<|im_start|>system\nAnswer with Yes or No.<|im_end|>\n",
        sees={"window_size": 2 * PATCH, "fullatt_block_indexes": [1]},
    )  # fmt: skip


def qwen3_vl() -> Built:
    return _qwen(
        tf.Qwen3VLConfig, tf.Qwen3VLForConditionalGeneration, tf.Qwen3VLProcessor, tf.Qwen3VLVideoProcessor(),
        system="", sees={"num_position_embeddings": PLACES, "deepstack_visual_indexes": [0, 1]}, head_dim=8,
    )  # fmt: skip


def gemma3() -> Built:
    tok = tokenizer(
        "<start_of_turn>", "<end_of_turn>", bos="<bos>",
        boi_token="<start_of_image>", eoi_token="<end_of_image>", image_token="<image_soft_token>",
    )  # fmt: skip
    tokens = PLACES // 4
    config = tf.Gemma3Config(
        # One layer of each kind; the window is shorter than a prompt.
        text_config=text(
            tok, head_dim=8, query_pre_attn_scalar=8, sliding_window=12,
            layer_types=["sliding_attention", "full_attention"], tie_word_embeddings=True,
        ),
        vision_config={"model_type": "siglip_vision_model", **vision(vision_use_head=False)},
        mm_tokens_per_image=tokens, boi_token_index=tok.boi_token_id, eoi_token_index=tok.eoi_token_id,
        image_token_index=tok.image_token_id,
    )  # fmt: skip
    start, end = "<bos><start_of_turn>user\n", "<end_of_turn>\n"
    chat = template("<start_of_image>", before=start, after=end, answer="<start_of_turn>model\n")
    return tf.Gemma3ForConditionalGeneration(config), tf.Gemma3Processor(
        tf.Gemma3ImageProcessor(size=square()), tok, image_seq_length=tokens, chat_template=chat
    )


def llava_1_5() -> Built:
    tok = tokenizer("<image>", bos="<s>")
    config = tf.LlavaConfig(
        vision_config={"model_type": "clip_vision_model", **vision(projection_dim=32)},
        text_config={"model_type": "llama", **text(tok)}, image_token_index=tok.convert_tokens_to_ids("<image>"),
        image_seq_length=PLACES, vision_feature_layer=-2,
    )  # fmt: skip
    images = tf.CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=square())
    return tf.LlavaForConditionalGeneration(config), tf.LlavaProcessor(
        images, tok, patch_size=PATCH, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=template("<image>\n", before="User: ", answer=" Assistant:"),
    )  # fmt: skip


def llava_onevision() -> Built:
    tok = tokenizer("<|im_start|>", "<|im_end|>", "<image>", "<video>")
    grid = [[SIDE, SIDE], [SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE]]
    config = tf.LlavaOnevisionConfig(
        vision_config={"model_type": "siglip_vision_model", **vision(vision_use_head=False)},
        text_config={"model_type": "qwen2", **text(tok)}, image_grid_pinpoints=grid,
        image_token_index=tok.convert_tokens_to_ids("<image>"), video_token_index=tok.convert_tokens_to_ids("<video>"),
    )  # fmt: skip
    processor = tf.LlavaOnevisionProcessor(
        tf.LlavaOnevisionImageProcessor(size=square(), image_grid_pinpoints=grid), tok,
        tf.LlavaOnevisionVideoProcessor(), num_image_tokens=PLACES, vision_feature_select_strategy="full",
        chat_template=template(
            "<image>\n", before="<|im_start|>user ", after="<|im_end|>", answer="<|im_start|>assistant\n"
        ),
    )  # fmt: skip
    return tf.LlavaOnevisionForConditionalGeneration(config), processor


def pixtral() -> Built:
    tok = tokenizer("[IMG]", "[IMG_BREAK]", "[IMG_END]", "[INST]", "[/INST]", bos="<s>")
    config = tf.LlavaConfig(
        vision_config={"model_type": "pixtral", **vision(image_size=2 * SIDE)},
        text_config={"model_type": "mistral", **text(tok, sliding_window=None)}, vision_feature_layer=-1,
        vision_feature_select_strategy="full", image_token_index=tok.convert_tokens_to_ids("[IMG]"),
    )  # fmt: skip
    images = tf.PixtralImageProcessor(size={"longest_edge": SIDE}, patch_size={"height": PATCH, "width": PATCH})
    return tf.LlavaForConditionalGeneration(config), tf.PixtralProcessor(
        images, tok, patch_size=PATCH, chat_template=template("[IMG]", before="<s>[INST]", after="[/INST]")
    )


def paligemma2() -> Built:
    """The family has no chat template; its processor adds a bos token after the image and a line break at the end."""
    tok = tokenizer("<image>", bos="<bos>")
    images = tf.SiglipImageProcessor(size=square())
    images.image_seq_length = PLACES
    processor = tf.PaliGemmaProcessor(images, tok)
    config = tf.PaliGemmaConfig(
        vision_config={"model_type": "siglip_vision_model", **vision(vision_use_head=False)},
        text_config={
            "model_type": "gemma2",
            **text(tok, head_dim=8, query_pre_attn_scalar=8, sliding_window=12, tie_word_embeddings=True),
        },
        projection_dim=32, hidden_size=32, image_token_index=tok.convert_tokens_to_ids("<image>"),
    )  # fmt: skip
    return tf.PaliGemmaForConditionalGeneration(config), processor


def internvl3() -> Built:
    tok = tokenizer(
        "<|im_start|>", "<|im_end|>", start_image_token="<img>", end_image_token="</img>",
        context_image_token="<IMG_CONTEXT>", video_token="<video>",
    )  # fmt: skip
    config = tf.InternVLConfig(
        vision_config=vision(image_size=[SIDE, SIDE], patch_size=[PATCH, PATCH]), image_seq_length=PLACES // 4,
        text_config={"model_type": "qwen2", **text(tok)}, image_token_id=tok.context_image_token_id,
        tie_word_embeddings=False,
    )  # fmt: skip
    images = tf.GotOcr2ImageProcessor(size=square(), crop_to_patches=True)
    chat = template("<IMG_CONTEXT>\n", before="<|im_start|>user\n", **CHATML)
    return tf.InternVLForConditionalGeneration(config), tf.InternVLProcessor(
        images, tok, tf.InternVLVideoProcessor(), image_seq_length=PLACES // 4, chat_template=chat
    )


def mllama() -> Built:
    tok = tokenizer(
        "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|python_tag|>", "<|image|>", bos="<|begin_of_text|>"
    )  # fmt: skip
    config = tf.MllamaConfig(
        vision_config={
            "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_global_layers": 1,
            "attention_heads": 4, "image_size": SIDE, "patch_size": PATCH, "vision_output_dim": 64,
            "intermediate_layers_indices": [1],
        },
        text_config=text(tok, num_hidden_layers=3, cross_attention_layers=[1]),
        image_token_index=tok.convert_tokens_to_ids("<|image|>"),
    )  # fmt: skip
    start = "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n"
    answer = "<|start_header_id|>assistant<|end_header_id|>\n\n"
    chat = template("<|image|>", before=start, after="<|eot_id|>", answer=answer)
    return tf.MllamaForConditionalGeneration(config), tf.MllamaProcessor(
        tf.MllamaImageProcessor(size=square()), tok, chat_template=chat
    )


def randomize(model: nn.Module) -> None:
    """Draw larger weights (std 1/sqrt(fan in)): with the default ones, answers hardly depend on image and question."""
    inner = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    for name, weight in model.named_parameters():
        if name.endswith("gate"):  # 0 in a new Mllama, which would ignore the image
            nn.init.constant_(weight, 0.7)
        elif id(weight) in inner:
            nn.init.normal_(weight, std=0.5)
        elif weight.ndim > 1:
            nn.init.normal_(weight, std=weight[0].numel() ** -0.5)


FAMILIES: dict[str, Callable[[], Built]] = {
    "idefics2": idefics2,
    "idefics3": idefics3,
    "smolvlm2": smolvlm2,
    "qwen2.5-vl": qwen2_5_vl,
    "qwen3-vl": qwen3_vl,
    "gemma3": gemma3,
    "llava-1.5": llava_1_5,
    "llava-onevision": llava_onevision,
    "pixtral": pixtral,
    "paligemma2": paligemma2,
    "internvl3": internvl3,
    "mllama": mllama,
}


def save(name: str, folder: Path) -> Path:
    """Build a family's small model, and write it with its processor to `folder`."""
    torch.manual_seed(0)
    model, processor = FAMILIES[name]()
    randomize(model)
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def generated_log_likelihood(judge: TransformersJudge, image: Tensor, question: str, tokens: Sequence[str]) -> float:
    """Log P(tokens | image [1, 3, H, W], question), by plain transformers: `generate`, forced to produce the tokens."""
    message = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
    template, settings = judge.params.template, judge.params.images
    prompt = judge.processor.apply_chat_template(message, chat_template=template, add_generation_prompt=True)
    blank = Image.new("RGB", (image.shape[-1], image.shape[-2]))
    inputs = judge.processor(images=[[blank]], text=[prompt], return_tensors="pt", images_kwargs=settings)
    inputs["pixel_values"] = pixels_of(judge, image)
    inputs.pop("labels", None)
    ids, start = judge.tokenizer.convert_tokens_to_ids(list(tokens)), inputs["input_ids"].shape[1]
    out = judge.model.generate(
        **inputs, max_new_tokens=len(ids), do_sample=False, output_logits=True, return_dict_in_generate=True,
        prefix_allowed_tokens_fn=lambda _, so_far: [ids[len(so_far) - start]],
    )  # fmt: skip
    return sum(logits[0].log_softmax(-1)[token].item() for logits, token in zip(out.logits, ids, strict=True))


def pixels_of(judge: TransformersJudge, images: Tensor) -> Tensor:
    """The pixels that the judge passes to its model for these images."""
    seen: list[Tensor] = []
    hook = judge.model.register_forward_pre_hook(lambda *call: seen.append(call[-1]["pixel_values"]), with_kwargs=True)
    judge.answer_log_likelihoods(images.detach(), [[Question("", ("Yes",))]] * len(images))
    hook.remove()
    return seen[0]
