"""Which switches of a spec make it fit into a device's memory."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dualproc import registry
from dualproc.errors import DualprocError
from dualproc.spec import PluginRef, TaskSpec, spec_from_dict

from .plan import Observed, Plan, dry_run

TINY_VAES = {
    "FluxPipeline": "madebyollin/taef1",
    "StableDiffusion3Pipeline": "madebyollin/taesd3",
    "StableDiffusionPipeline": "madebyollin/taesd",
    "StableDiffusionXLPipeline": "madebyollin/taesdxl",
}
"""Small autoencoders for pipelines, for the generator's reward_vae."""
TRIES = 4
"""Combinations that are estimated to fit are checked by a dry run; after so many it is given up."""
LEAST = 0.005
"""Switches that save less than this share of what is too much are not combined."""

Values = Mapping[str, Any]
"""What is changed in a spec, by dotted key."""


@dataclass(frozen=True)
class Switch:
    """One thing that saves memory, and what it costs."""

    values: Values
    price: int
    """The higher, the worse for the result; checkpointing costs time only."""
    scales: bool = False
    """Whether it makes all activations smaller, instead of those of one model."""

    @property
    def flags(self) -> str:
        """The same for the command line."""
        return " ".join(f"--set {key}={_word(value)}" for key, value in self.values.items())


@dataclass(frozen=True)
class Trial:
    """A switch alone, or several at once, and what a dry run says of it; no plan if it could not be tried."""

    switches: tuple[Switch, ...]
    plan: Plan | None = None
    problem: str = ""

    @property
    def flags(self) -> str:
        """All that has to be set."""
        return " ".join(switch.flags for switch in self.switches)


@dataclass
class Search:
    """What was tried to make a spec fit."""

    alone: list[Trial] = field(default_factory=list)
    together: Trial | None = None
    """The cheapest combination that fits, as far as was tried; also a single switch."""


