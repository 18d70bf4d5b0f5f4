"""The names of the files in the hub repository of each preset, as far as loading the model can depend on them.

From the pages `https://huggingface.co/<id>/tree/main`. `N*name` stands for N shards of safetensors and their index;
weights that are never read (.bin, .onnx, .msgpack, single files for other programs) are left out, and so is what no
pipeline has as a component.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

BPE = "merges.txt special_tokens_map.json tokenizer_config.json vocab.json"
"""A tokenizer of CLIP or GPT-2 type, without tokenizer.json."""
T5 = "special_tokens_map.json spiece.model tokenizer.json tokenizer_config.json"
GEMMA = "special_tokens_map.json tokenizer.json tokenizer.model tokenizer_config.json"
BOTH = "config.json model.fp16.safetensors model.safetensors"
DIFFUSION = "config.json diffusion_pytorch_model.safetensors"
BOTH_DIFFUSION = "config.json diffusion_pytorch_model.fp16.safetensors diffusion_pytorch_model.safetensors"
FLUX = {
    "text_encoder": "config.json model.safetensors",
    "text_encoder_2": "config.json 2*model",
    "tokenizer": BPE,
    "tokenizer_2": T5,
    "transformer": "config.json 3*diffusion_pytorch_model",
    "vae": DIFFUSION,
}
SDXL = {
    "text_encoder": BOTH,
    "text_encoder_2": BOTH,
    "tokenizer": BPE,
    "tokenizer_2": BPE,
    "unet": BOTH_DIFFUSION,
    "vae": BOTH_DIFFUSION,
}

GENERATORS: Mapping[str, Mapping[str, str]] = {
    "flux-schnell": FLUX,
    "flux-dev": FLUX,
    "flux2-klein": {
        "text_encoder": "config.json generation_config.json 2*model",
        "tokenizer": f"added_tokens.json chat_template.jinja tokenizer.json {BPE}",
        "transformer": DIFFUSION,
        "vae": DIFFUSION,
    },
    "sd1.5": {"text_encoder": BOTH, "tokenizer": BPE, "unet": BOTH_DIFFUSION, "vae": BOTH_DIFFUSION},
    "sdxl": SDXL,
    "sdxl-turbo": SDXL,
    "sd3.5": {
        "text_encoder": BOTH,
        "text_encoder_2": BOTH,
        "text_encoder_3": "config.json 2*model 2*model.fp16",
        "tokenizer": BPE,
        "tokenizer_2": BPE,
        "tokenizer_3": T5,
        "transformer": DIFFUSION,
        "vae": DIFFUSION,
    },
    "sana": {
        "text_encoder": "config.json 2*model 2*model.fp16",
        "tokenizer": GEMMA,
        "transformer": "config.json 2*diffusion_pytorch_model diffusion_pytorch_model.fp16.safetensors",
        "vae": BOTH_DIFFUSION,
    },
    "pixart-sigma": {
        "text_encoder": "config.json 2*model",
        "tokenizer": "special_tokens_map.json spiece.model tokenizer_config.json",
        "transformer": DIFFUSION,
        "vae": DIFFUSION,
    },
    "lumina2": {
        "text_encoder": "config.json 3*model",
        "tokenizer": GEMMA,
        "transformer": "config.json 2*diffusion_pytorch_model",
        "vae": DIFFUSION,
    },
    "z-image-turbo": {
        "text_encoder": "config.json generation_config.json 3*model",
        "tokenizer": "merges.txt tokenizer.json tokenizer_config.json vocab.json",
        "transformer": "config.json 3*diffusion_pytorch_model",
        "vae": DIFFUSION,
    },
    "qwen-image": {
        "text_encoder": "config.json generation_config.json 4*model",
        "tokenizer": f"added_tokens.json chat_template.jinja {BPE}",
        "transformer": "config.json 9*diffusion_pytorch_model",
        "vae": DIFFUSION,
    },
    "kolors": {
        "text_encoder": "config.json 3*model.fp16",
        "tokenizer": "tokenizer.model tokenizer_config.json vocab.txt",
        "unet": "config.json diffusion_pytorch_model.fp16.safetensors",
        "vae": "config.json diffusion_pytorch_model.fp16.safetensors",
    },
}
"""By component; each also has its scheduler's file and model_index.json."""

MODEL = "config.json generation_config.json preprocessor_config.json tokenizer_config.json tokenizer.json"
SPECIAL = f"{MODEL} special_tokens_map.json"
PROCESSOR = f"{SPECIAL} processor_config.json"
WORDS = "merges.txt vocab.json"
JUDGES: Mapping[str, str] = {
    "idefics2": f"{PROCESSOR} added_tokens.json tokenizer.model 7*model",
    "idefics3": f"{PROCESSOR} chat_template.json 4*model",
    "smolvlm2": f"{PROCESSOR} chat_template.json added_tokens.json {WORDS} 2*model",
    "qwen2.5-vl": f"{MODEL} chat_template.json {WORDS} 5*model",
    "qwen3-vl": f"{MODEL} chat_template.json video_preprocessor_config.json {WORDS} 4*model",
    "gemma3": f"{PROCESSOR} chat_template.json added_tokens.json tokenizer.model 2*model",
    "llava-1.5": f"{PROCESSOR} chat_template.json added_tokens.json tokenizer.model 3*model",
    "llava-onevision": f"{PROCESSOR} chat_template.json added_tokens.json {WORDS} 4*model",
    "pixtral": f"{PROCESSOR} chat_template.json 6*model",
    "paligemma2": f"{SPECIAL} added_tokens.json tokenizer.model 2*model",
    "internvl3": f"{PROCESSOR} chat_template.jinja added_tokens.json {WORDS} 4*model",
    "mllama": f"{SPECIAL} chat_template.json 5*model",
}

JUDGE_TOKENIZERS: Mapping[str, str | None] = {
    "idefics2": "LlamaTokenizer",
    "idefics3": "PreTrainedTokenizerFast",
    "smolvlm2": "GPT2Tokenizer",
    "qwen2.5-vl": "Qwen2Tokenizer",
    "qwen3-vl": "Qwen2Tokenizer",
    "gemma3": "GemmaTokenizer",
    "llava-1.5": "LlamaTokenizer",
    "llava-onevision": "Qwen2Tokenizer",
    "pixtral": "PreTrainedTokenizerFast",
    "paligemma2": "GemmaTokenizer",
    "internvl3": "Qwen2Tokenizer",
    "mllama": None,  # transformers cannot resize its embeddings; real: PreTrainedTokenizerFast
}
"""The `tokenizer_class` in tokenizer_config.json."""


def names(listed: str) -> Iterator[str]:
    """The file names of a list above."""
    for word in listed.split():
        count, star, stem = word.partition("*")
        if not star:
            yield word
            continue
        kind, _, variant = stem.partition(".")
        yield ".".join(filter(None, (kind, "safetensors.index", variant, "json")))
        yield from (f"{stem}-{n + 1:05}-of-{int(count):05}.safetensors" for n in range(int(count)))
