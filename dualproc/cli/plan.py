"""`dp plan`: estimate the memory and time of training a spec, and find settings that need less, without weights."""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dualproc.errors import DualprocError
from dualproc.wording import duration, number, percent, plural

from .arguments import AsJson, File, FirstVariant, Overrides
from .memory import share
from .output import print_progress, print_table, print_warning, say, stdout_for_the_result

if TYPE_CHECKING:
    from dualproc.plan.dry_run import Memory, Observed, Plan
    from dualproc.plan.switches import Search, Trial
    from dualproc.spec import TaskSpec

GB = 1e9
"""A GPU of 24 GB has 24 * 1024^3 bytes; the difference of 7 % is a margin for the driver and for fragmentation."""


def plan(
    file: File,
    overrides: Overrides = None,
    variant: FirstVariant = None,
    memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Check against this much memory, for example 24GB, and suggest settings that fit.",
            show_default="the memory of --device",
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The GPU to plan for, such as h100 or 4090.", show_default="this machine"),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Try every memory-saving setting alone, also after some that fit are found.")
    ] = False,
    processes: Annotated[
        int,
        typer.Option(metavar="N", min=1, help="Plan for one of N processes that share the batch, see docs/scale.md."),
    ] = 1,
    as_json: AsJson = False,
) -> None:
    """Estimate the memory and time of training a spec.

    No weights are loaded: the models are built from their configurations, and one training step is simulated on tensor
    shapes. From a model hub, only configurations and tokenizers are downloaded.

    With --memory or --device, the command checks whether training fits into that memory. If it does not, it tries
    memory-saving settings, those that cost least first, and ends at the first --set options that fit. Each try
    simulates another training step, unless only the quantisation differs. --all tries every setting.

    \b
    dp plan line_weight
    dp plan horizon --set generator.type=flux-schnell --set judge.type=qwen2.5-vl --device h100
    dp plan line_weight --processes 4
    dp plan horizon --set generator.type=sdxl-turbo --set judge.type=qwen2.5-vl --memory 24GB
    """
    from dualproc.resolve import published, read_checked, toy_mix

    with stdout_for_the_result(as_json):
        limit = None if memory is None else _bytes(memory)
        spec = read_checked(file, overrides=overrides or (), variant=variant).each()[0].require()
        if mixed := toy_mix(spec):
            print_warning(mixed)
        elif settings := published(spec):
            print_progress(settings)
        if processes > 1:
            spec = share(spec, processes)
            images = plural(spec.train.batch, "image")
            print_progress(f"each of {processes} processes has its own models, and {images} of the batch")
        from .progress import quiet

        quiet()
        import torch

        from dualproc.plan import switches
        from dualproc.plan.dry_run import dry_run
        from dualproc.plan.hardware import COMMON, gpu_named, seconds

        card = gpu_named(device) if device else None
        limit = limit or (card.memory * GB if card else None)
        gpu = limit is not None or torch.cuda.is_available()
        print_progress("building the models without weights, and simulating a training step")
        observed: dict[str, Observed] = {}
        started = time.perf_counter()
        found = dry_run(spec, gpu=gpu, known=observed)
        search = None
        if limit is not None and found.peak > limit:
            taken = duration(time.perf_counter() - started)
            print_progress(f"does not fit; searching for settings that do, most of which take another {taken}")
            search = switches.search(
                spec,
                found,
                limit,
                gpu=gpu,
                card=card or COMMON,
                known=observed,
                everything=everything,
                progress=print_progress,
            )
        # The measured speed of this machine's CPU does not apply to a GPU.
        measures = card or not gpu or torch.cuda.is_available()
        estimate = seconds(found.operations, card, moved=found.moved) if measures else None
    if as_json:
        say(json.dumps(_as_data(spec, found, estimate, limit, search), indent=1))
        return
    _print_parts(spec, found)
    basis = f"in the data sheet of {device}" if card else "of matrix products, measured on this machine"
    _print_time(found, estimate, basis)
    for note in found.notes:
        print_warning(note)
    if limit is not None:
        _print_limit(found, limit, search)


def _bytes(text: str) -> float:
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(GB|MB|GiB|MiB|G|M)?\s*", text, re.IGNORECASE)
    if match is None or float(match[1]) == 0:
        raise DualprocError(f"expected a size such as 24GB, got `--memory {text}`", hint="units: GB, MB, GiB, MiB")
    units = {"gb": 1e9, "g": 1e9, "mb": 1e6, "m": 1e6, "gib": 1024**3, "mib": 1024**2}
    return float(match[1]) * units[(match[2] or "GB").lower()]


def _size(count: float) -> str:
    return f"{number(count / GB)} GB" if abs(count) >= 1e8 else f"{number(count / 1e6)} MB"


