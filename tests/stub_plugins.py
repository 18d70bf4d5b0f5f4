"""Plugins that compute in a millisecond, for tests of the training loop and the evaluation rather than of models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel
from safetensors.torch import save_file

from dualproc import resolve
from dualproc.kit.adapters import lora_off
from dualproc.spec import PluginRef
from dualproc.types import Answers, Question, Recipe, Sample

SIDE = 16


class StubGenerator:
    """Images of 16 x 16 pixels: a linear layer maps the noise of a seed to latents, a sigmoid maps these to pixels."""

    api_version = 1
    Params = BaseModel
    lora_targets = ("0",)

    def __init__(self) -> None:
        layer = torch.nn.Linear(3, 3)
        with torch.no_grad():
            layer.weight.copy_(torch.eye(3) + 0.1)
            layer.bias.fill_(-0.5)
        self.adapter_module = torch.nn.Sequential(layer).requires_grad_(False)

    def prepare(self, prompts: Sequence[str]) -> None:
        """Nothing to encode: the images depend on the seeds alone."""

    def sample(self, prompts: Sequence[str], seeds: Sequence[int], *, grad: bool = False, base: bool = False) -> Sample:
        noise = torch.stack([torch.randn(3, SIDE, SIDE, generator=torch.Generator().manual_seed(n)) for n in seeds])
        with torch.set_grad_enabled(grad):
            latents = self._layer(noise, base)
            return Sample(latents.sigmoid(), latents)

    def denoise(
        self,
        latents: torch.Tensor,
        noise_level: float,
        prompts: Sequence[str],
        seeds: Sequence[int],
        *,
        base: bool = True,
    ) -> torch.Tensor:
        with torch.no_grad():
            return torch.lerp(latents, self._layer(latents, base), noise_level)

    def save_lora(self, folder: Path, layers: Mapping[str, torch.Tensor]) -> None:
        save_file(
            {f"stub.{name}": value for name, value in layers.items()}, folder / "pytorch_lora_weights.safetensors"
        )

    def recipe(self) -> Recipe:
        return Recipe("stub", "float32", library="stub")

    def pipeline(self) -> Any:
        return None

    def _layer(self, tensor: torch.Tensor, base: bool) -> torch.Tensor:
        with lora_off(self.adapter_module, base):
            out: torch.Tensor = self.adapter_module(tensor.movedim(1, -1)).movedim(-1, 1)
            return out


class BrightnessJudge:
    """P(first candidate) is the mean of an image's pixels, for any question; P(second candidate) is the rest."""

    api_version = 1
    Params = BaseModel

    def answer_log_likelihoods(self, images: torch.Tensor, questions: Sequence[Sequence[Question]]) -> Answers:
        first = images.mean((1, 2, 3)).clamp(0.01, 0.99)
        scores = torch.stack([first, 1 - first], 1).log()[:, None].expand(-1, len(questions[0]), -1)
        return Answers(scores, torch.ones(len(questions[0]), 2, dtype=torch.long))

    def generate(self, images: torch.Tensor, questions: Sequence[str], *, max_new_tokens: int = 32) -> list[str]:
        return ["Yes"] * len(questions)


def stubs(**others: Any) -> Callable[[str, PluginRef], Any]:
    """A builder for `Engine(spec, build=...)`: stub models; other plugins as installed, or as given by kind."""
    given = {"generators": StubGenerator(), "judges": BrightnessJudge(), **others}
    return lambda kind, ref: given[kind] if kind in given else resolve.build(kind, ref)
