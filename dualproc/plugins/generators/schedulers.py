"""Thin wrappers of a pipeline's scheduler: how any diffusers pipeline is driven through its own `__call__`.

A pipeline asks its scheduler for the timesteps and, after each evaluation of the backbone, for the next sample. A
wrapper that answers both differently makes the unmodified pipeline do what the engine needs, with its own packing,
guidance and decoding: stop early and return the clean estimate (`StopAtStep`), evaluate the backbone once at a chosen
noise level (`SingleNoiseLevel`), or stop when the prompts are encoded (`EncodeOnly`).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any

from dualproc.errors import PluginError

if TYPE_CHECKING:
    from torch import Tensor


class SchedulerOverride:
    """Delegates everything to the pipeline's scheduler, and keeps the signatures that pipelines inspect."""

    def __init__(self, scheduler: Any) -> None:
        self.scheduler = scheduler
        self.clean: Tensor | None = None
        """The last clean latents, in the layout of the pipeline's own loop."""
        self.set_timesteps = _signed_as(scheduler.set_timesteps, self._set_timesteps)
        self.step = _signed_as(scheduler.step, self._step)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.scheduler, name)

    def _set_timesteps(self, *args: Any, **kwargs: Any) -> None:
        self.scheduler.set_timesteps(*args, **kwargs)

    def _step(self, output: Tensor, timestep: Any, sample: Tensor, **kwargs: Any) -> tuple[Tensor]:
        raise NotImplementedError


def _signed_as(real: Callable[..., Any], ours: Callable[..., Any]) -> Callable[..., Any]:
    """Our function with the signature of the real one, which pipelines inspect to see what they may pass."""

    @wraps(real)
    def call(*args: Any, **kwargs: Any) -> Any:
        return ours(*args, **kwargs)

    return call


class Encoded(Exception):  # noqa: N818 - not an error
    """Raised by `EncodeOnly` when a pipeline has done everything that comes before sampling."""


class EncodeOnly(SchedulerOverride):
    """Stops where sampling would begin: by then, pipelines have encoded their prompts."""

    def _set_timesteps(self, *args: Any, **kwargs: Any) -> None:
        raise Encoded


class RecordLatents(SchedulerOverride):
    """Changes nothing; records the final latents."""

    def _step(self, output: Tensor, timestep: Any, sample: Tensor, **kwargs: Any) -> tuple[Tensor]:
        kwargs["return_dict"] = False
        self.clean = self.scheduler.step(output, timestep, sample, **kwargs)[0]
        return (self.clean,)


class StopAtStep(SchedulerOverride):
    """Stops after a step drawn from `seed` and returns the clean estimate; only that step is differentiable.

    A step is one evaluation of the backbone: second-order schedulers (Heun, KDPM2) have more timesteps than requested,
    and the last ones, with little noise, must be drawn too. The estimate is the paper's, x0 = z_t - sigma_t * v(z_t),
    for flow matching; the scheduler's own for other kinds; and, where the scheduler gives none (DPM++, PNDM, UniPC),
    computed from its table of coefficients.
    """

    def __init__(self, scheduler: Any, seed: int) -> None:
        super().__init__(scheduler)
        self.seed, self.last, self.done = seed, 0, 0

    @property
    def timesteps(self) -> Tensor:
        steps: Tensor = self.scheduler.timesteps[: self.last + 1]
        return steps

    def _set_timesteps(self, *args: Any, **kwargs: Any) -> None:
        import torch

        super()._set_timesteps(*args, **kwargs)
        self.last = random.Random(self.seed).randrange(len(self.scheduler.timesteps))
        torch.set_grad_enabled(self.last == 0)  # the caller's context restores the mode

    def _step(self, output: Tensor, timestep: Any, sample: Tensor, **kwargs: Any) -> tuple[Tensor]:
        import torch

        self.done += 1
        if self.done <= self.last:
            kwargs["return_dict"] = False
            (after, *_) = self.scheduler.step(output, timestep, sample, **kwargs)
            torch.set_grad_enabled(self.done == self.last)
            return (after,)
        self.clean = self._estimate(output, timestep, sample, kwargs)
        return (self.clean.to(sample.dtype),)  # some schedulers estimate in float32, which a bfloat16 VAE refuses

    def _estimate(self, output: Tensor, timestep: Any, sample: Tensor, kwargs: dict[str, Any]) -> Tensor:
        import torch

        if is_flow(self.scheduler):
            sigma: Tensor = self.scheduler.sigmas[self.done - 1].to(output)
            return sample - sigma * output
        result = self.scheduler.step(output, timestep, sample, **{**kwargs, "return_dict": True})
        for name in ("pred_original_sample", "denoised"):
            estimate: Tensor | None = getattr(result, name, None)
            if estimate is not None:
                return estimate
        # Only then are its samples sqrt(abar) x0 + sqrt(1 - abar) e, and not scaled in another way.
        if hasattr(self.scheduler, "alphas_cumprod") and float(self.scheduler.init_noise_sigma) == 1:
            # Not by int(timestep), which would wait for the GPU.
            index = torch.as_tensor(timestep, device=sample.device).long().reshape(1)
            signal = self.scheduler.alphas_cumprod.to(sample).index_select(0, index)
            return clean_estimate(self.scheduler, output, sample, signal**0.5, (1 - signal) ** 0.5)
        raise PluginError(
            f"the scheduler {type(self.scheduler).__name__} gives no estimate of the clean image",
            hint="set the generator's scheduler to a flow-matching one, DDIMScheduler, EulerDiscreteScheduler or"
            " DPMSolverMultistepScheduler",
        )


