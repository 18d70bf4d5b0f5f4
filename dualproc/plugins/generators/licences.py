"""The licences of models that the presets load, as their model cards on the hub name them."""

from __future__ import annotations

from collections.abc import Mapping

from .presets import WEIGHTS

LICENCES: Mapping[str, str] = {
    str(WEIGHTS / "generator"): "cc-by-sa-4.0",
    "black-forest-labs/FLUX.1-schnell": "apache-2.0",
    "black-forest-labs/FLUX.1-dev": "flux-1-dev-non-commercial-license",
    "black-forest-labs/FLUX.2-klein-4B": "apache-2.0",
    "stable-diffusion-v1-5/stable-diffusion-v1-5": "creativeml-openrail-m",
    "stabilityai/stable-diffusion-xl-base-1.0": "openrail++",
    "stabilityai/sdxl-turbo": "sai-nc-community",
    "stabilityai/stable-diffusion-3.5-medium": "stabilityai-ai-community",
    "PixArt-alpha/PixArt-Sigma-XL-2-1024-MS": "openrail++",
    "Alpha-VLLM/Lumina-Image-2.0": "apache-2.0",
    "Tongyi-MAI/Z-Image-Turbo": "apache-2.0",
    "Qwen/Qwen-Image": "apache-2.0",
}
"""By hub id or folder. A model that is not listed has a licence that is not known here."""
