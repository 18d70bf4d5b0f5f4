"""The models that the page has loaded: one generator, and one set of judges; loaded when first needed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dualproc import resolve
from dualproc.engine import returned
from dualproc.engine.audit import Audit, audit
from dualproc.engine.evaluators import Evaluators
from dualproc.engine.reload import generate, load_generator, open_run
from dualproc.engine.seeds import audit_seeds
from dualproc.engine.sliders import set_sliders
from dualproc.engine.write import Writer, Written, judge_as_writer
from dualproc.kit.devices import free_memory
from dualproc.protocols import Generator
from dualproc.run.folder import WEIGHTS
from dualproc.run.images import to_pillow
from dualproc.spec import PluginRef, TaskSpec
from dualproc.types import Prompt

if TYPE_CHECKING:
    from PIL.Image import Image

KEPT = 3
"""Generators of runs that stay loaded, to compare them."""
SHOWN = 320
"""Smaller images are enlarged to at least this height (pixels), by an integer factor: each pixel stays sharp."""


@dataclass(frozen=True)
class Look:
    """A base image, the image as the judge sees it, and P(wanted answer) to each question about it."""

    base: Image
    seen: Image
    rows: list[tuple[str, str, float]]
    """Question, wanted answer, and the judge's P(wanted answer)."""


class Models:
    """Loads models when they are first needed; one thread at a time uses them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._generator: tuple[PluginRef, Generator] | None = None
        self._evaluators: Evaluators | None = None
        self._runs: dict[tuple[str, int], tuple[TaskSpec, Generator]] = {}

    def look(self, spec: TaskSpec, prompt: Prompt, seed: int) -> Look:
        """The visual prompt over a base image of one training prompt; sliders are in the middle.

        Raises DualprocError if a model cannot be loaded.
        """
        import torch

        with self._lock, torch.no_grad():
            generator, evaluators = self._loaded(spec)
            generator.prepare([prompt.text])
            image = returned.sample(generator, [prompt.text], [audit_seeds(1)[0] + seed], base=True).images
            seen = evaluators.judge_view(image)
            questions = evaluators.spec.questions
            asked = [question.for_prompt(prompt) for question in questions]
            each = returned.answers(evaluators.judge, seen, [asked]).log_likelihoods[0].exp()
            rows = [
                (question.text, question.candidates[question.wanted], each[index, question.wanted].item())
                for index, question in enumerate(asked)
            ]
            return Look(shown(to_pillow(image)[0]), shown(to_pillow(seen)[0]), rows)

    def audit(self, spec: TaskSpec, images: int) -> Audit:
        """`dp audit` with the loaded models."""
        with self._lock:
            return audit(*self._loaded(spec), images=images)

    def write(self, spec: TaskSpec, use: Callable[[Writer], Written]) -> Written:
        """What the spec's judge writes. Raises DualprocError if it cannot write, before it is loaded."""
        ref = spec.judges[0][1]
        judge_as_writer(ref)
        with self._lock:
            return use(judge_as_writer(ref, self._loaded(spec)[1].judge))

    def draw(
        self, run: Path, prompt: str, seeds: Sequence[int], *, strength: float, values: dict[str, float]
    ) -> list[Image]:
        """Images of a run's generator, one for each seed, with its LoRA at `strength` and its sliders at `values`.

        Values of sliders that the run does not have are ignored. Raises RunError if the run is not finished.
        """
        with self._lock:
            key = (str(run), (run / WEIGHTS).stat().st_mtime_ns if (run / WEIGHTS).exists() else 0)
            if key not in self._runs:
                while len(self._runs) >= KEPT:
                    del self._runs[next(iter(self._runs))]
                self._runs[key] = (open_run(run)[1], load_generator(run))
            spec, generator = self._runs[key]
            own = {name: value for name, value in values.items() if name in spec.sliders}
            set_sliders(generator, spec, own, strength=strength)
            generator.prepare([prompt])
            return [shown(image) for image in to_pillow(generate(generator, prompt, seeds, batch=len(seeds)))]

    def release(self) -> None:
        """Release all models if there is a GPU, so that a fit has its memory."""
        import torch

        with self._lock:
            if not torch.cuda.is_available():
                return
            self._generator, self._evaluators = None, None
            self._runs.clear()
            free_memory()

    def _loaded(self, spec: TaskSpec) -> tuple[Generator, Evaluators]:
        """The generator of a spec, and its judges with its visual prompt; those loaded before if they are the same."""
        resolve.check_plugins(spec)
        task = spec.at({}).model_copy(update={"scorers": ()})
        if self._generator is None or self._generator[0] != spec.generator:
            self._generator = None
            self._generator = (spec.generator, resolve.build("generators", spec.generator))
        before = self._evaluators
        if before is not None and (before.spec.judges, before.spec.referees) == (task.judges, task.referees):
            self._evaluators = before.at(task)
        else:
            self._evaluators = None
            self._evaluators = Evaluators(task)
        return self._generator[1], self._evaluators


def shown(image: Image) -> Image:
    """A small image, enlarged."""
    times = max(1, -(-SHOWN // image.height))
    return image.resize((image.width * times, image.height * times), 0)  # 0: nearest pixel
