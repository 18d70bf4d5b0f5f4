"""Models of strangers: their weights are data, and nothing that comes with them is run."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dualproc.errors import DualprocError, DualprocWarning, PluginError
from dualproc.wording import listed

from .patching import replaced

if TYPE_CHECKING:
    import torch

SAFE: Mapping[str, Any] = {"use_safetensors": True, "trust_remote_code": False}
"""Arguments for every `from_pretrained`: no pickle, which can hold any code, and no code of the model's own."""


@contextmanager
def loading(what: str, model: str, kind: str) -> Iterator[None]:
    """Within, every `from_pretrained` of transformers and diffusers refuses code and gaps, of all parts of a pipeline.

    Code of the model's own is refused also where transformers would otherwise ask at the terminal. Gaps are weights
    that are in no file: both libraries draw them at random, and only log it. Raises PluginError for them, and for
    whatever else goes wrong: why `what` (the generator, the judge) cannot be loaded from `model`, which should be a
    `kind`, and what to do.
    """
    from diffusers import ModelMixin
    from transformers import PreTrainedModel, dynamic_module_utils

    with ExitStack() as stack:
        # diffusers does not pass `trust_remote_code` on to processors
        stack.enter_context(replaced(dynamic_module_utils, "TIME_OUT_REMOTE_CODE", 0))
        for library in (PreTrainedModel, ModelMixin):
            whole = partial(_whole, vars(library)["from_pretrained"].__func__, what, model)
            stack.enter_context(replaced(library, "from_pretrained", classmethod(whole)))
        try:
            yield
        except DualprocError:
            raise
        except Exception as error:  # a damaged folder makes the libraries raise anything
            raise _refusal(what, model, error, kind) from error


def _whole(load: Callable[..., Any], what: str, model: str, cls: Any, *args: Any, **kwargs: Any) -> Any:
    """What `load`, a library's own `from_pretrained`, returns, if all weights were in the files."""
    asked = kwargs.pop("output_loading_info", False)
    loaded, report = load(cls, *args, output_loading_info=True, **kwargs)
    if missing := sorted(report["missing_keys"]):
        raise PluginError(
            f"cannot load {what} {model!r}: weights of its {type(loaded).__name__} are missing in its files: "
            + listed(missing),
            hint="they would be drawn at random; download it again, or see whether the installed diffusers and "
            "transformers are as new as the model asks for",
        )
    return (loaded, report) if asked else loaded


def quantization(kind: str, dtype: torch.dtype, library: Literal["diffusers", "transformers"]) -> Any:
    """The library's own configuration of bitsandbytes, for `kind`: `8bit` or `4bit`.

    Raises PluginError without the package, or without a GPU where the library needs one.
    """
    import torch

    if importlib.util.find_spec("bitsandbytes") is None:
        raise PluginError(
            f"quantize: {kind} needs the package bitsandbytes, which is not installed",
            hint="pip install 'dualproc[quant]'",
        )
    if library == "diffusers" and not torch.cuda.is_available():
        raise PluginError(
            f"quantize: {kind} needs a CUDA GPU: diffusers loads bitsandbytes weights nowhere else",
            hint="leave quantize out on this machine",
        )
    import diffusers
    import transformers

    config: Any = {"diffusers": diffusers, "transformers": transformers}[library].BitsAndBytesConfig
    if kind == "8bit":
        return config(load_in_8bit=True)
    return config(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)


def _refusal(what: str, model: str, error: Exception, kind: str) -> PluginError:
    """Why `what` (the generator, the judge) cannot be loaded from `model`, which should be a `kind`, and what to do."""
    lines = str(error).strip().splitlines()
    reason = lines[0][:500] if lines else type(error).__name__
    if "custom code" in str(error) or "trust_remote_code" in str(error):
        reason = "it brings code of its own, and dualproc never runs code that comes with a model"
        hint = "use a model whose classes the installed diffusers and transformers have themselves"
    elif "safetensors" in str(error):
        hint = "its weights have to be whole .safetensors files; .bin and .ckpt can hold code and are never read"
    elif model.startswith(("/", "./", "../", "~")) and not Path(model).is_dir():
        reason = "there is no such folder"
        hint = f"give the folder of {kind}, or a model id of the hub"
    elif _unreachable(error):
        reason = "it is neither a folder here nor among the downloaded models, and the hub cannot be reached"
        hint = "give a folder that holds it, or run once with a network: what is fetched is kept"
    elif "out of memory" in str(error):
        hint = "`dp plan` says what a model takes, and what makes it fit"
    else:
        hint = f"give the model id of {kind} that can be reached, or a folder that holds one"
    return PluginError(f"cannot load {what} {model!r}: {reason}", hint=hint)


def warn_of_unknown(owner: str, tokenizer: Any, texts: Sequence[str]) -> None:
    """Warn of words that a tokenizer can only call unknown; never where it spells out whatever it is given."""
    unknown = getattr(tokenizer, "unk_token_id", None)
    if unknown in (None, tokenizer.eos_token_id):  # CLIP's has no token of its own for it
        return
    words = dict.fromkeys(word for text in texts for word in text.split())
    strange = [word for word in words if unknown in tokenizer(word, add_special_tokens=False)["input_ids"]]
    if strange:
        warnings.warn(f"{owner} has no word for: {', '.join(strange)}", DualprocWarning, stacklevel=3)


def _unreachable(error: BaseException | None) -> bool:
    """Whether a download failed for want of a network (or by HF_HUB_OFFLINE); libraries tell it as a missing file."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    while error is not None and not isinstance(error, LocalEntryNotFoundError):
        error = error.__cause__ or error.__context__
    return error is not None
