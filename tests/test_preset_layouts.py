"""Every preset loads from a folder with exactly the file names of its hub repository, in the formats of real files.

The models are small and random. What a preset asks for (a variant, a precision) must exist under the real names, and
its tokenizers must load from the real files with the installed packages.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import pytest
import small_judges
import small_pipelines
import torch
from hub_layouts import GENERATORS, JUDGE_TOKENIZERS, JUDGES, names
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from torch import nn
from transformers import AutoModelForImageTextToText

from dualproc import registry
from dualproc.errors import DualprocWarning
from dualproc.types import Question

BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
INDEX = re.compile(r"^(\w+)\.safetensors\.index\.(?:(\w+)\.)?json$")
WEIGHTS = re.compile(r"^\w+?(?:\.(\w+))?(?:-(\d+)-of-(\d+))?\.safetensors$")
CONTENT = "a red cat on a hill in front of a big house with a line and a dog"
NEEDS = {
    "pixart-sigma": ("sentencepiece", "google.protobuf"),
    "kolors": ("sentencepiece",),
    "smolvlm2": ("num2words",),
}


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def write_weights(folder: Path, files: Collection[str], state: Mapping[str, torch.Tensor]) -> None:
    """`state` under these names: whole files, or shards with an index; variants in float16."""
    for name in files:
        if not (found := WEIGHTS.match(name)):
            continue
        variant, part, count = found[1], int(found[2] or 1), int(found[3] or 1)
        mine = {
            key: (value.half() if variant == "fp16" and value.is_floating_point() else value).contiguous()
            for n, (key, value) in enumerate(sorted(state.items()))
            if n % count == part - 1
        }
        save_file(mine, folder / name, {"format": "pt"})
    for name in files:
        if found := INDEX.match(name):
            stem = ".".join(filter(None, found.groups()))
            count = max(int(file[2]) for each in files if each.startswith(f"{stem}-") and (file := parts(each)))
            places = {
                key: f"{stem}-{n % count + 1:05}-of-{count:05}.safetensors" for n, key in enumerate(sorted(state))
            }
            write(folder / name, {"metadata": {"total_size": 1}, "weight_map": places})


def parts(name: str) -> re.Match[str] | None:
    return re.search(r"-(\d+)-of-(\d+)\.safetensors$", name)


# tokenizers, in the formats of real files


def clip_tokenizer(folder: Path, _: Collection[str]) -> int:
    vocabulary = [*BYTES, *(f"{each}</w>" for each in BYTES), "<|startoftext|>", "<|endoftext|>"]
    write(folder / "vocab.json", {token: n for n, token in enumerate(vocabulary)})
    write(folder / "merges.txt", "#version: 0.2\n")
    start, end = vocabulary[-2:]
    special = {"bos_token": start, "eos_token": end, "pad_token": end, "unk_token": end}
    write(folder / "special_tokens_map.json", special)
    write(folder / "tokenizer_config.json", {**special, "model_max_length": 16, "tokenizer_class": "CLIPTokenizer"})
    return len(vocabulary)


def qwen_tokenizer(folder: Path, files: Collection[str]) -> int:
    vocabulary = {token: n for n, token in enumerate(BYTES)}
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    added = {token: len(vocabulary) + n for n, token in enumerate(special)}
    write(folder / "vocab.json", vocabulary)
    write(folder / "merges.txt", "#version: 0.2\n")
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    config = {
        "added_tokens_decoder": {str(n): {"content": token, **flags} for token, n in added.items()},
        "additional_special_tokens": special[1:], "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>",
        "model_max_length": 131072, "tokenizer_class": "Qwen2Tokenizer", "unk_token": None, "bos_token": None,
        **({} if "chat_template.jinja" in files else {"chat_template": small_pipelines.CHAT}),
    }  # fmt: skip
    write(folder / "tokenizer_config.json", config)
    if "chat_template.jinja" in files:
        write(folder / "chat_template.jinja", small_pipelines.CHAT)
    if "added_tokens.json" in files:
        write(folder / "added_tokens.json", added)
    if "special_tokens_map.json" in files:
        write(folder / "special_tokens_map.json", {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"})
    if "tokenizer.json" in files:
        inner = Tokenizer(models.BPE(vocabulary, []))
        inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        inner.add_special_tokens(special)
        inner.save(str(folder / "tokenizer.json"))
    return len(vocabulary) + len(added)


def t5_tokenizer(folder: Path, files: Collection[str]) -> int:
    """spiece.model is a real file of sentencepiece; tokenizer.json is what transformers makes of it."""
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    vocabulary += [(letter, -3.0) for letter in sorted(set(CONTENT) - {" "})]
    extra = [f"<extra_id_{n}>" for n in range(100)]
    config = {
        "additional_special_tokens": extra, "eos_token": "</s>", "extra_ids": 100, "pad_token": "<pad>",
        "model_max_length": 512, "tokenizer_class": "T5Tokenizer", "unk_token": "<unk>",
    }  # fmt: skip
    write(folder / "tokenizer_config.json", config)
    write(folder / "special_tokens_map.json", {key: config[key] for key in ("eos_token", "pad_token", "unk_token")})
    if "tokenizer.json" in files:
        inner = Tokenizer(models.Unigram(vocabulary, unk_id=2))
        inner.pre_tokenizer = pre_tokenizers.Metaspace()
        inner.decoder = decoders.Metaspace()
        inner.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
        inner.save(str(folder / "tokenizer.json"))
        write(folder / "spiece.model", "")  # not read
    else:
        sentencepiece_model(folder / "spiece.model", pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
    return 256


def gemma_tokenizer(folder: Path, _: Collection[str]) -> int:
    tokens = [
        "<pad>",
        "<eos>",
        "<bos>",
        "<unk>",
        *(f"<0x{n:02X}>" for n in range(256)),
        "▁",
        *sorted({*CONTENT} - {" "}),
    ]
    vocabulary = {token: n for n, token in enumerate(tokens)}
    inner = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    inner.add_special_tokens(tokens[:4])
    inner.save(str(folder / "tokenizer.json"))
    special = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
    write(folder / "tokenizer_config.json", {**special, "add_bos_token": True, "tokenizer_class": "GemmaTokenizer"})
    write(folder / "special_tokens_map.json", special)
    write(folder / "tokenizer.model", "")  # not read
    return len(vocabulary)


def chatglm_tokenizer(folder: Path, _: Collection[str]) -> int:
    """The real settings also name code of another repository, which is not used."""
    size = sentencepiece_model(folder / "tokenizer.model")
    code = {"AutoTokenizer": ["tokenization_chatglm.ChatGLMTokenizer", None]}
    config = {"tokenizer_class": "ChatGLMTokenizer", "do_lower_case": False, "remove_space": False, "auto_map": code}
    write(folder / "tokenizer_config.json", config)
    write(folder / "vocab.txt", "")  # not read
    return size + 5  # its special tokens


def sentencepiece_model(file: Path, **ids: int) -> int:
    """Write a small real file of sentencepiece; returns the size of its vocabulary."""
    import sentencepiece

    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([CONTENT] * 20), model_prefix=str(file.with_suffix("")), vocab_size=50,
        hard_vocab_limit=False, minloglevel=2, **ids,
    )  # fmt: skip
    file.with_suffix(".vocab").unlink()
    return int(sentencepiece.SentencePieceProcessor(model_file=str(file)).vocab_size())


TOKENIZERS: Mapping[str, tuple[str, Callable[[Path, Collection[str]], int]]] = {
    "CLIP": ("CLIPTokenizer", clip_tokenizer), "T5": ("T5TokenizerFast", t5_tokenizer),
    "Qwen": ("Qwen2Tokenizer", qwen_tokenizer), "Gemma": ("GemmaTokenizerFast", gemma_tokenizer),
    "ChatGLM": ("ChatGLMTokenizer", chatglm_tokenizer),
}  # fmt: skip
"""By the beginning of the text encoder's class: the name in model_index.json, and what writes the files."""


