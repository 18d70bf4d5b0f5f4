"""One plugin of every kind, so small that a training step takes milliseconds; they can fail on demand.

The environment variable SMALL_FAULT, `KIND CALL MESSAGE`, makes a plugin fail: from its CALL-th call on (counted from 1
in each process), the plugin of this kind raises ValueError(MESSAGE). With the message `nan`, it returns nan instead;
with `print`, it prints; with `exit`, it ends the process; with `mute`, it raises an exception without a text; with
`shape`, it returns a tensor of a wrong shape.
"""

from __future__ import annotations

import os
import sys
import zlib
from collections import Counter

import torch
from pydantic import BaseModel
from safetensors.torch import save_file

from dualproc.kit.adapters import lora_off
from dualproc.protocols import Preset
from dualproc.types import Answers, Recipe, Sample

SIDE = 8
calls = Counter()


def fault(kind):
    """1.0, or the failure that SMALL_FAULT requests: nan, or an exception."""
    failing, call, message = os.environ.get("SMALL_FAULT", "none 0 -").split(" ", 2)
    calls[kind] += 1
    if failing != kind or calls[kind] < int(call):
        return 1.0
    if message == "print":
        print("noise", flush=True)
        os.system("echo noise")
        return 1.0
    if message == "exit":
        sys.exit(0)
    if message == "mute":
        raise Mute
    if message == "shape":
        return torch.ones(1, 1, 1, 1, 1)
    if message != "nan":
        raise ValueError(message)
    return float("nan")


class Mute(BaseException):
    """Has no text."""

    def __str__(self):
        raise RuntimeError


class Small:
    """Base of all plugins here."""

    api_version = 1

    class Params(BaseModel, extra="forbid"):
        pass

    def __init__(self, params):
        self.params = params


class SmallGenerator(Small):
    """Makes images of 8 x 8 pixels with one linear layer."""

    lora_targets = ("0",)

    def __init__(self, params):
        self.adapter_module = torch.nn.Sequential(torch.nn.Linear(4, 3 * SIDE * SIDE))
        with torch.random.fork_rng():
            torch.manual_seed(0)
            torch.nn.init.normal_(self.adapter_module[0].weight)
            torch.nn.init.zeros_(self.adapter_module[0].bias)
        self.adapter_module.requires_grad_(False)

    def prepare(self, prompts):
        pass

    def sample(self, prompts, seeds, *, grad=False, base=False):
        noise = [zlib.crc32(f"{prompt} {seed}".encode()) for prompt, seed in zip(prompts, seeds, strict=True)]
        given = torch.stack([torch.randn(4, generator=torch.Generator().manual_seed(one)) for one in noise])
        with torch.set_grad_enabled(grad):
            latents, factor = self._run(given, base), fault("generator")
            return Sample(latents.sigmoid().unflatten(1, (3, SIDE, SIDE)) * factor, latents * factor)

    def denoise(self, latents, noise_level, prompts, seeds, *, base=True):
        with torch.no_grad():
            return (1 - noise_level) * latents + noise_level * self._run(latents[:, :4], base)

    def save_lora(self, folder, layers):
        fault("save_lora")
        save_file(
            {f"part.{name}": value for name, value in layers.items()}, folder / "pytorch_lora_weights.safetensors"
        )

    def recipe(self):
        return Recipe(model="small", dtype="float32", library="acme-small")

    def pipeline(self):
        return self

    def _run(self, given, base):
        with lora_off(self.adapter_module, base):
            return self.adapter_module(given)


class SmallJudge(Small):
    """Answers Yes to red images, or to images of another colour channel."""

    class Params(BaseModel, extra="forbid"):
        channel: int = 0
        counts_as: str = "judge"

    def answer_log_likelihoods(self, images, questions):
        red = 8 * (images[:, self.params.channel].mean((1, 2)) - 0.5)
        answers = torch.stack([torch.nn.functional.logsigmoid(red), torch.nn.functional.logsigmoid(-red)], -1)
        asked = answers[:, None].expand(-1, len(questions[0]), -1) * fault(self.params.counts_as)
        return Answers(asked, torch.ones(len(questions[0]), 2))

    def generate(self, images, questions, *, max_new_tokens=32):
        return ["Yes"] * len(questions)


REFEREE = Preset("small", "Uses another colour channel.", {"channel": 1, "counts_as": "referee"})


class SmallReward(Small):
    """The log-likelihood of Yes."""

    def __call__(self, answers, wanted):
        return answers.log_likelihoods[:, :, 0].mean(1) * fault("reward")


class SmallLayer(Small):
    """Draws a dot."""

    def draw(self, canvas):
        fault("visual_prompt")
        canvas.putpixel((0, 0), (255, 0, 0, 255))


class SmallAnchor(Small):
    """Mean squared distance between the latents and what the base denoises them to."""

    def penalty(self, sample, generator, prompts, seeds, rng):
        level = 0.1 + 0.5 * torch.rand(1, generator=rng).item() * fault("anchor")
        again = generator.denoise(sample.latents.detach(), level, prompts, seeds, base=True)
        return (sample.latents - again).square().mean(1)


class SmallScorer(Small):
    """Measures how red an image is."""

    unit = "share of red"
    better = "higher"

    def score(self, images, context):
        return images[:, 0].mean((1, 2)) * fault("scorer")


fault("import")
