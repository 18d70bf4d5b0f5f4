"""Load third-party models safely: weights are read as data, and no code that comes with a model is run."""

from __future__ import annotations

import importlib.util
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dualproc.errors import DualprocError, DualprocWarning, PluginError
from dualproc.wording import listed

from .hub import hub_reason
from .model_files import checked_config, refuse_kernels, require_regular_files
from .patching import replaced

if TYPE_CHECKING:
    import torch
    from torch import nn

SAFE_ARGUMENTS: Mapping[str, Any] = {"use_safetensors": True, "trust_remote_code": False}
"""Arguments for every `from_pretrained`: no pickles, which can hold any code, and no code that comes with the model."""


@contextmanager
def safe_loading(what: str, model: str, kind: str, source: Mapping[str, Any] | None = None) -> Iterator[None]:
    """Within, `from_pretrained` of transformers and diffusers refuses custom code and missing weights.

    This covers all components of a pipeline. Custom code is refused without the question that transformers would ask
    at the terminal. Weights that no file contains are refused because both libraries initialise them at random and only
    log it. Pass SAFE_ARGUMENTS to each `from_pretrained` as well.

    Args:
        what: what is loaded, for the message: `the generator`, `the judge`.
        model: its hub id or folder.
        kind: what the model must be, for the message: `a vision-language model`.
        source: the arguments of `from_pretrained` that select the files (`revision`, `variant`), for the message.

    Raises:
        PluginError: anything was raised within, or weights are missing; says why, and what to do.
    """
    from diffusers import ConfigMixin, ModelMixin
    from transformers import PreTrainedConfig, PreTrainedModel, dynamic_module_utils
    from transformers.integrations import hub_kernels

    # Otherwise transformers asks a service of the hub to convert the weights of a model that has no safetensors.
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")
    with ExitStack() as stack:
        # diffusers does not pass `trust_remote_code` on to processors, which would then ask the user.
        stack.enter_context(replaced(dynamic_module_utils, "TIME_OUT_REMOTE_CODE", 0))
        stack.enter_context(replaced(hub_kernels, "get_kernel", partial(refuse_kernels, what, model)))
        for library in (PreTrainedModel, ModelMixin):
            complete = partial(_load_complete, vars(library)["from_pretrained"].__func__, what, model)
            stack.enter_context(replaced(library, "from_pretrained", classmethod(complete)))
        for configuration in (PreTrainedConfig, ConfigMixin):
            read = vars(configuration)["_dict_from_json_file"].__func__
            stack.enter_context(replaced(configuration, "_dict_from_json_file", checked_config(read, what, model)))
        try:
            require_regular_files(what, model)
            yield
        except DualprocError:
            raise
        except Exception as error:  # the libraries may raise anything on a damaged folder
            raise _loading_error(what, model, error, kind, source or {}) from error


def _load_complete(load: Callable[..., Any], what: str, model: str, cls: Any, *args: Any, **kwargs: Any) -> Any:
    """What `load`, a library's own `from_pretrained`, returns; PluginError if weights are in no file."""
    with_report = kwargs.pop("output_loading_info", False)
    loaded, report = load(cls, *args, output_loading_info=True, **kwargs)
    if missing := sorted(report["missing_keys"]):
        raise PluginError(
            f"cannot load {what} {model!r}: its files lack weights of its {type(loaded).__name__}: {listed(missing)}",
            hint="they would be initialised at random; download the model again, or check whether it needs a newer"
            " diffusers or transformers",
        )
    return (loaded, report) if with_report else loaded


