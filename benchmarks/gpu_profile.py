"""The time of a training step on a GPU: its profile, its modules alone, and compiled blocks."""

from __future__ import annotations

import json
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from gpu_machine import ROOT, Machine, Report, median
from gpu_real import same_step, shared

from dualproc import Engine
from dualproc.kit.adapters import lora_off
from dualproc.kit.blocks import compile_blocks, repeated_blocks
from dualproc.kit.devices import without_cudnn_attention
from dualproc.kit.patching import replaced

WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy")
"""Calls of the CUDA runtime in which the program waits for the GPU."""
OVERHEAD = 1.05
"""Required: the engine's time is at most this multiple of the time of its modules alone."""
STEP = 3
"""The number of the training step that is repeated."""


def profile(machine: Machine, report: Report) -> None:
    """Profile a step: what the GPU does, where the program waits for it, and the engine's overhead over its modules."""
    engine = shared(machine, report)
    step = same_step(engine, STEP)
    parts = bare(engine, STEP)
    ways = {"engine": step, **parts, "bare": lambda: [run() for run in parts.values()]}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(5):
        for name, run in ways.items():
            seconds[name] += machine.timed(run, times=1)
    medians = {name: median(taken[1:]) for name, taken in seconds.items()}
    ratio = medians["engine"] / medians["bare"]
    report.note(seconds=medians, engine_seconds=medians["engine"], bare_seconds=medians["bare"], engine_by_bare=ratio)
    if machine.full:
        report.want(ratio <= OVERHEAD, f"the engine takes at most {OVERHEAD} times as long as its modules")
    engine.optimiser.zero_grad(set_to_none=True)
    report.note(**traced(machine, step, medians["engine"]))
    report.note(waiting_places=waits(machine, step))


def bare(engine: Engine, number: int) -> dict[str, Callable[[], None]]:
    """Forward and backward pass of each module of a step alone, on the inputs that it gets in the step."""
    generator: Any = engine.generator
    judge: Any = engine.judge
    backbone, vae = generator.adapter_module, generator.pipe.vae
    recorded: dict[str, list[tuple[Any, ...]]] = {"backbone": [], "vae": [], "judge": []}

    def note(name: str) -> Callable[..., None]:
        def hook(module: Any, args: Any, kwargs: Any) -> None:
            recorded[name].append((without_graph(args), without_graph(kwargs), torch.is_grad_enabled(), is_off(module)))

        return hook

    hooks = [
        backbone.register_forward_pre_hook(note("backbone"), with_kwargs=True),
        judge.model.register_forward_pre_hook(note("judge"), with_kwargs=True),
    ]
    decode = vae.decode

    def decoded(*args: Any, **kwargs: Any) -> Any:
        note("vae")(vae, args, kwargs)
        return decode(*args, **kwargs)

    try:
        with replaced(vae, "decode", decoded):
            same_step(engine, number)()
    finally:
        for hook in hooks:
            hook.remove()
    calls = {"backbone": backbone, "vae": decode, "judge": judge.model}

    def replay(name: str) -> Callable[[], None]:
        @without_cudnn_attention()  # as in the engine's step
        def run() -> None:
            for args, kwargs, differentiable, off in recorded[name]:
                with torch.set_grad_enabled(differentiable), lora_off(backbone, off) if off else nullcontext():
                    out = calls[name](*args, **kwargs)
                    if differentiable:
                        found = out.logits if name == "judge" else out[0]
                        found.float().square().mean().backward()

        return run

    return {name: replay(name) for name in recorded}


def is_off(module: torch.nn.Module) -> bool:
    """Whether the module's LoRA is off."""
    return next((part._disable_adapters for part in module.modules() if hasattr(part, "_disable_adapters")), False)


def without_graph(value: Any) -> Any:
    """The value with all tensors copied and detached; those that required a gradient start a new graph."""
    if isinstance(value, torch.Tensor):
        return value.detach().clone().requires_grad_(value.requires_grad)
    if isinstance(value, Mapping):
        return {key: without_graph(each) for key, each in value.items()}
    return type(value)(map(without_graph, value)) if type(value) in (tuple, list) else value


