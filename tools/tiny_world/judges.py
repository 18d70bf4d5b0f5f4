"""Train a judge: `python -m tools.tiny_world.judges {judge,referee} VAE OUT --minutes 20 [--generator DIR]`.

The judge (LLaVA classes) never sees the held-out subjects. The referee (Idefics3 classes, another seed, other scenes)
sees all subjects, because it has to decide whether a subject is kept.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import time
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, FluxPipeline
from tokenizers import AddedToken
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import (
    AutoTokenizer,
    CLIPImageProcessor,
    CLIPVisionConfig,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessor,
    Idefics3Processor,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)  # fmt: skip

from dualproc.plugins.scorers.line_weight import LineWeight
from dualproc.plugins.scorers.region_color import region_colors
from dualproc.types import ScoreContext

from .data import SIZE, Data, load
from .generator import codes_of, tokenize, tokenizer
from .questions import GROUND, OF_PAIRS, QUESTIONS, SIDES, SKY, SUFFIX, SWATCHES, WORDINGS, Asked, ask, overlay
from .scenes import ALIKE, CODE, COLOURS, GROUNDS, KNOWN, NAMES, PHRASES, WIDE_RANGE, Scene, draw_scenes, hex_color
from .vae import autocast, to_tensor

DIM, PATCH, TEXT = 128, 8, 36
SPECIAL = ["<image>", "<fake_token_around_image>", "<end_of_utterance>", "<global-img>"]
TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>"
    "{% else %} {{ part['text'] }}{% endif %}{% endfor %}{% endfor %}{% if add_generation_prompt %} Answer:{% endif %}"
)
MORE_OF = {"referee": {"subject": 2.5, "name": 4.0, "both": 2.5, "sky": 1.5, "depth": 0.6}}
"""The referee decides whether subjects are kept, so it is asked about them more often."""
ALIKE_CODES = [(CODE[f"sky_{what}"], CODE[f"ground_{what}"]) for what in ("hue", "saturation", "value")]
OF_FITS = ("line_weight", "palette", "subject", "sky", "ground")
"""Questions about images of a LoRA: what the noise encodes is no longer true of them, but these can be measured."""
STRENGTHS = (1.0, 0.6, 0.8, 1.2, 0.4, 1.0)
HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}


def words() -> list[str]:
    """The vocabulary: every word of the questions, and words for future questions."""
    later = (
        "Point A B in the foreground and background ? much closer to camera than color palette overlaid at bottom "
        "match displayed representative of image's colors predominant composition instructions red sky ground warm "
        "cool green blue yellow orange purple pink brown white gray black left right high low thick thin near far big "
        "small smiling standing on under behind between above below sun moon cloud day night picture photo do what "
        "where how many which color colour line outline drawn no yes Answer : , . 0 1 2 3 4 5 6 7 8 9 are there "
        "any two both dark bright large empty field tree vertical lives live water ice"
    )
    wordings = [re.sub(r"{\w*}", "", wording) for group in WORDINGS.values() for wording in group]
    texts = [SUFFIX, later, *NAMES, *PHRASES, *GROUNDS, *COLOURS, "a an", *wordings]
    split = (
        " ".join(texts).lower().replace("?", " ? ").replace(",", " , ").replace(".", " . ").replace("'", " ' ").split()
    )
    return sorted(set(split))


def text_config(vocabulary: int) -> LlamaConfig:
    """The configuration of the language model, the same for judge and referee."""
    return LlamaConfig(
        vocab_size=vocabulary, hidden_size=DIM, intermediate_size=3 * DIM, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=256, pad_token_id=0, eos_token_id=1, bos_token_id=2,
        tie_word_embeddings=False,
    )  # fmt: skip


def judge_tokenizer() -> Any:
    """The tokenizer of judge and referee, with special tokens for the image."""
    tok = tokenizer(words())
    tok.add_special_tokens(
        {"additional_special_tokens": [AddedToken(t, normalized=False, special=True) for t in SPECIAL]}
    )
    tok.backend_tokenizer.post_processor = None  # a prompt must not end with </s>, because the answer follows it
    tok.padding_side, tok.model_max_length = "left", 256
    return tok


def build(name: str) -> tuple[Any, Any]:
    """A model with new weights, and its processor."""
    tok = judge_tokenizer()
    vision = {"hidden_size": DIM, "intermediate_size": 4 * DIM, "num_hidden_layers": 4, "num_attention_heads": 4,
              "image_size": SIZE, "patch_size": PATCH}  # fmt: skip
    image_id = tok.convert_tokens_to_ids("<image>")
    if name == "judge":
        model = LlavaForConditionalGeneration(LlavaConfig(
            vision_config=CLIPVisionConfig(**vision, projection_dim=DIM), text_config=text_config(len(tok)),
            image_token_id=image_id, vision_feature_layer=-1, image_seq_length=(SIZE // PATCH) ** 2,
        ))  # fmt: skip
        size = {"height": SIZE, "width": SIZE}
        images = CLIPImageProcessor(size={"shortest_edge": SIZE}, crop_size=size, **HALF)
        processor = LlavaProcessor(
            images, tok, patch_size=PATCH, vision_feature_select_strategy="default", num_additional_image_tokens=1,
            chat_template=TEMPLATE,
        )  # fmt: skip
    else:
        model = Idefics3ForConditionalGeneration(Idefics3Config(
            vision_config=vision, text_config=text_config(len(tok)).to_dict(), image_token_id=image_id, scale_factor=2,
            pad_token_id=0, tie_word_embeddings=False,
        ))  # fmt: skip
        images = Idefics3ImageProcessor(
            size={"longest_edge": SIZE}, max_image_size={"longest_edge": SIZE}, do_image_splitting=False, **HALF
        )
        processor = Idefics3Processor(images, tok, image_seq_len=(SIZE // PATCH // 2) ** 2, chat_template=TEMPLATE)
    initialise(model)
    return model, processor


def initialise(model: nn.Module) -> None:
    """Initialise weights with standard deviation 1/sqrt(fan in), half of it in layers that add to the residual stream.

    Position embeddings start as sines and cosines. With the default initialisation (standard deviation .02), the loss
    stays at its initial plateau for a thousand steps.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            residual = name.endswith(("out_proj", "o_proj", "fc2", "down_proj"))
            nn.init.normal_(module.weight, std=(0.5 if residual else 1.0) * module.in_features**-0.5)
        elif isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
        elif isinstance(module, nn.Embedding):
            places = (SIZE // PATCH) ** 2
            if module.num_embeddings in (places, places + 1):
                with torch.no_grad():
                    module.weight[-places:] = sincos(SIZE // PATCH, module.embedding_dim)
            else:
                nn.init.normal_(module.weight, std=0.5)


def sincos(side: int, dim: int) -> torch.Tensor:
    """[side * side, dim]: sines and cosines of row and column, as position embeddings."""
    frequency = 10.0 ** -torch.linspace(0, 1.5, dim // 4) * 2
    place = torch.arange(side)[:, None] * frequency
    wave = torch.cat([place.sin(), place.cos()], dim=1)
    rows, columns = wave[:, None].expand(side, side, -1), wave[None].expand(side, side, -1)
    return 0.5 * torch.cat([rows, columns], dim=-1).reshape(side * side, dim)


KNOWN_NUMBERS = (
    "line_weight", "horizon", *SKY, *GROUND, *(f"{side}_{which}" for which in "ab" for side in SIDES),
    "bar_row", "bar_width", "a_x", "b_x", "a_near", "b_near", *SWATCHES,
    "is_upright", "upright_x", *(f"box_{side}" for side in SIDES),
)  # fmt: skip
"""Properties of scene and overlay, as numbers."""


def known(scene: Scene, asked: Asked) -> list[float]:
    """The KNOWN_NUMBERS of one image, each scaled to about -2 to 2; nan where a property does not exist."""
    values: dict[str, float] = {"line_weight": scene.line_weight, "horizon": scene.horizon, **dict(asked.shown)}
    for part, colour in zip(("sky", "ground"), scene.palette, strict=True):
        values |= {f"{part}_{c}": int(colour[i : i + 2], 16) / 255 for c, i in zip("rgb", (1, 3, 5), strict=True)}
    for which, extent in zip("ab", scene.extents, strict=False):
        values |= {f"{side}_{which}": x for side, x in zip(SIDES, extent, strict=True)}
    values = {
        key: np.log(v) + 3.7 if key in ("line_weight", "bar_width") else 4 * (v - 0.5) for key, v in values.items()
    }
    return [values.get(key, np.nan) for key in KNOWN_NUMBERS]


class Probe(nn.Module):
    """An auxiliary head, discarded after training: predicts all known properties from the image tokens."""

    def __init__(self, connector: nn.Module, layer: nn.Module, tokens: int, dim: int) -> None:
        super().__init__()
        self.mix, self.read = nn.Linear(dim, 24), nn.Linear(24 * tokens, len(KNOWN_NUMBERS) + len(NAMES))
        self.match, self.point, self.tell = nn.Linear(dim, 1), nn.Linear(dim, 2), nn.Linear(dim, len(KNOWN_NUMBERS))
        self.seen: torch.Tensor | None = None
        self.words: torch.Tensor | None = None
        connector.register_forward_hook(lambda *a: setattr(self, "seen", a[-1]))
        layer.register_forward_hook(lambda *a: setattr(self, "words", a[-1]))

    def loss(self, scenes: list[Scene], truth: torch.Tensor) -> torch.Tensor:
        """The loss on the image tokens; `truth` [B, len(KNOWN_NUMBERS)] is the output of `known`."""
        assert self.seen is not None
        out = self.read(F.gelu(self.mix(self.seen.float())).flatten(1))
        numbers, count = out[:, : len(KNOWN_NUMBERS)], len(KNOWN_NUMBERS)
        there = truth.isfinite()
        off = F.smooth_l1_loss(numbers, truth.nan_to_num(), beta=0.1, reduction="none")
        named = torch.tensor([[float(name in s.subjects) for name in NAMES] for s in scenes])
        names = F.binary_cross_entropy_with_logits(out[:, count:], named) * len(NAMES) / 16
        return 4 * (off * there).sum() / there.sum() + names

    def words_loss(self, student: Student, truth: torch.Tensor, asked: list[Asked]) -> torch.Tensor:
        """The loss on the middle of the language model: is the named thing there, and which properties does it need?

        The first is predicted at the position of the word itself. Without it, "is this a cat?" stays at chance, because
        comparing a word with the image is found too rarely. The same holds for questions about Point A and Point B. The
        second is predicted at the last position, where the answer is formed.
        """
        words = self.words[0] if isinstance(self.words, tuple) else self.words
        assert words is not None
        words = words.float()
        needed = torch.tensor([[key in a.needs for key in KNOWN_NUMBERS] for a in asked]) & truth.isfinite()
        off = F.smooth_l1_loss(self.tell(words[:, -1]), truth.nan_to_num(), beta=0.1, reduction="none")
        loss: torch.Tensor = 4 * (off * needed).sum() / needed.sum().clamp(min=1)
        there = [(row, self._place(student, row, word), true) for row, a in enumerate(asked) for word, true in a.about]
        if there:
            rows, at, true = (torch.tensor(column) for column in zip(*there, strict=True))
            loss = loss + F.binary_cross_entropy_with_logits(self.match(words[rows, at])[:, 0], true.float())
        points = [(row, self._place(student, row, letter, after="point"), [left, nearer])
                  for row, a in enumerate(asked) for letter, left, nearer in a.points]  # fmt: skip
        if points:
            rows, at, true = (torch.tensor(column) for column in zip(*points, strict=True))
            loss = loss + F.binary_cross_entropy_with_logits(self.point(words[rows, at]), true.float())
        return loss

    def _place(self, student: Student, row: int, word: str, *, after: str | None = None) -> int:
        ids, find = student.ids[row], student.tok.convert_tokens_to_ids
        here = ids == find(word)
        if after is not None:
            here[1:] &= ids[:-1] == find(after)
        return int(here.nonzero()[-1])


def grown(start: Path, model: Any, tok: Any) -> Any:
    """The model of an earlier training, with its token embeddings moved to the ids of the current tokenizer."""
    earlier = type(model).from_pretrained(start, dtype=torch.float32)
    old = AutoTokenizer.from_pretrained(start).get_vocab()
    pairs = [(index, old[token]) for token, index in tok.get_vocab().items() if token in old]
    state = earlier.state_dict()
    for key, fresh in model.state_dict().items():
        if fresh.shape != state[key].shape:  # token embeddings and the output head
            rows = fresh.clone()
            rows[[new for new, _ in pairs]] = state[key][[index for _, index in pairs]]
            state[key] = rows
    model.load_state_dict(state)
    return model


class Source:
    """Images to ask about, with an index of those that show two subjects."""

    def __init__(self, data: Data, kinds: Sequence[str] | None = None) -> None:
        self.data, self.kinds = data, kinds
        self.pairs = np.array([i for i, scene in enumerate(data.scenes) if len(scene.subjects) == 2])

    def knows(self, kind: str) -> bool:
        """Whether there are labels for a question of this kind."""
        return self.kinds is None or kind in self.kinds

    def draw(self, kind: str, rng: np.random.Generator) -> tuple[Scene, np.ndarray]:
        """A random scene that a question of this kind fits, and its image."""
        index = int(rng.choice(self.pairs) if kind in OF_PAIRS else rng.integers(0, len(self.data.scenes)))
        return self.data.scenes[index], self.data.images[index]


def augment(x: torch.Tensor) -> torch.Tensor:
    """Imperfect images [B, 3, H, W] in [0, 1]: with noise, blur, other brightness and contrast, coloured stains."""
    b = len(x)
    some = lambda share: (torch.rand(b, 1, 1, 1) < share).float()  # noqa: E731
    x = x + some(0.3) * torch.rand(b, 1, 1, 1) * 0.08 * torch.randn_like(x)
    blurred = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
    x = torch.lerp(x, blurred, some(0.3) * torch.rand(b, 1, 1, 1) * 0.7)
    x = (
        0.5
        + (x - 0.5) * (1 + some(0.3) * 0.3 * (torch.rand(b, 1, 1, 1) - 0.5))
        + some(0.3) * 0.1 * torch.randn(b, 1, 1, 1)
    )
    stains = F.interpolate(torch.randn(b, 3, 5, 5), size=x.shape[-2:], mode="bicubic", align_corners=False)
    return (x + some(0.3) * torch.rand(b, 1, 1, 1) * 0.1 * stains).clamp(0, 1)


def recoded(vae: AutoencoderKL, data: Data, count: int) -> Data:
    """The first `count` scenes, with their images encoded and decoded by the VAE."""
    out = []
    vae.to(memory_format=torch.channels_last)
    with torch.no_grad(), autocast():
        for start in range(0, count, 100):
            x = to_tensor(data.images[start : start + 100]).contiguous(memory_format=torch.channels_last)
            out.append(to_uint8(vae.decode(vae.encode(x).latent_dist.mean).sample.float()))
    return Data(data.scenes[:count], np.concatenate(out))


def generated(
    folder: Path, count: int, *, names: list[str], seed: int, alike: float = 0.0, lora: Path | None = None
) -> Data:
    """One-step images of the trained generator, labelled by the codes that their noise encodes.

    Their line weight is labelled by the scorer instead. Thin lines become paler than their code says, and a judge that
    is trained on the intended weight learns to see lines that are not there. With a LoRA, whose strength varies, the
    codes are no longer true: the colours of sky and ground are measured too, and only `OF_FITS` may be asked. In the
    share `alike` of the images, the ground has nearly the colour of the sky.
    """
    pipe = FluxPipeline.from_pretrained(folder, dtype=torch.float32)
    pipe.vae.to(memory_format=torch.channels_last)
    if lora is not None:
        pipe.load_lora_weights(lora, adapter_name="fit")
    scenes, out = draw_scenes(count, seed=seed, pairs=0.3, names=names), []
    rng = torch.Generator().manual_seed(seed)
    ids = FluxPipeline._prepare_latent_image_ids(1, SIZE // 8, SIZE // 8, "cpu", torch.float32)
    labelled = []
    for start in range(0, count, 100):
        part = scenes[start : start + 100]
        noise = torch.randn(len(part), (SIZE // 8) ** 2, 32, generator=rng)
        first = noise[: round(alike * len(part))]
        for sky, ground in ALIKE_CODES:
            first[..., ground] += (first[..., sky] - first[..., ground]).mean(1, keepdim=True)
        text = tokenize(pipe, [scene.caption for scene in part])
        if lora is not None:
            pipe.set_adapters("fit", STRENGTHS[start // 100 % len(STRENGTHS)])
        with torch.no_grad(), autocast():
            v = pipe.transformer(
                hidden_states=noise, timestep=torch.ones(len(part)),
                pooled_projections=pipe.text_encoder(text).pooler_output,
                encoder_hidden_states=pipe.text_encoder_2(text)[0], txt_ids=torch.zeros(text.shape[1], 3), img_ids=ids,
            ).sample  # fmt: skip
            z = FluxPipeline._unpack_latents(noise - v.float(), SIZE, SIZE, 4) / pipe.vae.config.scaling_factor
            z = (z + pipe.vae.config.shift_factor).contiguous(memory_format=torch.channels_last)
            out.append(to_uint8(pipe.vae.decode(z).sample.float()))
        images = to_tensor(out[-1]) / 2 + 0.5
        weights = LineWeight(LineWeight.Params()).score(images, ScoreContext((), ()))
        for scene, code, weight in zip(part, codes_of(noise).numpy(), weights.tolist(), strict=True):
            measured = max(weight, WIDE_RANGE[0]) if weight == weight else None
            labelled.append(dataclasses.replace(scene, codes=code, measured=measured))
        if lora is not None:
            regions = (region_colors(images, region) for region in ("sky", "ground"))
            for index, found in enumerate(zip(*regions, strict=True), start):
                labelled[index] = dataclasses.replace(labelled[index], colours=tuple(map(as_hex, found)))
    return Data(labelled, np.concatenate(out))


def of_fits(folder: Path, loras: Sequence[Path], *, names: list[str], seed: int) -> Data:
    """Images of generators that were trained against a judge, whose mistakes they show; the useful ones only."""
    parts = [
        generated(folder, 600, names=names, seed=seed + index, alike=ALIKE, lora=lora)
        for index, lora in enumerate(loras)
    ]
    scenes = [scene for part in parts for scene in part.scenes]
    useful = [i for i, one in enumerate(scenes) if one.measured is not None and one.colours and all(one.colours)]
    return Data([scenes[i] for i in useful], np.concatenate([part.images for part in parts])[useful])


def as_hex(lab: np.ndarray | None) -> str:
    """A colour in CIELAB as `#rrggbb`; empty for None."""
    from skimage.color import lab2rgb

    return "" if lab is None else hex_color(lab2rgb(lab).clip(0, 1).tolist())


def to_uint8(x: torch.Tensor) -> np.ndarray:
    """Images [B, 3, H, W] in [-1, 1] as [B, H, W, 3] of uint8."""
    return (x.clamp(-1, 1).permute(0, 2, 3, 1) * 127.5 + 127.5).round().to(torch.uint8).numpy()


class Student:
    """A judge in training: the loss of images and questions, computed with the model's own classes."""

    def __init__(self, model: Any, processor: Any) -> None:
        self.model, self.processor, self.tok = model, processor, processor.tokenizer
        self.answers = torch.tensor(self.tok.convert_tokens_to_ids(["yes", "no"]))
        self.encode = lru_cache(maxsize=None)(self._encode)
        self.many_images = isinstance(model, Idefics3ForConditionalGeneration)

    def _encode(self, text: str) -> list[int]:
        blank = np.zeros((SIZE, SIZE, 3), np.uint8)
        content = [{"type": "image"}, {"type": "text", "text": text}]
        prompt = self.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        ids = self.processor(text=[prompt], images=[blank], return_tensors="pt").input_ids[0]
        assert self.tok.unk_token_id not in ids, f"unknown word in {text!r}"
        return list(ids.tolist())

    def log_probabilities(self, images: torch.Tensor, asked: list[Asked]) -> torch.Tensor:
        """[B, V]: log-probabilities of the first word of the answer, for images [B, 3, H, W] in [0, 1]."""
        rows = [self.encode(a.text) for a in asked]
        longest = max(map(len, rows))
        ids = self.ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows])
        pixels = (overlay(images, asked) - 0.5) / 0.5
        logits = self.model(
            input_ids=ids, attention_mask=(ids != 0).long(),
            pixel_values=pixels[:, None] if self.many_images else pixels, logits_to_keep=1, use_cache=False,
        ).logits[:, -1]  # fmt: skip
        return logits.float().log_softmax(-1)

    def loss(self, log_p: torch.Tensor, asked: list[Asked]) -> torch.Tensor:
        """Cross-entropy to a soft target: the probability of Yes, or the correct names, equally likely."""
        target = torch.zeros_like(log_p)
        for row, a in enumerate(asked):
            if a.names:
                target[row, self.tok.convert_tokens_to_ids(list(a.names))] = 1 / len(a.names)
            else:
                yes = float(1 / (1 + np.exp(-a.log_odds)))
                target[row, self.answers] = torch.tensor([yes, 1 - yes])
        return -(target * log_p).sum(1).mean()

    def correct(self, log_p: torch.Tensor, asked: list[Asked]) -> list[bool]:
        """Whether each answer is correct; Yes-or-No questions with correct log-odds within +-0.5 are left out."""
        out = []
        for p, a in zip(log_p, asked, strict=True):
            if a.names:
                out.append(int(p.argmax()) in self.tok.convert_tokens_to_ids(list(a.names)))
            elif abs(a.log_odds) > 0.5:
                out.append(bool(p[self.answers[0]] > p[self.answers[1]]) == (a.log_odds > 0))
        return out


def accuracy(student: Student, data: Data, names: list[str], *, count: int = 600, seed: int = 9) -> dict[str, float]:
    """Share of correct answers per question (see `Student.correct`), on at most `count` scenes."""
    result = {}
    for kind in QUESTIONS:
        rng = np.random.default_rng(seed)
        correct: list[bool] = []
        suitable = [i for i, one in enumerate(data.scenes) if len(one.subjects) == 2 or kind not in OF_PAIRS][:count]
        for start in range(0, len(suitable), 50):
            part = suitable[start : start + 50]
            asked = [ask(kind, data.scenes[i], rng, names) for i in part]
            with torch.no_grad():
                log_p = student.log_probabilities(to_tensor(data.images[part]) / 2 + 0.5, asked)
            correct += student.correct(log_p, asked)
        result[kind] = round(float(np.mean(correct)), 4)
    return result


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=["judge", "referee"])
    parser.add_argument("vae", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--generator", type=Path, help="also train on images of this generator")
    parser.add_argument("--fits", type=Path, nargs="*", default=[], help="also train on images with these LoRAs")
    parser.add_argument("--start", type=Path, help="continue from these weights instead of new ones")
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    seed, names = (11, KNOWN) if args.name == "judge" else (12, NAMES)
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model, processor = build(args.name)
    if args.start:
        model = grown(args.start, model, processor.tokenizer)
    rendered = load(args.name, 30_000, seed=seed, pairs=0.35, names=names, wide=0.6)
    vae = AutoencoderKL.from_pretrained(args.vae)
    sources = [Source(rendered), Source(recoded(vae, rendered, 6_000))]
    shares = [0.7, 0.3]
    if args.generator:
        sources.append(Source(generated(args.generator, 6_000, names=names, seed=seed, alike=ALIKE)))
        shares = [0.35, 0.15, 0.5]
    if args.fits:
        sources.append(Source(of_fits(args.generator, args.fits, names=names, seed=seed + 100), OF_FITS))
        shares = [0.2, 0.1, 0.3, 0.4]
    tokens = model.model.connector if args.name == "referee" else model.model.multi_modal_projector
    text = model.model.text_model if args.name == "referee" else model.model.language_model
    probe = Probe(tokens, text.layers[1], (SIZE // PATCH) ** 2 // (1 if args.name == "judge" else 4), DIM)
    student = Student(model, processor)
    more = MORE_OF.get(args.name, {})
    frequencies = np.array([share * more.get(kind, 1) for kind, (_, share) in QUESTIONS.items()])
    frequencies /= frequencies.sum()
    optimiser = torch.optim.AdamW(
        [*model.parameters(), *probe.parameters()], lr=args.lr, weight_decay=0.02, betas=(0.9, 0.98)
    )
    started, step, seen = time.time(), 0, []
    while (share := (time.time() - started) / (60 * args.minutes)) < 1:
        for group in optimiser.param_groups:
            group["lr"] = args.lr * min(1, (step + 1) / 100) * (1 if share < 0.5 else 2 * (1 - share))
        kinds = rng.choice(list(QUESTIONS), size=args.batch, p=frequencies)
        which = rng.choice(len(sources), size=args.batch, p=shares)
        which = [i if sources[i].knows(kind) else i - 1 for i, kind in zip(which, kinds, strict=True)]
        drawn = [sources[i].draw(kind, rng) for i, kind in zip(which, kinds, strict=True)]
        scenes, rendered = [scene for scene, _ in drawn], [image for _, image in drawn]
        asked = [ask(kind, scene, rng, names) for kind, scene in zip(kinds, scenes, strict=True)]
        images = augment(to_tensor(np.stack(rendered)) / 2 + 0.5)
        with autocast(), sdpa_kernel(SDPBackend.MATH):
            log_p = student.log_probabilities(images, asked)
        truth = torch.tensor([known(s, a) for s, a in zip(scenes, asked, strict=True)], dtype=torch.float32)
        answer, aside = student.loss(log_p, asked), probe.loss(scenes, truth)
        match = probe.words_loss(student, truth, asked)
        optimiser.zero_grad()
        (answer + (0.5 if share < 0.7 else 0.1) * (aside + match)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        seen.append((answer.item(), aside.item(), match.item()))
        if step % 100 == 0:
            means = np.mean(seen[-100:], axis=0)
            report = "  ".join(f"{n} {m:.4f}" for n, m in zip(("answer", "probe", "match"), means, strict=True))
            print(f"{time.time() - started:6.0f} s  step {step:5d}  {report}", flush=True)
        step += 1
    model.eval()
    new = load("judge-test", 1_500, seed=21, pairs=0.3, names=names, wide=0.0)
    print(f"{step} steps; on new renders: {accuracy(student, new, names)}", flush=True)
    if args.generator:
        print(f"on generated images: {accuracy(student, generated(args.generator, 600, names=names, seed=22), names)}")
    model.half().save_pretrained(args.out)
    processor.save_pretrained(args.out)


if __name__ == "__main__":
    main()