class SingleNoiseLevel(SchedulerOverride):
    """One evaluation of the backbone at `noise_level` in (0, 1), on latents that are already noised.

    For flow matching, these are (1 - t) x0 + t e; for others, sqrt(abar) x0 + sqrt(1 - abar) e at the training timestep
    whose sqrt(1 - abar) is nearest to the level, even if the scheduler itself scales its samples in another way.
    """

    order = 1

    def __init__(self, scheduler: Any, noise_level: float) -> None:
        import torch

        super().__init__(scheduler)
        if is_flow(scheduler):
            self.signal, self.noise = 1 - noise_level, noise_level
            self.timestep: float = noise_level * scheduler.config.num_train_timesteps
        else:
            noise = (1 - scheduler.alphas_cumprod).sqrt()
            self.timestep = int((noise - noise_level).abs().argmin())
            self.noise = float(noise[self.timestep])
            self.signal = (1 - self.noise**2) ** 0.5
        self.timesteps = torch.tensor([self.timestep])

    def _set_timesteps(self, *args: Any, **kwargs: Any) -> None:
        super()._set_timesteps(*args, **kwargs)
        device = kwargs.get("device", args[1] if len(args) > 1 else None)
        self.timesteps = self.timesteps.to(device)

    def scale_model_input(self, sample: Tensor, _timestep: Any = None) -> Tensor:
        return sample

    def noised(self, clean: Tensor, noise: Tensor) -> Tensor:
        """The latents to pass to the pipeline."""
        return self.signal * clean + self.noise * noise

    def _step(self, output: Tensor, timestep: Any, sample: Tensor, **kwargs: Any) -> tuple[Tensor]:
        self.clean = clean_estimate(self.scheduler, output, sample, self.signal, self.noise)
        return (self.clean,)


def clean_estimate(scheduler: Any, output: Tensor, sample: Tensor, signal: Any, noise: Any) -> Tensor:
    """x0 from what the backbone predicted for the sample `signal` * x0 + `noise` * e."""
    kind = "flow" if is_flow(scheduler) else scheduler.config.prediction_type
    clean: Tensor = output  # where the prediction is the "sample"
    if kind == "flow":
        clean = sample - noise * output
    elif kind == "epsilon":
        clean = (sample - noise * output) / signal
    elif kind == "v_prediction":
        clean = signal * sample - noise * output
    return clean


def is_flow(scheduler: Any) -> bool:
    """Whether a scheduler is for flow matching: it says so, or has noise levels but no diffusion coefficients."""
    if getattr(scheduler.config, "prediction_type", None) == "flow_prediction":
        return True
    return hasattr(scheduler, "sigmas") and not hasattr(scheduler, "alphas_cumprod")
