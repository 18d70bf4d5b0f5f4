"""Train the generator, a small FluxPipeline: `python -m tools.tiny_world.generator VAE OUT --minutes 60`.

*Coupled noise* makes it sharp in one sampling step. The mean over tokens of packed noise channel k is set so that
Phi(8 * mean_k) = u_k, the scene's k-th code. Over 64 tokens, the noise stays exactly N(0, I). Noise -> scene is then a
function, so velocity regression has no conditional mean that would blur the images.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import random
import time
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast, T5Config, T5EncoderModel

from .data import SIZE, doubles, held_out, singles
from .scenes import CODES, NAMES, PHRASES, Scene
from .vae import autocast, image_loss, to_tensor

TOKENS = (SIZE // 8) ** 2  # the VAE reduces by 4; a token is 2 x 2 latents
TEXT_LENGTH = 14
OPENINGS = ("a cartoon of", "a drawing of", "an image of", "cartoon of", "")


def words() -> list[str]:
    """The vocabulary: every word of the captions, and a few more."""
    text = " ".join(
        [*OPENINGS, *NAMES, *PHRASES, "a an the and with of in on at under by simple line photo image style"]
    )
    return sorted(set(text.split()))


def tokenizer(vocabulary: list[str], **special: str) -> PreTrainedTokenizerFast:
    """A word-level tokenizer that ends every text with `</s>`."""
    vocab = {token: index for index, token in enumerate(["<pad>", "</s>", "<unk>", *vocabulary])}
    inner = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    inner.normalizer = normalizers.Lowercase()
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=TEXT_LENGTH,
        **special,
    )


def build(vae: AutoencoderKL) -> FluxPipeline:
    """The pipeline of a trained VAE and newly initialised other weights."""
    tok = tokenizer(words())
    ids: dict[str, Any] = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}
    clip = CLIPTextConfig(
        vocab_size=len(tok), hidden_size=64, intermediate_size=128, num_hidden_layers=1, num_attention_heads=4,
        max_position_embeddings=TEXT_LENGTH, projection_dim=64, **ids,
    )  # fmt: skip
    t5 = T5Config(
        vocab_size=len(tok), d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4, dropout_rate=0.0, **ids
    )
    transformer = FluxTransformer2DModel(
        patch_size=1, in_channels=32, num_layers=1, num_single_layers=4, attention_head_dim=32, num_attention_heads=8,
        joint_attention_dim=64, pooled_projection_dim=64, guidance_embeds=False, axes_dims_rope=(8, 12, 12),
    )  # fmt: skip
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0, use_dynamic_shifting=False),
        vae=vae, text_encoder=CLIPTextModel(clip), tokenizer=tok, text_encoder_2=T5EncoderModel(t5),
        tokenizer_2=tokenizer(words()), transformer=transformer,
    )  # fmt: skip


def coupled_noise(codes: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Packed noise [B, T, C], shifted so that the token means of its first K channels encode `codes` [B, K]."""
    normal = torch.special.ndtri(codes.double().clamp(1e-4, 1 - 1e-4)).float() / math.sqrt(noise.shape[1])
    k = codes.shape[1]
    coupled = noise[..., :k] - noise[..., :k].mean(1, keepdim=True) + normal[:, None]
    return torch.cat([coupled, noise[..., k:]], dim=-1)


def codes_of(noise: torch.Tensor) -> torch.Tensor:
    """The codes [B, K] that packed noise [B, T, C] encodes: what the generator was trained to draw from it."""
    return torch.special.ndtr(noise[..., : len(CODES)].mean(1) * math.sqrt(noise.shape[1]))


def pack(latents: torch.Tensor) -> torch.Tensor:
    """Latents [B, C, H, W] as the tokens of the transformer, [B, H/2 * W/2, 4 C]."""
    b, c, h, w = latents.shape
    return FluxPipeline._pack_latents(latents, b, c, h, w)


def caption_for(scene: Scene, rng: random.Random) -> str:
    """The scene's caption in one of several wordings; one in ten has an unknown word."""
    text = scene.caption.replace("a cartoon of", rng.choice(OPENINGS)).strip()
    parts = text.split()
    if rng.random() < 0.1:
        parts.insert(rng.randrange(len(parts) + 1), "<unk>")
    return " ".join(parts)


