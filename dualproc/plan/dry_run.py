"""The memory, operations and time that a spec's training takes, from a dry run of the engine.

`dry_run` builds the engine of a spec with models without weights (see `meta_tensors`) and runs one training step. There
is no formula for any model family. What depends on kernels is unknown: workspaces and fragmentation.
"""

from __future__ import annotations

import json
import weakref
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from dualproc import registry, resolve
from dualproc.engine import Engine
from dualproc.errors import DualprocError
from dualproc.kit.blocks import recomputed_blocks
from dualproc.kit.patching import replaced
from dualproc.protocols import MemoryOptions
from dualproc.spec import PluginRef, QuestionSpec, TaskSpec
from dualproc.types import Sample

from .ledger import MAIN, Ledger

if TYPE_CHECKING:
    from torch import nn

QUANTIZED = {"8bit": 1.0, "4bit": 0.5 + 4 / 64}
"""Bytes per weight of a linear layer; for 4 bits, with one float32 scale for every 64 weights."""


@dataclass(frozen=True)
class Part:
    """One model, or one component of a model."""

    role: str
    """`generator`, `judge`, `referee`; a second judge is `judge 2`."""
    name: str
    """Its folder, or its name within the model."""
    kind: str
    """Its class."""
    parameters: int
    precision: str
    bytes: int
    device: str
    stays: bool = True
    """False if it is released before the first training step."""
    linear: int = field(default=0, repr=False)
    """Bytes of its linear layers, which can be quantised; 0 if its plugin does not quantise them."""
    largest: int = field(default=0, repr=False)
    """Bytes of the largest of these layers, which is unpacked while it is used."""
    block: int = field(default=0, repr=False)
    """If it is offloaded, the bytes of its largest repeated block."""

    def quantized(self, kind: str | None) -> Part:
        """The same part with its linear layers in fewer bits."""
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
    """Weights, gradients, AdamW's two moments, and the average of `train.ema`."""
    activations: int
    """What the forward pass keeps for the backward pass."""
    temporaries: int
    """What else is alive at the peak: logits, gradients, a recomputed block."""
    loading: int
    """The peak while models are loaded and prompts are encoded."""
    evaluating: int = 0
    """The peak while held-out images are generated and judged, `evaluation.batch` at a time."""

    @property
    def training(self) -> int:
        """The peak in a training step."""
        return self.weights + self.lora + self.activations + self.temporaries

    @property
    def peak(self) -> int:
        """The peak at any time."""
        return max(self.training, self.loading, self.evaluating)


@dataclass(frozen=True)
class Plan:
    """The result of a dry run."""

    parts: tuple[Part, ...]
    lora_parameters: int
    memory: Mapping[str, Memory]
    """By device."""
    operations: Mapping[str, int]
    """Floating-point operations of a training step, by precision."""
    moved: int
    """Bytes that a training step copies from main memory."""
    pipeline: str
    """The class of the generator's pipeline."""
    notes: tuple[str, ...]
    """What the plan leaves out."""

    @property
    def devices(self) -> Mapping[str, Memory]:
        """Without main memory, where offloaded weights are kept."""
        return {place: memory for place, memory in self.memory.items() if place != MAIN}

    @property
    def peak(self) -> int:
        """The largest peak of any device."""
        return max(memory.peak for memory in self.devices.values())


@dataclass(frozen=True)
class Role:
    """What a model is for, and how its weights are stored."""

    name: str
    device: str
    quantize: str | None
    offload: bool


@dataclass(frozen=True)
class Observed:
    """A dry run in full precision. Sizes are in bytes, by device."""

    parts: tuple[Part, ...]
    lora: int
    average: int
    """The average of `train.ema`."""
    lora_parameters: int
    resident: Mapping[str, int]
    """Alive before the step, the LoRA's weights included."""
    encoding: Mapping[str, int]
    """The peak until the prompts are encoded: the generator, with its text encoders."""
    loading: Mapping[str, int]
    """The peak after that, while the judges are loaded."""
    kept: Mapping[str, int]
    """Alive when the backward pass begins."""
    highest: Mapping[str, int]
    """The peak of the step."""
    evaluating: Mapping[str, int]
    """The peak of a batch of the evaluation."""
    operations: Mapping[str, int]
    moved: int
    pipeline: str


def dry_run(spec: TaskSpec, *, gpu: bool, known: dict[str, Observed] | None = None) -> Plan:
    """Build the engine of `spec` without weights, and run one training step.

    `gpu`: whether the device `auto` is a GPU. Results are stored in `known` and reused: specs that differ in
    quantisation alone need one dry run. Raises SpecError and PluginError as the engine does, and DualprocError if a
    plugin does something that needs data.
    """
    resolve.check_plugins(spec)
    roles = list(_roles(spec, gpu=gpu))
    whole = _for_dry_run(spec)
    # Sorted: a parameter that was set, then reset for the dry run, may be at another place in the spec.
    key = json.dumps([whole.model_dump(mode="json"), [role.device for role in roles]], sort_keys=True)
    found = (known or {}).get(key) or _observe(whole, roles)
    if known is not None:
        known[key] = found
    return _plan(found, roles)


