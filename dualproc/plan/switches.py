"""Settings of a spec that save memory, and the search for those that make it fit into a device's memory."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dualproc import registry
from dualproc.errors import DualprocError
from dualproc.protocols import MemoryOptions
from dualproc.spec import PluginRef, TaskSpec, spec_from_dict
from dualproc.wording import duration

from .dry_run import Observed, Plan, dry_run
from .hardware import COMMON, Gpu, seconds

TINY_VAES = {
    "FluxPipeline": "madebyollin/taef1",
    "StableDiffusion3Pipeline": "madebyollin/taesd3",
    "StableDiffusionPipeline": "madebyollin/taesd",
    "StableDiffusionXLPipeline": "madebyollin/taesdxl",
}
"""Small autoencoders for the generator's `reward_vae`, by pipeline class."""
TRIES = 4
"""How many combinations that are estimated to fit are checked by a dry run."""
LEAST = 0.005
"""Switches that save less than this share of the memory in use are not combined."""

Values = Mapping[str, Any]
"""Changes to a spec, by dotted key."""


@dataclass(frozen=True)
class Switch:
    """One setting that saves memory, and what it costs."""

    values: Values
    price: int
    """The higher, the worse for result or speed; checkpointing, which only costs time, is cheapest."""
    scales: bool = False
    """Whether it scales all activations, instead of saving those of one model."""
    evaluates: bool = False
    """Whether it lowers the peak in the evaluation alone."""

    @property
    def flags(self) -> str:
        """The flags of the command line that set it."""
        return " ".join(f"--set {key}={_word(value)}" for key, value in self.values.items())


@dataclass(frozen=True)
class Trial:
    """One switch, or several together, and the plan with them; no plan if they could not be tried."""

    switches: tuple[Switch, ...]
    plan: Plan | None = None
    problem: str = ""

    @property
    def flags(self) -> str:
        """The flags of the command line that set them all."""
        return " ".join(switch.flags for switch in self.switches)


@dataclass
class Search:
    """What was tried to make a spec fit into memory."""

    alone: list[Trial] = field(default_factory=list)
    """The switches that were tried, each alone."""
    together: Trial | None = None
    """The cheapest combination that fits; may be a single switch."""
    untried: int = 0
    """How many switches were not tried, because cheaper ones fit."""


