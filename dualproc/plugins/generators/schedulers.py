"""Thin stand-ins for a pipeline's scheduler: how any diffusers pipeline is driven through its own `__call__`.

A pipeline asks its scheduler for the timesteps and, after each evaluation of the backbone, for the next sample. A
stand-in that answers both differently turns the unmodified pipeline into what the engine needs, with its own packing,
guidance and decoding: a run that ends early with the clean estimate (`Stopped`), or one evaluation at a chosen noise
level (`OneLevel`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any

from dualproc.errors import PluginError

if TYPE_CHECKING:
    from torch import Tensor


class Standin:
    """Delegates everything to the real scheduler, and keeps the signatures that pipelines inspect."""

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
    """Our function with the real one's signature, which pipelines look at to see what they may pass."""

    @wraps(real)
    def call(*args: Any, **kwargs: Any) -> Any:
        return ours(*args, **kwargs)

    return call


class Recorder(Standin):
    """Changes nothing; remembers the final latents."""

    def _step(self, output: Tensor, timestep: Any, sample: Tensor, **kwargs: Any) -> tuple[Tensor]:
        kwargs["return_dict"] = False
        self.clean = self.scheduler.step(output, timestep, sample, **kwargs)[0]
        return (self.clean,)


class Stopped(Standin):
    """Ends after step `last` (from 0) with the clean estimate; only that step is differentiable.

    The estimate is the paper's: x0 = z_t - sigma_t * v(z_t) for a flow, the scheduler's own for other kinds.
    """

    def __init__(self, scheduler: Any, last: int) -> None:
        super().__init__(scheduler)
        self.last, self.done = last, 0

    @property
    def timesteps(self) -> Tensor:
        steps: Tensor = self.scheduler.timesteps[: self.last + 1]
        return steps

    def _set_timesteps(self, *args: Any, **kwargs: Any) -> None:
        import torch

        super()._set_timesteps(*args, **kwargs)
        torch.set_grad_enabled(self.last == 0)  # the caller's context restores it

    def _step(self, output: Tensor, timestep: Any, sample: Tensor, **kwargs: Any) -> tuple[Tensor]:
        import torch

        self.done += 1
        if self.done <= self.last:
            kwargs["return_dict"] = False
            (after, *_) = self.scheduler.step(output, timestep, sample, **kwargs)
            torch.set_grad_enabled(self.done == self.last)
            return (after,)
        self.clean = self._estimate(output, timestep, sample, kwargs)
        return (self.clean,)

    def _estimate(self, output: Tensor, timestep: Any, sample: Tensor, kwargs: dict[str, Any]) -> Tensor:
        if is_flow(self.scheduler):
            sigma: Tensor = self.scheduler.sigmas[self.done - 1].to(output)
            return sample - sigma * output
        result = self.scheduler.step(output, timestep, sample, **{**kwargs, "return_dict": True})
        clean = getattr(result, "pred_original_sample", None)
        if clean is None:
            raise PluginError(
                f"the scheduler {type(self.scheduler).__name__} gives no estimate of the clean picture",
                hint="use a flow-matching, DDIM, Euler or LCM scheduler with this generator",
            )
        estimate: Tensor = clean
        return estimate


class OneLevel(Standin):
    """One evaluation of the backbone at `noise_level` in (0, 1), on latents that are given already noised.

    A flow's latents are (1 - t) x0 + t e; others' are sqrt(abar) x0 + sqrt(1 - abar) e at the training step whose
    sqrt(1 - abar) is nearest to the level, whatever the scheduler's own scaling.
    """

    init_noise_sigma = 1.0
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
        """The latents to give to the pipeline."""
        return self.signal * clean + self.noise * noise

    def _step(self, output: Tensor, timestep: Any, sample: Tensor, **kwargs: Any) -> tuple[Tensor]:
        kind = "flow" if is_flow(self.scheduler) else self.scheduler.config.prediction_type
        if kind == "flow":
            self.clean = sample - self.noise * output
        elif kind == "epsilon":
            self.clean = (sample - self.noise * output) / self.signal
        elif kind == "v_prediction":
            self.clean = self.signal * sample - self.noise * output
        else:  # "sample"
            self.clean = output
        return (self.clean,)


def is_flow(scheduler: Any) -> bool:
    """Flow-matching schedulers have noise levels and no table of diffusion coefficients, or say what they predict."""
    if getattr(scheduler.config, "prediction_type", None) == "flow_prediction":
        return True
    return hasattr(scheduler, "sigmas") and not hasattr(scheduler, "alphas_cumprod")
