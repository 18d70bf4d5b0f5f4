"""What `dp run` prints once the models are loaded: where each of them computes, and how."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from dualproc import registry
from dualproc.kit.devices import describe_device, pick_device
from dualproc.protocols import Judge, MemoryOptions

if TYPE_CHECKING:
    from dualproc.engine import Engine
    from dualproc.spec import PluginRef


def loaded_models(engine: Engine) -> list[str]:
    """One line for the generator and for each judge and referee: device, its GPU and memory, precision, settings."""
    spec, evaluators = engine.spec, engine.evaluators
    rows = [("generator", _name(spec.generator), list(_settings("generators", spec.generator)))]
    for role, refs, judge in (("judge", spec.judges, evaluators.judge), ("referee", spec.referees, evaluators.referee)):
        for (_, ref), one in zip(refs, _members(judge), strict=True):
            rows.append((role, _name(ref), [*_settings("judges", ref), *_reading(one)]))
    width = max(len(name) for _, name, _ in rows)
    return [f"  {role:9} {name:{width}}  {', '.join(settings)}".rstrip() for role, name, settings in rows]


def _name(ref: PluginRef) -> str:
    """The plugin, and the model if the spec names one."""
    return " ".join(map(str, filter(None, (ref.type, ref.params.get("model")))))


def _members(judge: Judge | None) -> Sequence[Judge]:
    """The judges that answer as one."""
    from dualproc.engine.ensemble import Ensemble

    if isinstance(judge, Ensemble):
        return judge.judges
    return [] if judge is None else [judge]


def _settings(kind: str, ref: PluginRef) -> Iterator[str]:
    """Device, precision and memory options of a plugin, as far as it has parameters for them."""
    options = MemoryOptions.of(registry.load(kind, ref.type).params(ref.params))
    if "device" in options.offered:
        yield describe_device(pick_device(options.device))
    yield from filter(None, (options.dtype, options.quantize))
    if options.attention:
        yield f"{options.attention} attention"
    switches = {"offload": options.offload, "checkpointing": options.checkpointing}
    yield from (name for name, on in switches.items() if on)


def _reading(judge: Judge) -> list[str]:
    reading: str = getattr(judge, "reading", "")  # optional, see the protocol
    return [reading] if reading else []
