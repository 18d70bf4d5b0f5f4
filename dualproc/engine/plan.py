"""What a spec's teaching will take, found out by a dry run of the engine: memory, operations, and so time.

`dry_run` builds the engine of a spec with hollow models (see `hollow`) and lets it take one step, so that there is no
formula for any family of models. What depends on kernels is not known: workspaces, fragmentation, and what
bitsandbytes keeps for 8 bits besides the weights.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from dualproc import registry, resolve
from dualproc.errors import DualprocError
from dualproc.patching import replaced
from dualproc.spec import PluginRef, TaskSpec

from .loop import Engine
from .meter import MAIN, Meter

if TYPE_CHECKING:
    from torch import nn

QUANTIZED = {"8bit": 1.0, "4bit": 0.5 + 4 / 64}
"""Bytes for each weight of a linear layer; for 4 bits, a float32 scale for every 64 of them besides."""


@dataclass(frozen=True)
class Part:
    """One model, or one of those that a model is made of."""

    role: str
    """`generator`, `judge`, `referee`; a second judge is `judge 2`."""
    name: str
    """The folder it lies in, or its name within the model."""
    kind: str
    """Its class."""
    parameters: int
    precision: str
    bytes: int
    device: str
    stays: bool = True
    """False if it is given up before the first step."""
    linear: int = field(default=0, repr=False)
    """Bytes of its linear layers, which can be quantised; 0 if its plugin does not."""
    largest: int = field(default=0, repr=False)
    """Bytes of the largest of them, which is unpacked when it is used."""

    def quantized(self, kind: str | None) -> Part:
        """The same with its linear layers in fewer bits."""
        if kind is None or not self.linear:
            return replace(self, largest=0)
        width = {"float32": 4}.get(self.precision, 2)
        less = round(self.linear * (1 - QUANTIZED[kind] / width))
        return replace(self, bytes=self.bytes - less, precision=f"{kind}, {self.precision}")


@dataclass(frozen=True)
class Memory:
    """Bytes on one device."""

    weights: int
    lora: int
    """Weights, gradients and AdamW's two moments."""
    activations: int
    """What the forward pass keeps for the backward pass."""
    temporaries: int
    """What there is besides at the highest moment: logits, gradients, a block that is computed again."""
    loading: int
    """The most while models are loaded and prompts encoded."""

    @property
    def teaching(self) -> int:
        """The most in a step."""
        return self.weights + self.lora + self.activations + self.temporaries

    @property
    def peak(self) -> int:
        """The most at any time."""
        return max(self.teaching, self.loading)


@dataclass(frozen=True)
class Plan:
    """What a dry run found."""

    parts: tuple[Part, ...]
    lora_parameters: int
    memory: Mapping[str, Memory]
    """By device."""
    operations: Mapping[str, int]
    """Floating-point operations of a step, by precision."""
    pipeline: str
    """The class of the generator's pipeline."""
    notes: tuple[str, ...]
    """What is not in it."""

    @property
    def devices(self) -> Mapping[str, Memory]:
        """Without main memory, where weights may be kept for another device."""
        return {place: memory for place, memory in self.memory.items() if place != MAIN}

    @property
    def peak(self) -> int:
        """The most on any one device."""
        return max(memory.peak for memory in self.devices.values())


@dataclass(frozen=True)
class Role:
    """What a model is there for, and how its plugin was told to hold it."""

    name: str
    device: str
    quantize: str | None
    offload: bool


@dataclass(frozen=True)
class Observed:
    """A dry run in full precision; all in bytes and by device but for the counts."""

    parts: tuple[Part, ...]
    lora: int
    lora_parameters: int
    resident: Mapping[str, int]
    """What there is before the step, the LoRA's weights included."""
    encoding: Mapping[str, int]
    """At most until the prompts are encoded: the generator, with its text encoders."""
    loading: Mapping[str, int]
    """At most after that, while the judges are loaded."""
    kept: Mapping[str, int]
    """What there is when the backward pass begins."""
    highest: Mapping[str, int]
    operations: Mapping[str, int]
    pipeline: str


