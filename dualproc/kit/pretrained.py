"""Pretrained models that measure images: their parameters, loading, and running in small batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pydantic import Field

from dualproc.errors import PluginError
from dualproc.types import Prompt

from .devices import pick_device
from .model_params import LoadedParams
from .weights import SAFE_ARGUMENTS, safe_loading

if TYPE_CHECKING:
    from torch import Tensor


class PretrainedParams(LoadedParams):
    """Base class of `Params` for scorers that measure with a pretrained model; a scorer gives `model` a default."""

    batch: int = Field(8, ge=1, le=1024, description="Images measured at a time; fewer need less memory.")


class Pretrained:
    """A frozen model of transformers and its processor.

    Both are loaded at once, so that a missing model ends a run before training and not after it. The model is in main
    memory, and on its device only while it measures: it takes no GPU memory from the training.
    """

    def __init__(
        self, params: PretrainedParams, *, what: str, kind: str, model: str, processor: str = "AutoProcessor"
    ) -> None:
        """Load the model in evaluation mode.

        Args:
            params: which one, and how it computes.
            what: what is loaded, for messages: `the model of the scorer depth`.
            kind: what the model must be, for messages: `a depth model`.
            model, processor: classes of transformers with `from_pretrained`.

        Raises:
            PluginError: the model cannot be loaded, or the device does not exist.
        """
        import torch
        import transformers

        self.params, self.device, self.dtype = params, pick_device(params.device), getattr(torch, params.dtype)
        source = params.source
        with safe_loading(what, params.model, kind, source):
            # The model first: a processor that cannot be downloaded does not say that the hub cannot be reached.
            load_model = getattr(transformers, model).from_pretrained
            self.model: Any = load_model(params.model, dtype=self.dtype, **SAFE_ARGUMENTS, **source)
            load_processor = getattr(transformers, processor).from_pretrained
            self.processor: Any = load_processor(params.model, trust_remote_code=False, **source)
        self.model.requires_grad_(False).eval()

    def require(self, fits: bool, *, scorer: str, kind: str, hint: str) -> None:
        """Raise PluginError, with the hint, unless the loaded model is of the kind that the scorer can use."""
        if not fits:
            message = f"{scorer}: {self.params.model!r} is a {self.model.config.model_type} model, expected {kind}"
            raise PluginError(message, hint=hint)

    def measure(self, count: int, values: Callable[[slice], Tensor]) -> Tensor:
        """[count, ...]: `values(rows)` of each small batch of rows; the model is on its device meanwhile.

        The result is float32, in main memory.
        """
        import torch

        with self._on_device():
            batches = [slice(start, start + self.params.batch) for start in range(0, count, self.params.batch)]
            return torch.cat([values(rows).float().cpu() for rows in batches])

    def inputs(self, images: Tensor | None = None, **more: Any) -> dict[str, Tensor]:
        """The processor's output for images [B, 3, H, W] in [0, 1] and `more`, on the model's device.

        The model's own processor resizes, crops and normalises the images, in main memory: it would do so with other
        rounding on a GPU.
        """
        given = {} if images is None else {"images": list(images.float().cpu()), "do_rescale": False}
        made: Mapping[str, Tensor] = self.processor(**given, **more, return_tensors="pt")
        return {
            name: value.to(self.device, self.dtype) if value.is_floating_point() else value.to(self.device)
            for name, value in made.items()
        }

    @contextmanager
    def _on_device(self) -> Iterator[None]:
        import torch

        self.model.to(self.device)
        try:
            with torch.no_grad():
                yield
        finally:
            self.model.to("cpu")


def texts_of(owner: str, prompts: Sequence[Prompt], text: str | None, field: str | None) -> list[str]:
    """The text for each image: `text`, the prompt's field `field`, or the whole prompt if both are None.

    Raises PluginError, which `owner` begins, if a prompt lacks the field.
    """
    if text is not None:
        return [text] * len(prompts)
    if field is None:
        return [prompt.text for prompt in prompts]
    if lacking := next((prompt for prompt in prompts if field not in prompt.fields), None):
        raise PluginError(
            f"{owner}: the prompt {lacking.text!r} has no field `{field}`",
            hint=f"its fields are {', '.join(lacking.fields) or '(none)'}; set `field` to one of them, or use `text`",
        )
    return [prompt.fields[field] for prompt in prompts]