def traced(machine: Machine, step: Callable[[], Any], usual: float, *, steps: int = 2) -> dict[str, Any]:
    """Measurements of torch's profiler on some steps; `usual` is the time of a step without it, in seconds."""
    activity = torch.profiler.ProfilerActivity
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "trace.json")
        with torch.profiler.profile(activities=[activity.CUDA if machine.cuda else activity.CPU]) as profiler:
            (wall,) = machine.timed(lambda: [step() for _ in range(steps)], times=1)
        profiler.export_chrome_trace(str(file))
        events = [event for event in json.loads(file.read_text())["traceEvents"] if event.get("ph") == "X"]
    kinds = ("kernel", "gpu_memcpy", "gpu_memset") if machine.cuda else ("cpu_op",)
    work = [event for event in events if event.get("cat") in kinds]
    calls = Counter(event["name"] for event in events if event.get("cat") in ("cuda_runtime", "cuda_driver"))
    copies = Counter(event["name"] for event in work if event["cat"] == "gpu_memcpy")
    busy, gaps = busy_and_gaps([(event["ts"], event["ts"] + event["dur"]) for event in work])
    costs: Counter[str] = Counter()
    for event in work:
        costs[event["name"]] += event["dur"]
    times = Counter(event["name"] for event in work)
    long = [gap for gap in gaps if gap > 20]
    return {
        "gpu_busy_seconds_a_step": busy / 1e6 / steps, "busy_share": busy / 1e6 / steps / usual,
        "busy_share_while_profiled": busy / 1e6 / wall, "kernels_a_step": len(work) / steps,
        "gaps_over_20us_a_step": len(long) / steps, "seconds_in_them_a_step": sum(long) / 1e6 / steps,
        "longest_gaps_ms": [gap / 1e3 for gap in sorted(gaps)[:-6:-1]],
        "waits_a_step": sum(calls[name] for name in WAITS) / steps,
        "waiting_calls_a_step": {name: calls[name] / steps for name in WAITS if calls[name]},
        "launches_a_step": sum(count for name, count in calls.items() if "Launch" in name) / steps,
        "copies_a_step": {name: count / steps for name, count in copies.items()},
        "costliest": [
            {"kernel": name[:120], "ms_a_step": cost / 1e3 / steps, "times_a_step": times[name] / steps}
            for name, cost in costs.most_common(12)
        ],
    }  # fmt: skip


def busy_and_gaps(spans: Sequence[tuple[float, float]]) -> tuple[float, list[float]]:
    """The total time in which at least one span is active, and the gaps between them."""
    busy, gaps, end = 0.0, list[float](), None
    for start, stop in sorted(spans):
        if end is not None and start > end:
            gaps.append(start - end)
        busy += max(0.0, stop - (start if end is None else max(start, end)))
        end = stop if end is None else max(end, stop)
    return busy, gaps


def waits(machine: Machine, step: Callable[[], Any]) -> list[str]:
    """The lines at which a step waits for the GPU, by torch's own warnings, most frequent first; [] without a GPU."""
    if machine.traffic is not None:
        machine.traffic.waits.clear()
        step()
        return [f"{count} x {place}" for place, count in machine.traffic.waits.most_common(20)]
    if not machine.cuda:
        return []
    places: Counter[str] = Counter()

    def show(message: Any, *_: Any, **__: Any) -> None:
        if "synchroniz" in str(message):
            places[place_in_code()] += 1

    with warnings.catch_warnings(), replaced(warnings, "showwarning", show):
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return [f"{count} x {place}" for place, count in places.most_common(20)]


def place_in_code() -> str:
    """The innermost lines outside torch, and the innermost line of dualproc."""
    frames = [
        f"{frame.filename.split('site-packages/')[-1].removeprefix(f'{ROOT}/')}:{frame.lineno}"
        for frame in reversed(traceback.extract_stack())
        if "/torch/" not in frame.filename and not frame.filename.endswith(("gpu_profile.py", "/warnings.py"))
    ]
    ours = [place for place in frames if place.startswith("dualproc/")]
    return " < ".join(dict.fromkeys([*frames[:2], *ours[:1]]))


@contextmanager
def still(engine: Engine) -> Iterator[None]:
    """Within, training steps do not change the LoRA."""
    rates = [group["lr"] for group in engine.optimiser.param_groups]
    for group in engine.optimiser.param_groups:
        group["lr"] = 0.0
    try:
        yield
    finally:
        for group, rate in zip(engine.optimiser.param_groups, rates, strict=True):
            group["lr"] = rate


def compiled(machine: Machine, report: Report) -> None:
    """Compile the blocks of backbone and judge: compilation time, time of a step after it, change of the gradient."""
    engine = shared(machine, report)
    judge: Any = engine.judge
    step = same_step(engine, STEP)

    def gradient() -> torch.Tensor:
        step()
        return torch.cat([weight.grad.flatten() for weight in engine.weights if weight.grad is not None]).float()

    with still(engine):
        before = gradient()
        report.note(seconds_before=median(machine.timed(step, times=3, warm=1)))
        models = (engine.generator.adapter_module, judge.model)
        blocks = [block for model in models for block in repeated_blocks(model)]
        torch._dynamo.config.recompile_limit = 32
        torch._dynamo.utils.counters.clear()
        for model in models:
            compile_blocks(model, backend="inductor" if machine.cuda else "eager")
        try:
            first = machine.timed(step, times=2)
            report.note(blocks=len(blocks), classes=sorted({type(block).__name__ for block in blocks}))
            report.note(compile_seconds=sum(first), seconds_after=median(machine.timed(step, times=5, warm=1)))
            after = gradient()
            counted = torch._dynamo.utils.counters
            report.note(graphs=counted["stats"]["unique_graphs"], graph_breaks=sum(counted["graph_break"].values()))
            report.note(graph_break_reasons=[key[:200] for key in list(counted["graph_break"])[:8]])
        finally:
            for block in blocks:
                block._compiled_call_impl = None
            torch._dynamo.reset()
    report.note(gradient_differs=((after - before).norm() / before.norm()).item())
