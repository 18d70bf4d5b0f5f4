"""The method on one screen: a judge's answers, their gradient through the image, and a step of the LoRA."""

from __future__ import annotations

import copy
import math
import random
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any

from dualproc import resolve
from dualproc.errors import DualprocError, DualprocWarning, NotFiniteError
from dualproc.kit.devices import free_memory, without_cudnn_attention
from dualproc.protocols import Anchor, Generator, Reward
from dualproc.spec import AnchorRef, TaskSpec
from dualproc.spec.paths import lora_file
from dualproc.types import Prompt, Question, StepRecord

from . import lora, lora_files, returned, sliders
from .average import Average
from .distributed import Processes, processes
from .draws import Draw, View, draw
from .evaluators import Evaluators, Live, live
from .robust import worst_images, worst_weights
from .warned import noting

if TYPE_CHECKING:
    from torch import Tensor
    from typing_extensions import Self


class Loop:
    """The live plugins of one spec, the LoRA, and the training step.

    Building it checks the whole spec and loads its models. Every random draw of a step follows from the spec's seed and
    the number of the step, so a run resumed from a checkpoint draws the same as an uninterrupted one.
    """

    def __init__(self, spec: TaskSpec, *, build: resolve.Builder = resolve.build) -> None:
        """`build(kind, ref)` makes a live plugin.

        Raises SpecError if the spec or a plugin's parameters are wrong, PluginError if a plugin fails to load, RunError
        if `train.lora.init` is not a LoRA of this generator.
        """
        self.spec = spec
        self.warnings: list[str] = []
        """Every warning since the engine was built, each once; the run's report shows them."""
        self.processes: Processes = (
            processes() if build is resolve.build else Processes()
        )  # others are a dry run's, or a test's
        """The processes that share every training step."""
        with noting(self.warnings), self.processes.agreed():
            self._load(build)
        self.done = 0
        """Training steps done so far."""
        self.skipped = 0
        """How many of the last steps in a row were skipped."""

    def _load(self, build: resolve.Builder) -> None:
        """Check the spec and load its models."""
        import torch

        spec = self.spec
        resolve.check_plugins(spec)
        if build is resolve.build and (mixed := resolve.toy_mix(spec)):  # not in a dry run, which proves nothing
            warnings.warn(mixed, DualprocWarning, stacklevel=3)
        free_memory()  # of an earlier engine, whose models refer to each other in circles
        self.generator: Generator = build("generators", spec.generator)
        self.prompts = spec.prompts.train_prompts()
        # Before the judges are loaded: the generator then releases its text encoders, and both need not fit together.
        used = [prompt.text for prompt in self.prompts + spec.prompts.eval_prompts()]
        self.generator.prepare([*used, *(text for text in spec.preview_prompts() if text not in used)])
        self._build = build
        self.built: dict[str, Live] = {"rewards": [], "anchors": []}
        """The live plugins by kind, besides those of `evaluators`."""
        self.latest: Loop | None = None
        """What `at` returned last."""
        self._set_task(Evaluators(spec.at({}), build=build))
        self.judge = self.evaluators.judge
        module, targets, train = self.generator.adapter_module, self.generator.lora_targets, spec.train
        self.weights = lora.attach(module, train.lora, targets, seed=train.seed, adapters=lora.adapters(spec.sliders))
        if train.lora.init is not None and not self.weights[0].is_meta:  # in `dp plan`, weights have no values
            lora_files.start_from(module, train.lora, lora_file(train.lora.init))
        sliders.set_sliders(self.generator, spec, {})
        self.optimiser = torch.optim.AdamW(self.weights, lr=train.lr, weight_decay=train.weight_decay)
        self.average = Average(train.ema)

    def _set_task(self, evaluators: Evaluators) -> None:
        """Everything that follows from a spec without sliders, or from one value of each of them."""
        self.evaluators, task = evaluators, evaluators.spec
        used = [ref for ref in task.anchors if ref.weight > 0]
        self.built = {
            "rewards": live(self._build, "rewards", [task.reward], self.built["rewards"]),
            "anchors": live(self._build, "anchors", used, self.built["anchors"]),
        }
        self.reward: Reward = self.built["rewards"][0][1]
        self.anchors: list[tuple[AnchorRef, Anchor]] = [
            (ref, anchor) for ref, (_, anchor) in zip(used, self.built["anchors"], strict=True)
        ]
        for _, anchor in self.anchors:
            if hasattr(anchor, "judge"):
                anchor.judge = evaluators.judge
        self.wanted = [question.wanted for question in task.questions]

    def at(self, values: Mapping[str, float]) -> Self:
        """The loop with its sliders at these values: LoRA, visual prompt, questions, reward, anchors, scorers.

        It shares the generator: its LoRA stays at these values until the next call. Without sliders, it is the loop
        itself. Raises DualprocError if a value is outside its slider's range.
        """
        if not self.spec.sliders and not values:
            return self
        task = self.spec.at(values)
        sliders.set_sliders(self.generator, self.spec, values)
        other = copy.copy(self)
        other.spec = task
        other._set_task(self.evaluators.at(task))
        self.latest, other.latest = other, None
        return other

    @without_cudnn_attention()
    def step(self) -> StepRecord:
        """One training step: images, the judge's answers, and their gradient through the images into the LoRA."""
        import torch

        started, train = time.perf_counter(), self.spec.train
        rng = random.Random(f"{train.seed}/{self.done}")
        task = self.at(sliders.drawn(self.spec, self.done, rng))  # without sliders, the same in every step
        drawn = draw(task.spec, self.prompts, self.done, rng)

        gradient = partial(self._gradient, task, drawn)
        with worst_weights(self.weights, train.worst_case.weights, gradient):
            totals = gradient()

        norm = torch.nn.utils.clip_grad_norm_(self.weights, train.clip)
        # Read together: each reading would make the CPU wait for the GPU.
        numbers = torch.cat([totals, norm[None]]).tolist()
        finite = math.isfinite(numbers[0]) and math.isfinite(numbers[-1])
        if finite:
            self.optimiser.param_groups[0]["lr"] = train.lr_at(self.done)
            self.optimiser.step()
            self.average.update(self.weights, self.done)
        self.done += 1
        names = ("loss", "reward", "p_answer", "anchor", "grad_norm")
        seconds = time.perf_counter() - started
        return StepRecord(step=self.done, **dict(zip(names, numbers, strict=True)), seconds=seconds, skipped=not finite)

    def _gradient(self, task: Loop, drawn: Draw) -> Tensor:
        """Set the LoRA's gradient to that of the whole batch, over all processes; returns the batch's `_loss`."""
        import torch

        batch, accumulate = self.spec.train.batch, self.spec.train.accumulate
        self.optimiser.zero_grad(set_to_none=True)
        totals = torch.zeros(4, device=self.weights[0].device)
        with self.processes.summed(self.weights, totals):
            for part in self.processes.parts(batch, accumulate):  # one, unless several are asked for
                terms = task._loss(drawn.part(part))
                share = (part.stop - part.start) / batch
                torch.autograd.backward(share * terms[0])
                totals += share * terms.detach()
        return totals

    def _loss(self, drawn: Draw) -> Tensor:
        """[4]: loss, mean reward, mean P(wanted answer) and mean penalty of images drawn with the LoRA."""
        import torch

        texts, radius = drawn.texts, self.spec.train.worst_case.images
        sample = returned.sample(self.generator, texts, drawn.seeds, grad=True)
        images = worst_images(sample.images, radius, lambda near: self._judged(near, drawn)[0])
        reward, p_answer = self._judged(images, drawn)
        penalty = torch.zeros_like(reward)
        for (ref, anchor), seed in zip(self.anchors, drawn.anchors, strict=True):
            noise = torch.Generator().manual_seed(seed)
            if ref.share < 1 and torch.rand((), generator=noise).item() >= ref.share:
                continue
            found = returned.penalty(anchor, sample, self.generator, texts, drawn.seeds, noise)
            penalty = penalty + ref.weight / ref.share * found
        return torch.stack([penalty.mean() - reward.mean(), reward.mean(), p_answer, penalty.mean()])

    def _judged(self, images: Tensor, drawn: Draw) -> tuple[Tensor, Tensor]:
        """The reward of images [B, 3, H, W], [B], and P(wanted answer): the means over the views."""
        import torch

        seen = torch.cat([self.judge_view(self._noisy(images, view), view.shifts) for view in drawn.views])
        asked = [asked for view in drawn.views for asked in self.questions(drawn.prompts, view.wordings)]
        answers = returned.answers(self.judge, seen, asked)
        reward = returned.reward(self.reward, answers, self.wanted)
        _require_gradient(images=images, answers=answers.log_likelihoods, reward=reward)
        return reward.view(len(drawn.views), -1).mean(0), answers.p_wanted(self.wanted).mean()

    def _noisy(self, images: Tensor, view: View) -> Tensor:
        """Images with the noise of a view."""
        import torch

        if not (size := self.spec.train.views.noise):
            return images
        shape = images.shape[1:]
        noise = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in view.noise]
        return images + size * torch.stack(noise).to(images)

    def steps(self) -> Iterator[StepRecord]:
        """The remaining training steps; raises NotFiniteError after `train.max_skipped` skipped steps in a row."""
        while True:
            if self.done < self.spec.train.steps:
                record = self.step()
                self.skipped = self.skipped + 1 if record.skipped else 0
                yield record
            if self.skipped >= self.spec.train.max_skipped:  # also when a run that ended this way is resumed
                raise NotFiniteError(
                    f"loss or gradient was not finite in {self.skipped} steps in a row, up to step {self.done}",
                    hint="lower train.lr or train.lora.strength, or use float32 for generator and judge",
                )
            if self.done == self.spec.train.steps:
                return

    def averaged(self) -> AbstractContextManager[None]:
        """Within, the LoRA is the average of `train.ema`; without it, nothing changes."""
        return self.average.swapped(self.weights)

    def judge_view(self, images: Tensor, shifts: Sequence[tuple[float, float]] | None = None) -> Tensor:
        """Images [B, 3, H, W] as the judge sees them; with `shifts`, each has its visual prompt shifted by its own."""
        return self.evaluators.judge_view(images, shifts)

    def questions(
        self, prompts: Sequence[Prompt], wordings: Sequence[Sequence[int]] | None = None
    ) -> list[list[Question]]:
        """The spec's questions about the image of each prompt: B lists of Q, each in its wording (0: the template)."""
        asked = self.evaluators.spec.questions
        chosen = wordings or [[0] * len(asked)] * len(prompts)
        return [
            [one.for_prompt(prompt, wording=number) for one, number in zip(asked, numbers, strict=True)]
            for prompt, numbers in zip(prompts, chosen, strict=True)
        ]

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What a checkpoint needs: tensors (LoRA, optimiser), and how many steps were done and skipped."""
        tensors = {f"lora/{name}": value for name, value in lora.state(self.generator.adapter_module).items()}
        for index, kept in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser/{index}/{key}": value for key, value in kept.items()}
        tensors |= {f"average/{index}": value for index, value in enumerate(self.average.values)}
        return tensors, {"done": self.done, "skipped": self.skipped}

    def restore(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Continue from what `state` returned."""
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
        average = parts.get("average", {})
        self.average.values = [average[name].to(self.weights[0]) for name in sorted(average, key=int)]
        self.done, self.skipped = int(state["done"]), int(state.get("skipped", 0))


def _require_gradient(**parts: Tensor) -> None:
    """Raises DualprocError at the first part without a gradient; the anchors' gradient would hide the loss."""
    makers = {"images": "generator", "answers": "judge", "reward": "reward"}
    for name, tensor in parts.items():
        if not tensor.requires_grad:
            raise DualprocError(
                f"the {makers[name]} plugin returns {name} without a gradient, so the LoRA cannot be trained",
                hint=f"plugin authors: `dualproc.testing.check_{makers[name]}` shows where the gradient is lost",
            )