def dry_run(spec: TaskSpec, *, gpu: bool, known: dict[str, Observed] | None = None) -> Plan:
    """Build the engine of `spec` without weights, and take one step.

    `gpu` says that the device `auto` is one. What was observed is put into `known`, and taken from there: specs that
    differ in quantising alone need one dry run. Raises SpecError and PluginError as the engine does, and DualprocError
    if a plugin does something that cannot be done without data.
    """
    resolve.check_plugins(spec)
    roles = list(_roles(spec, gpu=gpu))
    whole = _for_dry_run(spec)
    key = f"{whole.model_dump_json()} {[role.device for role in roles]}"
    found = (known or {}).get(key) or _observe(whole, roles)
    if known is not None:
        known[key] = found
    return _plan(found, roles)


def _observe(spec: TaskSpec, roles: Sequence[Role]) -> Observed:
    from .hollow import hollow

    coming, build = iter(roles), resolve.build
    current = roles[0]
    encoding: dict[str, int] = {}
    built: list[tuple[weakref.ref[nn.Module], list[Part]]] = []

    def note(name: str, model: nn.Module) -> None:
        built.append((weakref.ref(model), list(_parts(current, name, model))))

    def announced(kind: str, ref: PluginRef) -> Any:
        nonlocal current
        if kind == "judges" and not encoding:
            encoding.update({device: account.peak for device, account in meter.accounts.items()})
            meter.restart()
        if kind not in ("generators", "judges"):
            return build(kind, ref)
        current = next(coming)
        meter.device, meter.offloading = current.device, current.offload
        try:
            return build(kind, ref)
        finally:  # what comes between models, and the LoRA after them, is the generator's
            current = roles[0]
            meter.device, meter.offloading = current.device, False

    try:
        with hollow(note) as meter, replaced(resolve, "build", announced):
            engine = Engine(spec)
            if not all(weight.is_meta for weight in engine.generator.adapter_module.parameters()):
                raise DualprocError(f"{spec.generator.type} cannot be planned: it loads its model in a way of its own")
            return _one_step(engine, meter, built, encoding)
    except DualprocError:
        raise
    except Exception as error:  # whatever a stranger's plugin does with data that are not there
        raise DualprocError(
            f"{spec.name} cannot be planned: {type(error).__name__}: {error}",
            hint="a plugin does something that needs data; `dp run` may work nevertheless",
        ) from error


def _roles(spec: TaskSpec, *, gpu: bool) -> Iterator[Role]:
    """Generator, judges and referees in the order in which the engine builds them."""
    named = [("generator", "generators", spec.generator)]
    for role, refs in (("judge", spec.judges), ("referee", spec.referees)):
        named += [(f"{role} {n}" if n > 1 else role, "judges", ref) for n, (_, ref) in enumerate(refs, start=1)]
    for role, kind, ref in named:
        params = registry.load(kind, ref.type).params(ref.params)
        device = getattr(params, "device", "auto")
        # A Mac's GPU, which `auto` finds too, computes in main memory.
        first = {"auto": "cuda:0" if gpu else "cpu", "mps": "cpu", "cuda": "cuda:0", "xpu": "xpu:0"}
        device = first.get(device, device)
        yield Role(role, device, getattr(params, "quantize", None), getattr(params, "offload", False))


def _for_dry_run(spec: TaskSpec) -> TaskSpec:
    """The spec on the CPU and in full precision, with no scorers and one prompt to train on, the longest."""

    def plain(kind: str, ref: Any) -> Any:
        if isinstance(ref, tuple):
            return tuple(plain(kind, each) for each in ref)
        fields = registry.load(kind, ref.type).cls.Params.model_fields
        changes = {name: value for name, value in (("device", "cpu"), ("quantize", None)) if name in fields}
        return type(ref).model_validate({**ref.model_dump(), **changes})

    texts = [prompt.text for prompt in spec.prompts.train_prompts()]
    longest = spec.prompts.train[texts.index(max(texts, key=len))]
    changes = {
        "generator": plain("generators", spec.generator),
        "judge": plain("judges", spec.judge),
        "referee": plain("judges", spec.referee) if spec.referee else None,
        "prompts": spec.prompts.model_copy(update={"train": (longest,), "eval": spec.prompts.eval[:1]}),
        "scorers": (),
    }
    return spec.model_copy(update=changes)