# generators


def build_generator(preset: str, folder: Path) -> None:
    """A small pipeline of the preset's family, under the names of its repository."""
    torch.manual_seed(0)
    family = next(family for family in small_pipelines.FAMILIES.values() if family.preset == preset)
    pipe = family.build()
    pipe.save_config(folder)
    pipe.scheduler.save_pretrained(folder / "scheduler")
    index = json.loads((folder / "model_index.json").read_text())
    layout = GENERATORS[preset]
    expected = {"model_index.json", "scheduler/scheduler_config.json"}
    for component, listed in layout.items():
        files = set(names(listed))
        expected |= {f"{component}/{file}" for file in files}
        if component.startswith("tokenizer"):
            encoder = getattr(pipe, component.replace("tokenizer", "text_encoder"))
            kind = next(each for each in TOKENIZERS if type(encoder).__name__.startswith(each))
            (folder / component).mkdir()
            index[component][1], tokenizer = TOKENIZERS[kind]
            resize(encoder, tokenizer(folder / component, files))
            if kind == "CLIP":
                encoder.config.bos_token_id, encoder.config.eos_token_id = 512, 513
        write(folder / "model_index.json", index)
    for component, listed in layout.items():
        if isinstance(module := getattr(pipe, component), nn.Module):
            small = folder.with_name("small") / component
            module.save_pretrained(small)
            (folder / component).mkdir()
            write(folder / component / "config.json", (small / "config.json").read_text())
            state = stored(small)
            if "generation_config.json" in listed:  # the files of a whole language model
                write(folder / component / "generation_config.json", {})
                if type(module).__name__ == "Qwen3Model":
                    state = {f"model.{key}": value for key, value in state.items()}
            write_weights(folder / component, list(names(listed)), state)
    assert {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()} == expected