def _observe(spec: TaskSpec, roles: Sequence[Role]) -> Observed:
    from .meta_tensors import without_weights

    coming = iter(roles)
    current = roles[0]
    encoding: dict[str, int] = {}
    built: list[tuple[weakref.ref[nn.Module], list[Part]]] = []

    def note(name: str, model: nn.Module) -> None:
        built.append((weakref.ref(model), list(_parts(current, name, model))))
        if current.offload:  # only the blocks' weights stay in main memory
            inside = {id(weight) for block in recomputed_blocks(model) for weight in block.parameters()}
            for weight in model.parameters():
                if id(weight) not in inside:
                    ledger.move(weight)

    def build(kind: str, ref: PluginRef) -> Any:
        """A live plugin, after telling the ledger which model is built, and for which device."""
        nonlocal current
        if kind == "judges" and not encoding:
            encoding.update({device: account.peak for device, account in ledger.accounts.items()})
            ledger.restart()
        if kind not in ("generators", "judges"):
            return resolve.build(kind, ref)
        current = next(coming)
        ledger.device, ledger.offloading = current.device, current.offload
        try:
            return resolve.build(kind, ref)
        finally:  # what is made between models, and the LoRA after them, belongs to the generator
            current = roles[0]
            ledger.device, ledger.offloading = current.device, False

    try:
        with without_weights(note) as ledger:
            engine = Engine(spec, build=build)
            if not all(weight.is_meta for weight in engine.generator.adapter_module.parameters()):
                kind = spec.generator.type
                raise DualprocError(f"{kind} cannot be planned: it does not load its model with `from_pretrained`")
            return _one_step(engine, ledger, built, encoding)
    except DualprocError:
        raise
    except Exception as error:  # a third-party plugin may do anything with the missing data
        raise DualprocError(
            f"{spec.name} cannot be planned: {type(error).__name__}: {error}",
            hint="a plugin needs data, which a dry run does not have; `dp run` may still work",
        ) from error


def _roles(spec: TaskSpec, *, gpu: bool) -> Iterator[Role]:
    """Generator, judges and referees, in the order in which the engine builds them."""
    named = [("generator", "generators", spec.generator)]
    for role, refs in (("judge", spec.judges), ("referee", spec.referees)):
        named += [(f"{role} {n}" if n > 1 else role, "judges", ref) for n, (_, ref) in enumerate(refs, start=1)]
    for role, kind, ref in named:
        options = MemoryOptions.of(registry.load(kind, ref.type).params(ref.params))
        # A Mac's GPU, which `auto` finds too, computes in main memory.
        first = {"auto": "cuda:0" if gpu else "cpu", "mps": "cpu", "cuda": "cuda:0", "xpu": "xpu:0"}
        yield Role(role, first.get(options.device, options.device), options.quantize, options.offload)


def _for_dry_run(spec: TaskSpec) -> TaskSpec:
    """The spec on the CPU and in full precision, without scorers, as in the training step that takes the most memory.

    That one has only the longest training prompt, the longest wording of each question, and every anchor.
    """

    def plain(kind: str, ref: Any) -> Any:
        if isinstance(ref, tuple):
            return tuple(plain(kind, each) for each in ref)
        offered = MemoryOptions.of(registry.load(kind, ref.type).params(ref.params)).offered
        changes = {name: value for name, value in (("device", "cpu"), ("quantize", None)) if name in offered}
        return type(ref).model_validate({**ref.model_dump(), **changes})

    def longest_wording(question: QuestionSpec) -> QuestionSpec:
        return question.model_copy(update={"template": max(question.wordings, key=len), "paraphrases": ()})

    texts = [prompt.text for prompt in spec.prompts.train_prompts()]
    longest = spec.prompts.train[texts.index(max(texts, key=len))]
    changes = {
        "generator": plain("generators", spec.generator),
        "judge": plain("judges", spec.judge),
        "referee": plain("judges", spec.referee) if spec.referee else None,
        "prompts": spec.prompts.model_copy(update={"train": (longest,), "eval": spec.prompts.eval[:1]}),
        "question": tuple(map(longest_wording, spec.questions)),
        "anchor": tuple(ref.model_copy(update={"share": 1.0}) for ref in spec.anchors) or None,
        "scorers": (),
    }
    return spec.model_copy(update=changes)