def _parts(role: Role, name: str, model: nn.Module) -> Iterator[Part]:
    """A model as one part, or as those models that it is made of, and what lies between them."""
    seen: set[int] = set()
    for inner, module in _models_in(name.rstrip("/").rpartition("/")[2], model):
        weights = {id(w): w for w in module.parameters() if id(w) not in seen}
        seen |= set(weights)
        widths = Counter[str]()
        for weight in weights.values():
            widths[str(weight.dtype).removeprefix("torch.")] += weight.numel() * weight.element_size()
        linear = _linear_bytes(module) if "head" not in inner else []  # bitsandbytes leaves heads as they are
        if weights:
            yield Part(
                role.name, inner, type(module).__name__, sum(w.numel() for w in weights.values()),
                widths.most_common(1)[0][0], widths.total(), MAIN if role.offload else role.device, linear=sum(linear),
                largest=max(linear, default=0),
            )  # fmt: skip


def _models_in(name: str, model: nn.Module) -> list[tuple[str, nn.Module]]:
    from transformers import PreTrainedModel

    children = list(model.named_children())
    models = [(inner, child) for inner, child in children if isinstance(child, PreTrainedModel)]
    if len(models) > 1:
        return children
    if len(models) == 1 and len(found := _models_in(*models[0])) > 1:
        return found + [each for each in children if each not in models]
    return [(name, model)]


def _linear_bytes(module: nn.Module) -> list[int]:
    import torch

    layers = [part for part in module.modules() if isinstance(part, torch.nn.Linear)]
    return [layer.weight.numel() * layer.weight.element_size() for layer in layers]


def _one_step(
    engine: Engine,
    meter: Meter,
    built: Sequence[tuple[weakref.ref[nn.Module], list[Part]]],
    encoding: Mapping[str, int],
) -> Observed:
    """Take it, and read the meter before and after."""
    from transformers import PreTrainedModel

    parts: list[Part] = []
    for module, made_of in built:
        model = module()
        # Gone models are text encoders; what is there and neither the backbone nor a text model is a VAE.
        can = model is None or model is engine.generator.adapter_module or isinstance(model, PreTrainedModel)
        parts += [replace(part, stays=model is not None, linear=part.linear if can else 0) for part in made_of]
        del model
    resident = {device: account.live for device, account in meter.accounts.items()}
    loading = {device: account.peak for device, account in meter.accounts.items()}
    meter.restart()
    engine.step()
    return Observed(
        parts=tuple(parts),
        lora=sum(weight.numel() * weight.element_size() for weight in engine.weights),
        lora_parameters=sum(weight.numel() for weight in engine.weights),
        resident=resident,
        encoding=encoding,
        loading=loading,
        kept={device: account.kept for device, account in meter.accounts.items()},
        highest={device: account.peak for device, account in meter.accounts.items()},
        operations={str(dtype).removeprefix("torch."): count for dtype, count in meter.operations.items()},
        pipeline=type(engine.generator.pipeline()).__name__,
    )


def _plan(found: Observed, roles: Sequence[Role]) -> Plan:
    """What was observed in full precision, for models that are quantised as they are told to be."""
    bits = {role.name: role.quantize for role in roles}
    parts = tuple(part.quantized(bits[part.role]) for part in found.parts)
    memory = {}
    for device, kept in found.kept.items():
        mine = [(old.bytes - new.bytes, new) for old, new in zip(found.parts, parts, strict=True)]
        mine = [(less, part) for less, part in mine if part.device == device]
        lora = found.lora if device == roles[0].device else 0
        resident = found.resident.get(device, 0)
        first = found.encoding.get(device, 0) - sum(less for less, part in mine if part.role == roles[0].name)
        later = found.loading.get(device, 0) - sum(less for less, part in mine if part.stays)
        memory[device] = Memory(
            weights=resident - lora - sum(less for less, part in mine if part.stays),
            lora=4 * lora,
            activations=kept - resident,
            temporaries=found.highest[device] - kept + max((part.largest for _, part in mine if part.stays), default=0),
            loading=max(first, later),
        )
    silent = [role.name for role in roles if role.name not in {part.role for part in parts}]
    order = [role.name for role in roles]
    return Plan(
        parts=tuple(sorted(parts, key=lambda part: (order.index(part.role), -part.bytes))),
        lora_parameters=found.lora_parameters,
        memory=memory,
        operations=found.operations,
        pipeline=found.pipeline,
        notes=tuple(f"{name}: loads its model in a way of its own; its memory is not in the plan" for name in silent),
    )