def search(
    spec: TaskSpec,
    plan: Plan,
    limit: float,
    *,
    gpu: bool,
    card: Gpu = COMMON,
    known: dict[str, Observed] | None = None,
    everything: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> Search:
    """Search for the cheapest switches that bring every device's peak below `limit` bytes; `known` as in `dry_run`.

    Combinations are tried in the order of their price. A switch is tried alone when the first combination with it comes
    whose weights can fit, and the search ends at the first combination that fits. With `everything`, every switch is
    tried alone first, with the same result. What offloading costs depends on the speed of the `card`.
    """
    known = {} if known is None else known
    times: list[float] = []
    alone: dict[str, Trial] = {}
    useful: dict[str, Plan] = {}

    def attempt(switches: Sequence[Switch]) -> Trial:
        trial, started, before = Trial(tuple(switches)), time.perf_counter(), len(known)
        each = f" (dry run {len(times) + 1}; about {duration(sum(times) / len(times))} each)" if times else ""
        progress(f"trying {trial.flags}{each}")
        try:
            changed = changed_spec(spec, {k: v for switch in switches for k, v in switch.values.items()})
            return Trial(trial.switches, plan=dry_run(changed, gpu=gpu, known=known))
        except DualprocError as error:
            return Trial(trial.switches, problem=error.message)
        finally:
            if len(known) > before:  # else the models of another plan were used again
                times.append(time.perf_counter() - started)

    def helps(switch: Switch) -> bool:
        """Whether a switch saves memory where it is short; tries it alone first."""
        if switch.flags not in alone:
            alone[switch.flags] = trial = attempt([switch])
            if trial.plan is not None and _helps(plan, trial.plan, limit):
                useful[switch.flags] = trial.plan
        return switch.flags in useful

    groups = list(switches_of(spec, plan, gpu=gpu, card=card))
    switches = [switch for group in groups for switch in group]
    if everything:
        for switch in switches:
            helps(switch)
    choices = [[None, *(switch for switch in group if not everything or helps(switch))] for group in groups]
    combinations = [[switch for switch in some if switch] for some in itertools.product(*choices)]
    possible = [some for some in combinations if some and not _clash(some)]
    checked, together = 0, None
    for some in sorted(possible, key=lambda some: (_price(some), len(some))):
        if _least_weights(plan, some) > limit:
            continue
        others = [switch for switch in some if not switch.evaluates]
        if not all(map(helps, others)):
            continue
        if len(others) < len(some) and _evaluating(plan, others, useful) <= limit:
            continue  # it fits without, or would not fit with it either
        if not all(map(helps, some)) or _estimate(plan, some, useful) > limit:
            continue
        trial = attempt(some) if len(some) > 1 else alone[some[0].flags]
        checked += 1
        if trial.plan is not None and trial.plan.peak <= limit:
            together = trial
            break
        if checked == TRIES:
            break
    tried = [alone[switch.flags] for switch in switches if switch.flags in alone]
    return Search(tried, together, len(switches) - len(tried))


def _helps(before: Plan, after: Plan, limit: float) -> bool:
    """Whether the second plan needs less of a device whose limit the first one exceeds."""
    pairs = [(now, after.memory[device]) for device, now in before.devices.items()]
    phases = ("training", "loading", "evaluating")
    sizes = [(getattr(now, phase), getattr(then, phase)) for now, then in pairs for phase in phases]
    return any(now > limit and then < now * (1 - LEAST) for now, then in sizes)


def _clash(switches: Sequence[Switch]) -> bool:
    """Whether a model would be both offloaded and quantised, which plugins refuse."""
    keys = [key for switch in switches for key in switch.values if key.endswith((".offload", ".quantize"))]
    return len(keys) > len({key.partition(".")[0] for key in keys})


def _price(switches: Sequence[Switch]) -> int:
    return sum(switch.price for switch in switches)


def _offload_price(plan: Plan, name: str, card: Gpu) -> int:
    """The price of copying a model's weights in each of its three passes: forward, recomputed, and without LoRA.

    3 if the copies take no longer than the computation: then offloading is cheaper than quantisation, which changes
    the result. It rises with the time of the copies.
    """
    size = sum(part.bytes for part in plan.parts if part.role == name and part.stays)
    computing = seconds(plan.operations, card)
    return 3 + round(4 * max(0.0, seconds({}, card, moved=3 * size) / max(computing, 1e-9) - 1))


def switches_of(spec: TaskSpec, plan: Plan, *, gpu: bool, card: Gpu = COMMON) -> Iterator[list[Switch]]:
    """The switches that the spec's plugins offer, in groups; at most one switch of a group is used."""
    models: list[tuple[str, str, Any]] = [("generator", "generators", spec.generator)]
    models += [(name, "judges", ref) for name, ref in (("judge", spec.judge), ("referee", spec.referee)) if ref]
    for name, kind, ref in models:
        if not isinstance(ref, PluginRef):
            continue  # --set cannot name one of several judges
        options = MemoryOptions.of(registry.load(kind, ref.type).params(ref.params))
        differentiated = name != "referee"
        # Without checkpointing, the backward pass would keep all copies of offloaded weights.
        recompute = {f"{name}.checkpointing": True} if differentiated and "checkpointing" in options.offered else {}
        lighter = [Switch(recompute, 1)] if recompute and not options.checkpointing else []
        if "offload" in options.offered and not options.offload and not options.quantize and gpu:
            price = _offload_price(plan, name, card) if differentiated else 1
            lighter.append(Switch({**recompute, f"{name}.offload": True}, price))
        if lighter:
            yield lighter
        if "reward_vae" in options.offered and options.reward_vae is None and plan.pipeline in TINY_VAES:
            yield [Switch({f"{name}.reward_vae": TINY_VAES[plan.pipeline]}, 2)]
        if "quantize" in options.offered and options.quantize is None and not options.offload:
            prices = (4, 6) if differentiated else (2, 3)
            yield [Switch({f"{name}.quantize": bits}, p) for bits, p in zip(("8bit", "4bit"), prices, strict=True)]
    batch, parts = spec.train.batch, spec.train.accumulate
    if more := dict.fromkeys(count for count in (min(2 * parts, batch), batch) if count > parts):
        # The same gradient; smaller parts use a GPU less well.
        yield [Switch({"train.accumulate": count}, price, True) for count, price in zip(more, (2, 3), strict=False)]
    fewer = [size for size in (4, 1) if size < spec.evaluation.batch]
    if fewer:
        yield [Switch({"evaluation.batch": size}, 1, evaluates=True) for size in fewer]
    options = MemoryOptions.of(registry.load("generators", spec.generator.type).params(spec.generator.params))
    sides = {"generator.height": options.height or 0, "generator.width": options.width or 0}
    sizes: dict[tuple[int, ...], int] = {}
    for share, price in ((0.75, 8), (0.5, 12)):
        if min(sides.values()) * share >= 32:
            sizes.setdefault(tuple(int(side * share) // 32 * 32 for side in sides.values()), price)
    if sizes:
        yield [Switch(dict(zip(sides, size, strict=True)), price, True) for size, price in sizes.items()]


def changed_spec(spec: TaskSpec, values: Values) -> TaskSpec:
    """The spec with some values changed. Raises SpecError if it is then invalid."""
    data = spec.model_dump()
    for key, value in values.items():
        inner = data
        *path, last = key.split(".")
        for name in path:
            inner = inner[name]
        inner[last] = value
    return spec_from_dict(data)


def _least_weights(plan: Plan, switches: Sequence[Switch]) -> float:
    """At least this many bytes of weights stay on some device, whatever else the switches save."""

    def removed(key: str, device: str) -> float:
        role, _, setting = key.partition(".")
        if setting not in ("offload", "quantize", "reward_vae"):
            return 0
        parts = [part for part in plan.parts if part.role == role and part.device == device and part.stays]
        if setting == "reward_vae":
            parts = [part for part in parts if "Autoencoder" in part.kind]
        return sum(part.bytes for part in parts) or math.inf  # models that the plan does not know may be of any size

    keys = [key for switch in switches for key in switch.values]
    return max(
        memory.weights + memory.lora - sum(removed(key, device) for key in keys)
        for device, memory in plan.devices.items()
    )


def _evaluating(plan: Plan, switches: Sequence[Switch], alone: Mapping[str, Plan]) -> float:
    """The peak in the evaluation with several switches, estimated from each alone."""
    return max(
        memory.evaluating
        - sum(memory.evaluating - alone[switch.flags].memory[device].evaluating for switch in switches)
        for device, memory in plan.devices.items()
    )


def _estimate(plan: Plan, switches: Sequence[Switch], alone: Mapping[str, Plan]) -> float:
    """The peak with several switches, estimated from each alone: savings of models add up, scales multiply."""

    def one(device: str) -> float:
        base = plan.memory[device]
        fixed, moving, factor = base.weights + base.lora, float(base.activations + base.temporaries), 1.0
        loading, evaluating = float(base.loading), float(base.evaluating)
        for switch in switches:
            other = alone[switch.flags].memory[device]
            fixed -= base.weights - other.weights
            loading -= base.loading - other.loading
            evaluating -= base.evaluating - other.evaluating
            left = other.activations + other.temporaries
            if switch.scales:
                factor *= left / max(1, base.activations + base.temporaries)
            else:
                moving -= base.activations + base.temporaries - left
        return max(fixed + max(0.0, moving) * factor, loading, evaluating)

    return max(map(one, plan.devices))


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