def fit(
    spec: TaskSpec,
    plan: Plan,
    limit: float,
    *,
    gpu: bool,
    known: dict[str, Observed] | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Search:
    """Look for the cheapest switches that bring every device's peak below `limit` bytes; `known` as in `dry_run`."""
    search = Search()
    known = {} if known is None else known
    checked = 0

    def attempt(switches: Sequence[Switch]) -> Trial:
        trial = Trial(tuple(switches))
        progress(f"trying {trial.flags}")
        try:
            changed = changed_spec(spec, {k: v for switch in switches for k, v in switch.values.items()})
            return Trial(trial.switches, plan=dry_run(changed, gpu=gpu, known=known))
        except DualprocError as error:
            return Trial(trial.switches, problem=error.message)

    groups = list(switches_of(spec, plan, gpu=gpu))
    search.alone = [attempt([switch]) for group in groups for switch in group]
    alone = {trial.flags: trial.plan for trial in search.alone if trial.plan is not None}
    useful = {flags for flags, other in alone.items() if _helps(plan, other, limit)}
    choices = [[None, *(switch for switch in group if switch.flags in useful)] for group in groups]
    combinations = [[switch for switch in some if switch] for some in itertools.product(*choices)]
    possible = [some for some in combinations if some and not _clash(some)]
    for some in sorted(possible, key=lambda some: (_price(some), len(some))):
        if _estimate(plan, some, alone) > limit or checked == TRIES:
            continue
        trial = attempt(some) if len(some) > 1 else Trial(tuple(some), alone[some[0].flags])
        checked += 1
        if trial.plan is not None and trial.plan.peak <= limit:
            search.together = trial
            break
    return search


def _helps(before: Plan, after: Plan, limit: float) -> bool:
    """Whether less is taken of any device that is asked for too much, in a step or while loading."""
    pairs = [(now, after.memory[device]) for device, now in before.devices.items()]
    sizes = [each for now, then in pairs for each in ((now.teaching, then.teaching), (now.loading, then.loading))]
    return any(now > limit and then < now * (1 - LEAST) for now, then in sizes)


def _clash(switches: Sequence[Switch]) -> bool:
    """Whether a model would be both offloaded and quantised, which plugins refuse."""
    keys = [key for switch in switches for key in switch.values if key.endswith((".offload", ".quantize"))]
    return len(keys) > len({key.partition(".")[0] for key in keys})


def _price(switches: Sequence[Switch]) -> int:
    return sum(switch.price for switch in switches)


def switches_of(spec: TaskSpec, plan: Plan, *, gpu: bool) -> Iterator[list[Switch]]:
    """The switches that the spec's plugins have, in groups of which one at most is used."""
    models: list[tuple[str, str, Any]] = [("generator", "generators", spec.generator)]
    models += [(name, "judges", ref) for name, ref in (("judge", spec.judge), ("referee", spec.referee)) if ref]
    for name, kind, ref in models:
        if not isinstance(ref, PluginRef):
            continue  # one of several judges cannot be named by --set
        params = registry.load(kind, ref.type).params(ref.params)
        taught = name != "referee"
        # Without checkpointing, the backward pass would keep all copies of weights that are kept in main memory.
        needed = {f"{name}.checkpointing": True} if taught and hasattr(params, "checkpointing") else {}
        lighter = [Switch(needed, 1)] if needed and not params.checkpointing else []
        if getattr(params, "offload", None) is False and not getattr(params, "quantize", None) and gpu:
            lighter.append(Switch({**needed, f"{name}.offload": True}, 3 if taught else 1))
        if lighter:
            yield lighter
        if hasattr(params, "reward_vae") and params.reward_vae is None and plan.pipeline in TINY_VAES:
            yield [Switch({f"{name}.reward_vae": TINY_VAES[plan.pipeline]}, 2)]
        if hasattr(params, "quantize") and params.quantize is None and not getattr(params, "offload", False):
            prices = (4, 6) if taught else (2, 3)
            yield [Switch({f"{name}.quantize": bits}, p) for bits, p in zip(("8bit", "4bit"), prices, strict=True)]
    batch = spec.train.batch
    smaller = [size for size in (batch // 2, 1) if 0 < size < batch]
    if smaller:
        yield [
            Switch({"train.batch": size}, price, True)
            for size, price in zip(dict.fromkeys(smaller), (3, 5), strict=False)
        ]
    params = registry.load("generators", spec.generator.type).params(spec.generator.params)
    sides = {f"generator.{side}": getattr(params, side, None) or 0 for side in ("height", "width")}
    sizes: dict[tuple[int, ...], int] = {}
    for share, price in ((0.75, 8), (0.5, 12)):
        if min(sides.values()) * share >= 32:
            sizes.setdefault(tuple(int(side * share) // 32 * 32 for side in sides.values()), price)
    if sizes:
        yield [Switch(dict(zip(sides, size, strict=True)), price, True) for size, price in sizes.items()]


def changed_spec(spec: TaskSpec, values: Values) -> TaskSpec:
    """The spec with some values changed. Raises SpecError if it then makes no sense."""
    data = spec.model_dump()
    for key, value in values.items():
        inner = data
        *path, last = key.split(".")
        for name in path:
            inner = inner[name]
        inner[last] = value
    return spec_from_dict(data)


def _estimate(plan: Plan, switches: Sequence[Switch], alone: Mapping[str, Plan]) -> float:
    """The peak with several switches, from what each does alone: what models save adds up, scales multiply."""

    def one(device: str) -> float:
        base = plan.memory[device]
        fixed, moving, factor = base.weights + base.lora, float(base.activations + base.temporaries), 1.0
        loading = float(base.loading)
        for switch in switches:
            other = alone[switch.flags].memory[device]
            fixed -= base.weights - other.weights
            loading -= base.loading - other.loading
            left = other.activations + other.temporaries
            if switch.scales:
                factor *= left / max(1, base.activations + base.temporaries)
            else:
                moving -= base.activations + base.temporaries - left
        return max(fixed + max(0.0, moving) * factor, loading)

    return max(map(one, plan.devices))


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
