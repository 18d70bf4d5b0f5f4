"""Models built from their configurations alone, where `from_pretrained` would read weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch

from dualproc.kit.patching import replaced

if TYPE_CHECKING:
    from torch import nn

WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.ckpt", "*.msgpack", "*.h5", "*.onnx*", "*.gguf", "*.png")
"""Files in a hub repository that building a model does not need."""


@contextmanager
def built_from_configs(
    place: Callable[[], AbstractContextManager[Any]], built: Callable[[str, nn.Module], None] = lambda *_: None
) -> Iterator[None]:
    """Within, `from_pretrained` of transformers and diffusers builds models by their configurations alone.

    They are built within the context `place()`, such as a torch device. Folders need no weights, and none are
    downloaded. `built` gets the name or folder of every model, and the model.
    """
    from diffusers import DiffusionPipeline, ModelMixin
    from huggingface_hub import snapshot_download as fetch
    from transformers import PreTrainedModel

    def transformer(cls: Any, path: Any, *_: Any, config: Any = None, **kwargs: Any) -> Any:
        sub = kwargs.get("subfolder") or ""
        config = config or cls.config_class.from_pretrained(
            path, subfolder=sub, revision=kwargs.get("revision", "main")
        )
        dtype = _precision(kwargs) or config.dtype or torch.float32
        with place():
            model = cls._from_config(config, dtype=dtype)
        single = (model._keep_in_fp32_modules or ()) if dtype == torch.float16 else ()
        return finished(path, kwargs, model, [*single, *(model._keep_in_fp32_modules_strict or ())])

    def diffuser(cls: Any, path: Any, **kwargs: Any) -> Any:
        sub = kwargs.get("subfolder") or ""
        config = cls.load_config(path, subfolder=sub or None, revision=kwargs.get("revision"))
        with place(), _default(_precision(kwargs) or torch.float32):
            model = cls.from_config(config)
        single = cls._keep_in_fp32_modules or ()
        return finished(path, kwargs, model, [single] if isinstance(single, str) else single)

    def finished(path: Any, kwargs: dict[str, Any], model: Any, single: Sequence[str]) -> Any:
        for name, weight in model.named_parameters():
            if set(single) & set(name.split(".")):
                weight.data = weight.data.float()
        built(f"{path}/{kwargs.get('subfolder') or ''}".rstrip("/"), model.eval())
        return (model, {"missing_keys": []}) if kwargs.get("output_loading_info") else model

    def download(_cls: Any, name: str, **kwargs: Any) -> str:
        known = {"cache_dir", "revision", "token", "local_files_only", "force_download"}
        chosen: dict[str, Any] = {key: value for key, value in kwargs.items() if key in known}
        return str(fetch(name, ignore_patterns=list(WEIGHTS), **chosen))

    changes: tuple[tuple[Any, str, Callable[..., Any]], ...] = (
        (PreTrainedModel, "from_pretrained", transformer),
        (ModelMixin, "from_pretrained", diffuser),
        (DiffusionPipeline, "download", download),
    )
    with ExitStack() as stack:
        for owner, name, ours in changes:
            stack.enter_context(replaced(owner, name, classmethod(ours)))
        yield


def _precision(kwargs: dict[str, Any]) -> Any:
    found = kwargs.get("dtype") or kwargs.get("torch_dtype")  # diffusers passes the old name to its own models
    return found if isinstance(found, torch.dtype) else None


@contextmanager
def _default(dtype: torch.dtype) -> Iterator[None]:
    own = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(own)
