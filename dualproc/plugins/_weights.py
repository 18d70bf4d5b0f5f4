"""Models of strangers: their weights are data, and nothing that comes with them is run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dualproc.errors import PluginError

SAFE: Mapping[str, Any] = {"use_safetensors": True, "trust_remote_code": False}
"""Arguments for every `from_pretrained`: no pickle, which can hold any code, and no code of the model's own."""


def refusal(what: str, model: str, error: Exception, kind: str) -> PluginError:
    """Why `what` (the generator, the judge) cannot be loaded from `model`, which should be a `kind`, and what to do."""
    lines = str(error).strip().splitlines()
    reason = lines[0][:500] if lines else type(error).__name__
    if "custom code" in str(error) or "trust_remote_code" in str(error):
        reason = "it brings code of its own, and dualproc never runs code that comes with a model"
        hint = "use a model whose classes the installed diffusers and transformers have themselves"
    elif "safetensors" in str(error):
        hint = "its weights have to be whole .safetensors files; .bin and .ckpt can hold code and are never read"
    elif "out of memory" in str(error):
        hint = "`dp plan` says what a model takes, and what makes it fit"
    else:
        hint = f"give the model id of {kind} that can be reached, or a folder that holds one"
    return PluginError(f"cannot load {what} {model!r}: {reason}", hint=hint)