def resize(encoder: Any, size: int) -> None:
    """Give a text encoder embeddings for the tokens of its tokenizer."""
    if hasattr(encoder, "embedding"):  # ChatGLM, for which transformers cannot do it
        inner = encoder.embedding.word_embeddings
        encoder.embedding.word_embeddings = nn.Embedding(size, inner.embedding_dim)
        encoder.output_layer = nn.Linear(inner.embedding_dim, size, bias=False)
        encoder.config.padded_vocab_size = size
    else:
        encoder.resize_token_embeddings(size, mean_resizing=False)


def stored(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of the one file of weights in a folder."""
    from safetensors.torch import load_file

    (file,) = folder.glob("*.safetensors")
    return dict(load_file(file))


@pytest.mark.parametrize("preset", GENERATORS)
def test_a_generator_loads_from_the_files_of_its_repository(preset: str, tmp_path: Path) -> None:
    for package in NEEDS.get(preset, ()):
        pytest.importorskip(package)
    folder = tmp_path / "repository"
    folder.mkdir()
    build_generator(preset, folder)
    loaded = registry.load("generators", preset)
    given = {"model": str(folder), "device": "cpu", "height": 32, "width": 32, "steps": 1}
    family = next(family for family in small_pipelines.FAMILIES.values() if family.preset == preset)
    call = {**family.params.get("call", {}), **loaded.params({}).call}
    if "max_sequence_length" in call:
        call["max_sequence_length"] = family.params["call"]["max_sequence_length"]
    generator = loaded.cls(loaded.params({**given, "call": call}))
    with warnings.catch_warnings():
        warnings.simplefilter("error", DualprocWarning)
        generator.prepare(["a cat", "a big house"])
        with torch.no_grad():
            images = generator.sample(["a cat", "a big house"], [1, 2]).images
    assert images.shape == (2, 3, 32, 32)
    assert images.isfinite().all()
    generator.pipeline()  # loads the text encoders again


# judges


def use_real_tokenizer(small: Path, kind: str) -> dict[str, int]:
    """Replace the tokenizer of a small judge by one of the real class, which spells out every word in bytes.

    Special tokens keep their ids. Returns the vocabulary.
    """
    old = json.loads((small / "tokenizer.json").read_text())
    special = sorted(old["added_tokens"], key=lambda token: token["id"])
    vocabulary: dict[str, int] = {**old["model"]["vocab"], **{token["content"]: token["id"] for token in special}}
    for token in (*BYTES, *(f"<0x{n:02X}>" for n in range(256)), "▁"):
        vocabulary.setdefault(token, len(vocabulary))
    in_letters = kind not in ("LlamaTokenizer", "GemmaTokenizer")  # these have tokens for bytes instead
    unknown = {} if in_letters else {"unk_token": "<unk>", "byte_fallback": True}
    inner = Tokenizer(models.BPE(vocabulary, [], **unknown))
    if in_letters:
        inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    inner.add_special_tokens([token["content"] for token in special])
    inner.save(str(small / "tokenizer.json"))
    config = json.loads((small / "tokenizer_config.json").read_text())
    added = {str(token["id"]): {key: token[key] for key in token if key != "id"} for token in special}
    write(small / "tokenizer_config.json", {**config, "tokenizer_class": kind, "added_tokens_decoder": added})
    model = AutoModelForImageTextToText.from_pretrained(small)
    model.resize_token_embeddings(len(vocabulary) + 2, mean_resizing=False)
    model.save_pretrained(small)
    return vocabulary


def build_judge(preset: str, folder: Path) -> None:
    """A small model of the judge's family; its processor's settings in the files in which the repository has them."""
    small = small_judges.save(preset, folder.with_name("small"))
    files = set(names(JUDGES[preset]))
    vocabulary = use_real_tokenizer(small, kind) if (kind := JUDGE_TOKENIZERS[preset]) else {}
    processor = json.loads((small / "processor_config.json").read_text())
    template = (small / "chat_template.jinja").read_text() if (small / "chat_template.jinja").exists() else None
    tokens = json.loads((small / "tokenizer_config.json").read_text())
    owner = {"processor_class": processor["processor_class"]}
    images, videos = processor.pop("image_processor"), processor.pop("video_processor", None)
    images["image_processor_type"] = images["image_processor_type"].removesuffix("Fast")
    content: dict[str, Any] = {
        "preprocessor_config.json": {**images, **owner}, "tokenizer_config.json": {**tokens, **owner},
        "special_tokens_map.json": {key: tokens[key] for key in ("eos_token", "pad_token", "unk_token")},
        "added_tokens.json": {}, "processor_config.json": processor, "chat_template.json": {"chat_template": template},
        "chat_template.jinja": template, "video_preprocessor_config.json": {**(videos or {}), **owner},
        "merges.txt": "#version: 0.2\n", "vocab.json": vocabulary, "tokenizer.model": "",
    }  # fmt: skip
    if template is not None and not {"chat_template.json", "chat_template.jinja"} & files:
        content["processor_config.json"]["chat_template"] = template
    for name in files:
        if name in content:
            write(folder / name, content[name])
        elif (small / name).exists():
            write(folder / name, (small / name).read_text())
    write_weights(folder, list(files), stored(small))
    assert {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()} == files


@pytest.mark.parametrize("preset", JUDGES)
def test_a_judge_loads_from_the_files_of_its_repository(preset: str, tmp_path: Path) -> None:
    for package in NEEDS.get(preset, ()):
        pytest.importorskip(package)
    folder = tmp_path / "repository"
    folder.mkdir()
    build_judge(preset, folder)
    loaded = registry.load("judges", preset)
    judge = loaded.cls(loaded.params({"model": str(folder), "device": "cpu"}))
    with torch.no_grad():
        answers = judge.answer_log_likelihoods(torch.rand(1, 3, 64, 64), [[Question("Is it a cat ?", ("Yes", "No"))]])
    assert answers.log_likelihoods.isfinite().all()


def test_every_large_preset_has_a_layout() -> None:
    for kind, layouts in (("generators", GENERATORS), ("judges", JUDGES)):
        ours = {
            each.name for each in registry.entries(kind) if each.target.startswith(f"dualproc.plugins.{kind}.presets")
        }
        assert ours - {"tiny", "tiny-referee"} == set(layouts)
