"""Train the VAE: `python -m tools.tiny_world.vae OUT --minutes 6`."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from .data import doubles, held_out, singles


def autocast() -> torch.autocast:
    """bfloat16 on CPUs that support it; elsewhere it is emulated, and eighty times slower than float32."""
    return torch.autocast("cpu", torch.bfloat16, enabled=torch.cpu._is_avx512_bf16_supported())


def build() -> AutoencoderKL:
    """The VAE with new weights; it reduces images by a factor of 4, to 8 channels."""
    return AutoencoderKL(
        block_out_channels=(32, 32, 64),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=8,
        norm_num_groups=16,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
        sample_size=64,
    )


def edges(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Differences between neighbouring rows and between neighbouring columns of [..., H, W]."""
    return x[..., 1:, :] - x[..., :-1, :], x[..., :, 1:] - x[..., :, :-1]


def image_loss(made: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean absolute error of pixels and of their differences; the latter prevents thin lines from fading."""
    loss = (made - target).abs().mean()
    for a, b in zip(edges(made), edges(target), strict=True):
        loss = loss + (a - b).abs().mean()
    return loss


def to_tensor(images: np.ndarray) -> torch.Tensor:
    """Images [B, H, W, 3] of uint8 as float [B, 3, H, W] in [-1, 1]."""
    return torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).float() / 127.5 - 1


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=6)
    parser.add_argument("--batch", type=int, default=16)
    args = parser.parse_args()
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    vae = build().to(memory_format=torch.channels_last)
    images = [singles().images, doubles().images]
    optimiser = torch.optim.AdamW(vae.parameters(), lr=2e-3, weight_decay=1e-4, betas=(0.9, 0.98))
    started, step = time.time(), 0
    while (share := (time.time() - started) / (60 * args.minutes)) < 1:
        for group in optimiser.param_groups:  # warm-up, then a cosine to zero over the training time
            group["lr"] = 2e-3 * min(1, (step + 1) / 100) * 0.5 * (1 + np.cos(np.pi * share))
        source = images[step % 3 == 0]
        x = to_tensor(source[np.sort(rng.integers(0, len(source), args.batch))]).to(memory_format=torch.channels_last)
        with autocast():
            posterior = vae.encode(x).latent_dist
            made = vae.decode(posterior.sample()).sample
        loss = image_loss(made.float(), x) + 2e-4 * posterior.kl().mean() / posterior.mean[0].numel()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimiser.step()
        if step % 100 == 0:
            print(f"{time.time() - started:6.0f} s  step {step:5d}  loss {loss.item():.4f}", flush=True)
        step += 1
    with torch.no_grad():
        x = to_tensor(held_out().images[:512])
        latents = torch.cat([vae.encode(part).latent_dist.mean for part in x.split(64)])
        made = torch.cat([vae.decode(part).sample for part in latents.split(64)]).clamp(-1, 1)
        psnr = -10 * torch.log10(F.mse_loss(made, x, reduction="none").mean((1, 2, 3)) / 4)
    print(f"{step} steps; held-out PSNR {psnr.mean():.2f} dB; latent mean {latents.mean():.3f} std {latents.std():.3f}")
    vae.register_to_config(scaling_factor=1 / latents.std().item(), shift_factor=latents.mean().item())
    vae.to(memory_format=torch.contiguous_format).save_pretrained(args.out)


if __name__ == "__main__":
    main()