def _count(count: float) -> str:
    return f"{number(count / 1e9)} B" if count >= 1e9 else f"{number(count / 1e6)} M"


def _print_parts(spec: TaskSpec, found: Plan) -> None:
    from dualproc.plan.ledger import MAIN

    batch = f"{plural(spec.train.batch, 'image')}, {plural(len(spec.questions), 'question')} per training step"
    say(f"{spec.label}: {batch}", bold=True)
    rows = [
        (
            part.role, part.name, part.kind, _count(part.parameters), part.precision, _size(part.bytes),
            part.device if part.stays else f"{part.device}, until prompts are encoded",
        )
        for part in found.parts
    ]  # fmt: skip
    home, lora = next((place, memory.lora) for place, memory in found.memory.items() if memory.lora)
    numbers = (_count(found.lora_parameters), "float32", _size(lora), home)
    rows.append(("generator", "LoRA", "with optimiser state", *numbers))
    print_table(("role", "part", "class", "parameters", "precision", "memory", "device"), rows)
    for place, memory in found.memory.items():
        say()
        print_table((place if place == MAIN else f"memory on {place}", ""), _memory_rows(memory))


def _memory_rows(memory: Memory) -> list[tuple[str, str]]:
    return [
        ("weights", _size(memory.weights)),
        ("LoRA, its gradients and optimiser state", _size(memory.lora)),
        ("activations for the backward pass", _size(memory.activations)),
        ("temporary tensors at the peak", _size(memory.temporaries)),
        ("peak in a training step", _size(memory.training)),
        ("peak while loading", _size(memory.loading)),
        ("peak in the evaluation", _size(memory.evaluating)),
    ]


def _print_time(found: Plan, estimate: float | None, basis: str) -> None:
    from dualproc.plan.hardware import SHARE

    total = f"\none training step: {number(sum(found.operations.values()) / 1e12)} x 10^12 operations"
    if found.moved:
        total += f", {_size(found.moved)} copied from main memory"
    if estimate is None:
        say(f"{total} (for an estimate of the time, add --device)")
        return
    say(f"{total}, about {number(estimate)} seconds (at {percent(SHARE)} of the speed {basis})")


def _print_limit(found: Plan, limit: float, search: Search | None) -> None:
    say()
    if search is None:
        say(f"fits into {_size(limit)}: peak {_size(found.peak)}", fg="green")
        return
    say(f"does not fit into {_size(limit)}: peak {_size(found.peak)}. Settings alone:", fg="yellow")
    headings = ("setting", "peak in a training step", "peak while loading", "in the evaluation")
    print_table(headings, [_trial_row(trial) for trial in search.alone])
    for trial in search.alone:
        if trial.problem:
            print_warning(f"not tried: {trial.flags} ({trial.problem})")
    if search.untried:
        say(f"not tried: {plural(search.untried, 'setting')} that cost more (--all tries every setting)")
    if search.together is None or search.together.plan is None:
        say("\nfound no combination of these settings that fits", fg="red")
        return
    say(f"\nfits with these settings, peak {_size(search.together.plan.peak)}:", fg="green")
    say(f"  {search.together.flags}")
    for note in search.together.plan.notes:
        if note not in found.notes:
            print_warning(note)


def _trial_row(trial: Trial) -> tuple[str, ...]:
    if trial.plan is None:
        return trial.flags, "not tried", "", ""
    memories = trial.plan.devices.values()
    peaks = [[memory.training, memory.loading, memory.evaluating] for memory in memories]
    return trial.flags, *(_size(max(column)) for column in zip(*peaks, strict=True))


def _as_data(spec: TaskSpec, found: Plan, estimate: float | None, limit: float | None, search: Search | None) -> Any:
    """The output of `--json`; sizes in bytes."""
    from dataclasses import asdict

    def memory(plan: Plan) -> dict[str, dict[str, int]]:
        return {name: {**asdict(m), "training": m.training, "peak": m.peak} for name, m in plan.memory.items()}

    def trial(one: Trial) -> dict[str, Any]:
        values = {key: value for switch in one.switches for key, value in switch.values.items()}
        return {"set": values, "memory": memory(one.plan) if one.plan else None, "problem": one.problem or None}

    internal = {"linear", "largest", "block"}
    return {
        "spec": spec.name,
        "variant": spec.variant,
        "parts": [{k: v for k, v in asdict(part).items() if k not in internal} for part in found.parts],
        "lora_parameters": found.lora_parameters,
        "memory": memory(found),
        "operations": dict(found.operations),
        "moved": found.moved,
        "seconds_per_step": estimate,
        "notes": list(found.notes),
        "limit": limit,
        "fits": None if limit is None else search is None,
        "alone": [trial(one) for one in search.alone] if search else [],
        "untried": search.untried if search else 0,
        "together": trial(search.together) if search and search.together else None,
    }
