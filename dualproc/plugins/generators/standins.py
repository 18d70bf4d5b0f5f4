"""What takes the place of a pipeline's parts for one call, besides the schedulers of `schedulers.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from dualproc.errors import PluginError

if TYPE_CHECKING:
    from torch import Tensor


@contextmanager
def swapped(pipe: Any, standins: Mapping[str, Any]) -> Iterator[None]:
    """Within, the pipeline has these parts and methods instead of its own."""
    own = {name: pipe.__dict__[name] for name in standins if name in pipe.__dict__}
    try:
        # Not through the pipeline's __setattr__, which would register the stand-ins in its configuration.
        pipe.__dict__.update(standins)
        yield
    finally:
        for name in standins:
            pipe.__dict__.pop(name, None)
        pipe.__dict__.update(own)


class StraightThrough:
    """An image processor whose clamp to [0, 1] lets the gradient through, so that no pixel is stuck outside."""

    def __init__(self, processor: Any) -> None:
        self.processor = processor

    def __getattr__(self, name: str) -> Any:
        return getattr(self.processor, name)

    def postprocess(self, image: Tensor, output_type: str = "pt", **_: Any) -> Tensor:
        """Decoded pictures to [0, 1]; latents as they are."""
        if output_type == "latent":
            return image
        if self.processor.config.do_normalize:
            image = image * 0.5 + 0.5
        return image + (image.clamp(0, 1) - image).detach()


def given_latents(pipe: Any, latents: Tensor) -> Callable[..., Any]:
    """A `prepare_latents` that returns these latents, in the layout of the pipeline's own loop, instead of noise.

    Not every pipeline takes latents (`latents=`) in the layout that its loop and its scheduler see; what
    `prepare_latents` returns always has it. What it returns besides (position ids) stays.
    """
    real = pipe.prepare_latents

    def prepare(*args: Any, **kwargs: Any) -> Any:
        made = real(*args, **kwargs)
        noise = made[0] if isinstance(made, tuple) else made
        if noise.shape != latents.shape:
            raise PluginError(
                f"{type(pipe).__name__} begins with latents {tuple(noise.shape)}, and cannot denoise"
                f" {tuple(latents.shape)}",
                hint="latents must be those of a picture of this generator, of the same size",
            )
        ours = latents.to(noise)
        return (ours, *made[1:]) if isinstance(made, tuple) else ours

    return prepare