class Predictor(torch.nn.Module):
    """The trained part of the pipeline: text encoders and transformer, from text ids and noised tokens to velocity."""

    def __init__(self, pipe: FluxPipeline) -> None:
        super().__init__()
        self.clip, self.t5, self.transformer = pipe.text_encoder, pipe.text_encoder_2, pipe.transformer
        self.run = partial(self.transformer)
        self.register_buffer(
            "image_ids", FluxPipeline._prepare_latent_image_ids(1, SIZE // 8, SIZE // 8, "cpu", torch.float32)
        )

    def forward(self, x: torch.Tensor, t: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        pooled = self.clip(ids).pooler_output
        text = self.t5(ids)[0]
        out: torch.Tensor = self.run(
            hidden_states=x, timestep=t, pooled_projections=pooled, encoder_hidden_states=text,
            txt_ids=torch.zeros(ids.shape[1], 3), img_ids=self.image_ids, return_dict=False,
        )[0]  # fmt: skip
        return out


def tokenize(pipe: FluxPipeline, texts: list[str]) -> torch.Tensor:
    """[B, TEXT_LENGTH] token ids, as in the pipeline."""
    out = pipe.tokenizer(texts, padding="max_length", max_length=TEXT_LENGTH, truncation=True, return_tensors="pt")
    ids: torch.Tensor = out.input_ids
    return ids


def encode_all(vae: AutoencoderKL, images: np.ndarray) -> torch.Tensor:
    """Packed, normalised latents [N, T, C] in half precision."""
    out = []
    vae.to(memory_format=torch.channels_last)
    with torch.no_grad(), autocast():
        for start in range(0, len(images), 100):
            x = to_tensor(images[start : start + 100]).contiguous(memory_format=torch.channels_last)
            latents = vae.encode(x).latent_dist.mean
            out.append(pack((latents.float() - vae.config.shift_factor) * vae.config.scaling_factor).half())
    return torch.cat(out)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("vae", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument(
        "--pairs-from", type=float, default=0.4, help="share of the time after which scenes with two subjects are added"
    )
    parser.add_argument(
        "--pixels-from", type=float, default=0.75, help="share of the time after which the loss includes pixels"
    )
    parser.add_argument("--start", type=Path, help="continue from this pipeline instead of new weights")
    parser.add_argument("--compile", action="store_true", help="compile the transformer for the training steps")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    rng, text_rng = np.random.default_rng(0), random.Random(0)
    vae = AutoencoderKL.from_pretrained(args.vae).requires_grad_(False).to(memory_format=torch.channels_last)
    pipe = build(vae)
    if args.start:
        pipe = FluxPipeline.from_pretrained(args.start, vae=vae, dtype=torch.float32)
    model = Predictor(pipe)
    average = {name: value.detach().clone() for name, value in model.named_parameters()}
    coder = (args.vae / "diffusion_pytorch_model.safetensors").read_bytes()
    kept = args.out.parent / f"latents-{hashlib.sha256(coder).hexdigest()[:12]}.pt"
    if not kept.exists():
        torch.save([encode_all(vae, data.images) for data in (singles(), doubles())], kept)
    latents = torch.load(kept, weights_only=True)
    if args.compile:  # saves a third of the time; only in training, where shapes are constant
        model.run = partial(torch.compile(pipe.transformer, dynamic=False))
    sources = [(data, lat, torch.from_numpy(np.stack([s.codes for s in data.scenes])))
               for data, lat in zip((singles(), doubles()), latents, strict=True)]  # fmt: skip
    groups = [
        {"params": list(model.parameters()), "share": 1.0},
        {"params": list(vae.decoder.parameters()), "share": 0.3},
    ]
    optimiser = torch.optim.AdamW(groups, lr=args.lr, weight_decay=0.01, betas=(0.9, 0.98), fused=True)

    @cache
    def encode(text: str) -> torch.Tensor:
        return tokenize(pipe, [text])[0]

    started, step, losses = time.time(), 0, []
    next_save = 0.25
    while (share := (time.time() - started) / (60 * args.minutes)) < 1:
        lr = args.lr * min(1, (step + 1) / 300) * (1 if share < 0.6 else 1 - (share - 0.6) / 0.4)
        for group in optimiser.param_groups:
            group["lr"] = lr * group["share"]
        data, lat, codes = sources[1 if share > args.pairs_from and step % 2 else 0]
        index = torch.from_numpy(np.sort(rng.integers(0, len(lat), args.batch)))
        x0, u = lat[index].float(), codes[index]
        noise = coupled_noise(u, torch.randn(x0.shape))
        t = torch.where(torch.rand(args.batch) < 0.7, torch.ones(args.batch), torch.rand(args.batch))
        x = (1 - t[:, None, None]) * x0 + t[:, None, None] * noise
        texts = [caption_for(data.scenes[i], text_rng) for i in index.tolist()]
        ids = torch.stack([encode(text) for text in texts])
        with autocast(), sdpa_kernel(SDPBackend.MATH):  # its backward pass is faster than flash attention on CPUs
            v = model(x, t, ids).float()
        made = x - t[:, None, None] * v
        loss = (v - (noise - x0)).square().mean()
        losses.append(loss.item())
        # In every second step with one subject, and in every second one with two.
        if share > args.pixels_from and step % 2 == (step // 2) % 2:
            few = slice(0, 12)
            vae.decoder.requires_grad_(True)  # it learns to draw sharp lines from slightly wrong latents
            z = (
                FluxPipeline._unpack_latents(made[few], SIZE, SIZE, 4) / vae.config.scaling_factor
                + vae.config.shift_factor
            )
            with autocast():
                decoded = vae.decode(z).sample.float()
            loss = loss + image_loss(decoded, to_tensor(data.images[index[few].numpy()]))
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if step % 10 == 0:
            decay = min(0.99, (step + 1) / (step + 100))
            torch._foreach_lerp_(list(average.values()), [p.detach() for p in model.parameters()], 1 - decay)
        if step % 100 == 0:
            print(
                f"{time.time() - started:6.0f} s  step {step:5d}  loss {np.mean(losses[-100:]):.4f}  lr {lr:.1e}",
                flush=True,
            )
        step += 1
        if share >= next_save:
            save(pipe, model, average, args.out.with_name(f"{args.out.name}-{next_save:.2f}"))
            next_save += 0.125
    print(f"{step} steps", flush=True)
    save(pipe, model, average, args.out)
    FluxPipeline.from_pretrained(args.out, dtype=torch.float16).save_pretrained(args.out)  # half the file size


def save(pipe: FluxPipeline, model: Predictor, average: dict[str, torch.Tensor], out: Path) -> None:
    """Save the averaged weights, and print the PSNR of one-step images to held-out scenes."""
    current = {name: value.detach().clone() for name, value in model.named_parameters()}
    model.load_state_dict(average, strict=False)
    model.eval()
    data = held_out()
    scenes = data.scenes[:400]
    ids = tokenize(pipe, [scene.caption for scene in scenes])
    compiled, model.run = model.run, partial(model.transformer)
    noise = coupled_noise(
        torch.from_numpy(np.stack([s.codes for s in scenes])),
        torch.randn(len(scenes), TOKENS, 32, generator=torch.Generator().manual_seed(5)),
    )
    with torch.no_grad():
        z = noise - model(noise, torch.ones(len(scenes)), ids)
        z = (
            FluxPipeline._unpack_latents(z, SIZE, SIZE, 4) / pipe.vae.config.scaling_factor
            + pipe.vae.config.shift_factor
        )
        made = torch.cat([pipe.vae.decode(part).sample for part in z.split(50)]).clamp(-1, 1)
    psnr = -10 * torch.log10((made - to_tensor(data.images[:400])).square().mean((1, 2, 3)) / 4)
    two = torch.tensor([len(s.subjects) == 2 for s in scenes])
    print(
        f"-> {out.name}: PSNR to the true scene: one subject {psnr[~two].mean():.2f} dB, two {psnr[two].mean():.2f} dB",
        flush=True,
    )
    pipe.save_pretrained(out)
    model.load_state_dict(current, strict=False)
    model.run = compiled
    model.train()


if __name__ == "__main__":
    main()
