"""Parameters of a plugin that loads a model: which one, how it is stored, and how it computes."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from .devices import Device

CLASHES = {
    "quantize": "quantised weights must stay on the GPU",
    "compile": "compiled blocks cannot exchange their weights",
}
"""What cannot be set together with `offload`, and why."""


class LoadedParams(BaseModel):
    """What the parameters of all plugins that load a model have in common."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    model: str = Field(description="Hub id, or a folder written by `save_pretrained`.")
    revision: str | None = Field(
        None, description="Commit, tag or branch of the hub repository; its main branch if unset."
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="Precision of the frozen weights.")
    device: Device = "auto"

    @property
    def source(self) -> dict[str, str]:
        """The arguments of `from_pretrained` that select the files."""
        return {} if self.revision is None else {"revision": self.revision}


class ModelParams(LoadedParams):
    """Base class of `Params` for plugins that load a model of transformers or diffusers."""

    variant: str | None = Field(None, description="Variant of the weight files, such as fp16; none if unset.")
    attention: Literal["sdpa", "flash"] = Field(
        "sdpa", description="Attention by torch, or by the package flash-attn (GPU and half precision only)."
    )
    compile: bool = Field(
        False, description="Compile the model's blocks with torch.compile: minutes at the start, faster training steps."
    )
    quantize: Literal["8bit", "4bit"] | None = Field(
        None, description="Load frozen weights in 8 or 4 bits (needs bitsandbytes)."
    )
    checkpointing: bool = Field(
        False,
        description="Recompute activations in the backward pass instead of keeping them: slower, less memory.",
    )
    offload: bool = Field(
        False,
        description="Keep the weights of blocks in main memory; copy each block to the device while it is used. Needs"
        " `checkpointing`, or the backward pass keeps all copies; not together with `quantize` or `compile`.",
    )

    @model_validator(mode="after")
    def _can_offload(self) -> ModelParams:
        for name, reason in CLASHES.items():
            if self.offload and getattr(self, name):
                raise ValueError(f"`offload` and `{name}` cannot be set together: {reason}; leave one out")
        return self

    @property
    def source(self) -> dict[str, str]:
        """The arguments of `from_pretrained` that select the files."""
        return {**super().source, **({} if self.variant is None else {"variant": self.variant})}