def quantization(kind: str, dtype: torch.dtype, library: Literal["diffusers", "transformers"]) -> Any:
    """The bitsandbytes configuration to pass to the library's `from_pretrained` as `quantization_config`.

    Args:
        kind: `8bit`, or `4bit` (NF4).
        dtype: the precision that 4-bit layers compute in.
        library: the library that loads the model.

    Raises:
        PluginError: bitsandbytes is not installed, or diffusers is to load the model and there is no CUDA GPU.
    """
    import torch

    if importlib.util.find_spec("bitsandbytes") is None:
        raise PluginError(
            f"quantize: {kind} needs the package bitsandbytes",
            hint="pip install 'dualproc[quant]'",
        )
    if library == "diffusers" and not torch.cuda.is_available():
        raise PluginError(
            f"quantize: {kind} needs a CUDA GPU for a diffusers model, and this machine has none",
            hint="leave quantize out",
        )
    import diffusers
    import transformers

    config: Any = {"diffusers": diffusers, "transformers": transformers}[library].BitsAndBytesConfig
    if kind == "8bit":
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns of a conversion at every product
        return config(load_in_8bit=True)
    return config(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)


def freeze(module: nn.Module) -> None:
    """Switch off gradients of the weights, and dropout. 8-bit layers become `FrozenLinear8bit`."""
    module.requires_grad_(False).eval()
    for layer in module.modules():
        if type(layer).__name__ == "Linear8bitLt":
            from .eight_bits import FrozenLinear8bit

            layer.__class__ = FrozenLinear8bit


def _loading_error(what: str, model: str, error: Exception, kind: str, source: Mapping[str, Any]) -> PluginError:
    """Says why `what` cannot be loaded from `model`, which must be `kind`, and what to do."""
    lines = str(error).strip().splitlines()
    reason = lines[0][:500] if lines else type(error).__name__
    if "custom code" in str(error) or "trust_remote_code" in str(error):
        reason = "it comes with its own code, and dualproc never runs code that comes with a model"
        hint = "use a model whose classes are part of the installed diffusers and transformers"
    elif model.startswith(("/", "./", "../", "~")) and not Path(model).is_dir():
        reason = "no such folder"
        hint = f"write a folder that holds {kind}, or a hub id"
    elif missing := _missing_packages(error):
        reason = f"its tokenizer needs the {'package' if len(missing) == 1 else 'packages'} {' and '.join(missing)}"
        hint = f"pip install {' '.join(missing)}"
    elif (known := hub_reason(model, error, source)) is not None:
        reason, hint = known
    elif "safetensors" in str(error):
        hint = "its weights must be complete .safetensors files; .bin and .ckpt files can hold code and are never read"
    elif "out of memory" in str(error):
        hint = "`dp plan` shows how much memory a model needs, and suggests settings that need less"
    else:
        hint = f"write the hub id of {kind}, or a folder that holds one"
    return PluginError(f"cannot load {what} {model!r}: {reason}", hint=hint)


def _missing_packages(error: Exception) -> list[str]:
    """The packages that reading a file of sentencepiece needs and that are missing; [] if the error is another one.

    Without them, transformers tries to read the file with tiktoken, and asks for that.
    """
    if not any(name in str(error).lower() for name in ("sentencepiece", "protobuf", "tiktoken")):
        return []
    modules = {"sentencepiece": "sentencepiece", "protobuf": "google.protobuf"}
    return [package for package, module in modules.items() if not _importable(module)]


def _importable(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the package that should hold it is missing
        return False


def warn_about_unknown_words(owner: str, tokenizer: Any, texts: Sequence[str]) -> None:
    """Warn (DualprocWarning) about words in `texts` that a transformers tokenizer maps to its unknown token.

    `owner` begins the warning: `the judge 'x'`. Tokenizers that spell every word out in pieces have no unknown words.
    """
    unknown = getattr(tokenizer, "unk_token_id", None)
    if unknown in (
        None,
        tokenizer.eos_token_id,
    ):  # CLIP's tokenizer spells out every word, and names its end token here
        return
    words = dict.fromkeys(word for text in texts for word in text.split())
    unknown_words = [word for word in words if unknown in tokenizer(word, add_special_tokens=False)["input_ids"]]
    if unknown_words:
        warnings.warn(f"{owner} does not know the words: {', '.join(unknown_words)}", DualprocWarning, stacklevel=3)