def _parts(role: Role, name: str, model: nn.Module) -> Iterator[Part]:
    """A model as one part, or as the models that it consists of and what connects them."""
    seen: set[int] = set()
    for inner, module in _models_in(name.rstrip("/").rpartition("/")[2], model):
        weights = {id(w): w for w in module.parameters() if id(w) not in seen}
        seen |= set(weights)
        widths = Counter[str]()
        for weight in weights.values():
            widths[str(weight.dtype).removeprefix("torch.")] += weight.numel() * weight.element_size()
        linear = _linear_bytes(module) if "head" not in inner else []  # bitsandbytes does not quantise heads
        if weights:
            yield Part(
                role.name, inner, type(module).__name__, sum(w.numel() for w in weights.values()),
                widths.most_common(1)[0][0], widths.total(), MAIN if role.offload else role.device, linear=sum(linear),
                largest=max(linear, default=0), block=_largest_block(module) if role.offload else 0,
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


def _largest_block(module: nn.Module) -> int:
    blocks = [[w.numel() * w.element_size() for w in block.parameters()] for block in recomputed_blocks(module)]
    return max(map(sum, blocks), default=0)


def _one_step(
    engine: Engine,
    ledger: Ledger,
    built: Sequence[tuple[weakref.ref[nn.Module], list[Part]]],
    encoding: Mapping[str, int],
) -> Observed:
    """Run one training step and a batch of the evaluation, and read the ledger before and after."""
    from transformers import PreTrainedModel

    parts: list[Part] = []
    for module, made_of in built:
        model = module()
        # Released models are text encoders; what is alive and neither the backbone nor a text model is a VAE.
        can = model is None or model is engine.generator.adapter_module or isinstance(model, PreTrainedModel)
        parts += [replace(part, stays=model is not None, linear=part.linear if can else 0) for part in made_of]
        del model
    resident = {device: account.live for device, account in ledger.accounts.items()}
    loading = {device: account.peak for device, account in ledger.accounts.items()}
    ledger.restart()
    samples: list[Sample] = []
    sample = engine.generator.sample

    def recorded(*args: Any, **kwargs: Any) -> Sample:
        samples.append(sample(*args, **kwargs))
        return samples[-1]

    with replaced(engine.generator, "sample", recorded):
        engine.step()
    kept = {device: account.kept for device, account in ledger.accounts.items()}
    highest = {device: account.peak for device, account in ledger.accounts.items()}
    operations = {str(dtype).removeprefix("torch."): count for dtype, count in ledger.operations.items()}
    moved = ledger.moved
    engine.optimiser.zero_grad(set_to_none=True)
    ledger.restart()
    _evaluation_batch(engine, samples[0])
    return Observed(
        parts=tuple(parts),
        lora=sum(weight.numel() * weight.element_size() for weight in engine.weights),
        average=sum(value.numel() * value.element_size() for value in engine.average.values),
        lora_parameters=sum(weight.numel() for weight in engine.weights),
        resident=resident,
        encoding=encoding,
        loading=loading,
        kept=kept,
        highest=highest,
        evaluating={device: account.peak for device, account in ledger.accounts.items()},
        operations=operations,
        moved=moved,
        pipeline=type(engine.generator.pipeline()).__name__,
    )


def _evaluation_batch(engine: Engine, sample: Sample) -> None:
    """Denoise and judge `evaluation.batch` images like those of `sample`. Few are decoded at a time, as in training."""
    import torch

    count = engine.spec.evaluation.batch
    latents, images = (each.detach()[[0] * count] for each in (sample.latents, sample.images))
    prompts = engine.prompts[:1] * count
    with torch.no_grad():
        engine.generator.denoise(latents, 0.5, [prompt.text for prompt in prompts], range(count))
        for judge in filter(None, (engine.judge, engine.evaluators.referee)):
            judge.answer_log_likelihoods(engine.judge_view(images), engine.questions(prompts))


AHEAD = 2
"""Copies of offloaded blocks that a GPU keeps besides those in use: the next one, and the last one until it is done."""


def _plan(found: Observed, roles: Sequence[Role]) -> Plan:
    """The plan for quantised models, from what was observed in full precision."""
    bits = {role.name: role.quantize for role in roles}
    parts = tuple(part.quantized(bits[part.role]) for part in found.parts)
    memory = {}
    for device, kept in found.kept.items():
        mine = [(old.bytes - new.bytes, new) for old, new in zip(found.parts, parts, strict=True)]
        mine = [(less, part) for less, part in mine if part.device == device]
        places = {role.name: role.device for role in roles}
        ahead = AHEAD * max((part.block for part in parts if places[part.role] == device and part.stays), default=0)
        unpacked = max((part.largest for _, part in mine if part.stays), default=0)
        lora, average = (found.lora, found.average) if device == roles[0].device else (0, 0)
        resident = found.resident.get(device, 0)
        first = found.encoding.get(device, 0) - sum(less for less, part in mine if part.role == roles[0].name)
        later = found.loading.get(device, 0) - sum(less for less, part in mine if part.stays)
        memory[device] = Memory(
            weights=resident - lora - sum(less for less, part in mine if part.stays),
            lora=4 * lora + average,
            activations=kept - resident,
            temporaries=found.highest[device] - kept + unpacked + ahead,
            loading=max(first, later),
            evaluating=found.evaluating.get(device, 0)
            - sum(less for less, part in mine if part.stays)
            + unpacked
            + ahead,
        )
    silent = [role.name for role in roles if role.name not in {part.role for part in parts}]
    notes = [f"{name}: not loaded with `from_pretrained`; its memory is not in the plan" for name in silent]
    order = [role.name for role in roles]
    return Plan(
        parts=tuple(sorted(parts, key=lambda part: (order.index(part.role), -part.bytes))),
        lora_parameters=found.lora_parameters,
        memory=memory,
        operations=found.operations,
        moved=found.moved,
        pipeline=found.pipeline,
        notes=tuple(notes),
    )
