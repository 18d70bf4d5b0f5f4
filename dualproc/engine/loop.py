"""The engine: one loop that distils a judge's answers into a LoRA, for any spec."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from dualproc import resolve
from dualproc.errors import DualprocError
from dualproc.protocols import Anchor, Generator, Reward
from dualproc.spec import TaskSpec
from dualproc.types import Prompt, Question, StepRecord

from . import lora
from .instruments import Instruments

if TYPE_CHECKING:
    from os import PathLike

    from torch import Tensor

    from .fit import FitResult, Progress

SEEDS = 2**31
"""Training seeds are drawn below this; held-out seeds lie above, see `evaluate`."""


class NotANumberError(DualprocError):
    """Loss or gradient was not finite in several steps in a row. They left the LoRA as it was before them."""


class Engine:
    """The live plugins of one spec, and the step that teaches.

    Building an engine checks the whole spec and loads its models. Everything random in a step follows from the spec's
    seed and the step's number, so that a run continued from a checkpoint repeats what an unbroken one would have done.
    """

    def __init__(self, spec: TaskSpec) -> None:
        """Raises SpecError if the spec or a plugin's parameters are wrong, PluginError if a plugin fails to load."""
        import torch

        resolve.check_plugins(spec)
        self.spec = spec
        self.generator: Generator = resolve.build("generators", spec.generator)
        self.prompts = spec.prompts.train_prompts()
        # Before the judges are loaded: the text encoders are then given up, and both need not be there together.
        self.generator.prepare([prompt.text for prompt in self.prompts + spec.prompts.eval_prompts()])
        self.instruments = Instruments(spec)
        self.judge = self.instruments.judge
        self.reward: Reward = resolve.build("rewards", spec.reward)
        self.anchors: list[tuple[float, Anchor]] = [
            (ref.weight, resolve.build("anchors", ref)) for ref in spec.anchors if ref.weight > 0
        ]
        train = spec.train
        self.weights = lora.attach(
            self.generator.adapter_module, train.lora, self.generator.lora_targets, seed=train.seed
        )
        self.optimiser = torch.optim.AdamW(self.weights, lr=train.lr, weight_decay=train.weight_decay)
        self.wanted = [question.candidates.index(question.answer) for question in spec.questions]
        self.done = 0
        """Steps done so far."""
        self.skipped = 0
        """Steps skipped in a row, up to the last one."""

    def step(self) -> StepRecord:
        """Teach once: pictures, the judge's answers, their gradient through the pictures into the LoRA."""
        import torch

        started, train = time.perf_counter(), self.spec.train
        rng = random.Random(f"{train.seed}/{self.done}")
        prompts = rng.choices(self.prompts, k=train.batch)
        seeds = [rng.randrange(SEEDS) for _ in prompts]
        texts = [prompt.text for prompt in prompts]

        sample = self.generator.sample(texts, seeds, grad=True)
        answers = self.judge.answer_log_likelihoods(self.overlaid(sample.images, rng), self.questions(prompts))
        reward = self.reward(answers, self.wanted)
        _require_gradient(pictures=sample.images, answers=answers.log_likelihoods, reward=reward)
        penalty = torch.zeros_like(reward)
        for weight, anchor in self.anchors:
            noise = torch.Generator().manual_seed(rng.randrange(SEEDS))
            penalty = penalty + weight * anchor.penalty(sample, self.generator, texts, seeds, noise)
        loss = penalty.mean() - reward.mean()

        self.optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        norm = torch.nn.utils.clip_grad_norm_(self.weights, train.clip).item()
        finite = math.isfinite(loss.item()) and math.isfinite(norm)
        if finite:
            self.optimiser.step()
        self.done += 1
        return StepRecord(
            step=self.done,
            loss=loss.item(),
            reward=reward.mean().item(),
            p_answer=wanted_probability(answers.log_likelihoods, self.wanted).mean().item(),
            anchor=penalty.mean().item(),
            grad_norm=norm,
            seconds=time.perf_counter() - started,
            skipped=not finite,
        )

    def steps(self) -> Iterator[StepRecord]:
        """The remaining steps of the spec; raises NotANumberError after `train.max_skipped` skipped ones in a row."""
        while True:
            if self.done < self.spec.train.steps:
                record = self.step()
                self.skipped = self.skipped + 1 if record.skipped else 0
                yield record
            if self.skipped >= self.spec.train.max_skipped:  # also when a run that ended so is resumed
                raise NotANumberError(
                    f"loss or gradient was not a number in {self.skipped} steps in a row, up to step {self.done}",
                    hint="lower train.lr or train.lora.strength, or use float32 for generator and judge",
                )
            if self.done == self.spec.train.steps:
                return

    def fit(
        self,
        out: str | PathLike[str] | None = None,
        *,
        resume: bool = False,
        overwrite: bool = False,
        progress: Progress | None = None,
    ) -> FitResult:
        """Run all steps, measure the result on held-out prompts and seeds, and leave a run folder behind.

        `out` is the run folder, `runs/<name>` or `runs/<name>/<variant>` by default. See `engine.fit.fit`.
        """
        from .fit import fit

        return fit(self, out, resume=resume, overwrite=overwrite, progress=progress)

    def overlaid(self, images: Tensor, rng: random.Random | None = None) -> Tensor:
        """Images [B, 3, H, W] as the judge sees them; with `rng`, the visual prompt is shifted by the spec's jitter."""
        return self.instruments.overlaid(images, rng)

    def questions(self, prompts: list[Prompt]) -> list[list[Question]]:
        """The spec's questions about the picture of each prompt: B lists of Q."""
        return [[question.for_prompt(prompt) for question in self.spec.questions] for prompt in prompts]

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that a checkpoint needs: tensors (LoRA, optimiser), and how many steps are done and skipped."""
        tensors = {f"lora/{name}": value for name, value in lora.state(self.generator.adapter_module).items()}
        for index, kept in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser/{index}/{key}": value for key, value in kept.items()}
        return tensors, {"done": self.done, "skipped": self.skipped}

    def restore(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""
        parts: dict[str, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            kind, _, rest = name.partition("/")
            parts.setdefault(kind, {})[rest] = value
        lora.restore(self.generator.adapter_module, parts["lora"])
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in parts.get("optimiser", {}).items():
            index, _, key = name.partition("/")
            moments.setdefault(int(index), {})[key] = value
        self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": moments})
        self.done, self.skipped = int(state["done"]), int(state.get("skipped", 0))


def _require_gradient(**parts: Tensor) -> None:
    """Raises DualprocError at the first part without one: the anchors' gradient would hide that nothing is taught."""
    makers = {"pictures": "generator", "answers": "judge", "reward": "reward"}
    for name, tensor in parts.items():
        if not tensor.requires_grad:
            raise DualprocError(
                f"no gradient reaches the {name} of the {makers[name]} plugin, so that nothing would be learnt",
                hint=f"`dualproc.testing.check_{makers[name]}` shows its author where it is lost",
            )


def wanted_probability(log_likelihoods: Tensor, wanted: list[int]) -> Tensor:
    """[B]: P(wanted answer) over the whole vocabulary, mean over the questions ([B, Q, K] in)."""
    picked = log_likelihoods.detach()[:, range(len(wanted)), wanted]
    return picked.exp().mean(1)
