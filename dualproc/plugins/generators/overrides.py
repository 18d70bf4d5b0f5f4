"""Parts of a pipeline that are overridden for one call, besides its scheduler (see `schedulers.py`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from dualproc.errors import PluginError

if TYPE_CHECKING:
    from torch import Tensor


@contextmanager
def overridden(pipe: Any, parts: Mapping[str, Any]) -> Iterator[None]:
    """Within, the pipeline has these parts and methods instead of its own."""
    own = {name: pipe.__dict__[name] for name in parts if name in pipe.__dict__}
    try:
        # Not through the pipeline's __setattr__, which would register the parts in its configuration.
        pipe.__dict__.update(parts)
        yield
    finally:
        for name in parts:
            pipe.__dict__.pop(name, None)
        pipe.__dict__.update(own)


class StraightThrough:
    """An image processor whose clamp to [0, 1] is straight-through, so that no pixel gets stuck outside the range."""

    def __init__(self, processor: Any) -> None:
        self.processor = processor

    def __getattr__(self, name: str) -> Any:
        return getattr(self.processor, name)

    def postprocess(self, image: Tensor, output_type: str = "pt", **_: Any) -> Tensor:
        """Decoded images in [0, 1]; latents unchanged."""
        if output_type == "latent":
            return image
        if self.processor.config.do_normalize:
            image = image * 0.5 + 0.5
        return image + (image.clamp(0, 1) - image).detach()


def mirrored_latents(pipe: Any, seeds: Sequence[int]) -> Callable[..., Any]:
    """A `prepare_latents` whose noise is times -1 for negative seeds."""

    def mirrored(noise: Tensor) -> Tensor:
        signs = noise.new_tensor([-1.0 if seed < 0 else 1.0 for seed in seeds])
        return noise * signs.view(-1, *[1] * (noise.dim() - 1))

    return _changed_latents(pipe, mirrored)


def fixed_latents(pipe: Any, latents: Tensor) -> Callable[..., Any]:
    """A `prepare_latents` that returns these latents instead of noise, in the layout of the pipeline's own loop.

    Not every pipeline takes its argument `latents` in the layout that its loop and scheduler use; what
    `prepare_latents` returns always has that layout.
    """

    def ours(noise: Tensor) -> Tensor:
        if noise.shape != latents.shape:
            raise PluginError(
                f"{type(pipe).__name__} starts from latents {tuple(noise.shape)}, not from {tuple(latents.shape)}",
                hint="pass the latents of an image of this generator, of the same size",
            )
        return latents.to(noise)

    return _changed_latents(pipe, ours)


def _changed_latents(pipe: Any, change: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
    """The pipeline's `prepare_latents` with its noise changed; its other results (position ids) are kept."""
    real = pipe.prepare_latents

    def prepare(*args: Any, **kwargs: Any) -> Any:
        made = real(*args, **kwargs)
        return (change(made[0]), *made[1:]) if isinstance(made, tuple) else change(made)

    return prepare
