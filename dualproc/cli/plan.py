"""`dp plan`: what training a spec will take, and what makes it fit, before any weights are loaded."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dualproc.errors import DualprocError
from dualproc.wording import plural

from .arguments import AsJson, File, Overrides, Variant
from .output import print_table, print_warning

if TYPE_CHECKING:
    from dualproc.plan.dry_run import Memory, Observed, Plan
    from dualproc.plan.switches import Search, Trial
    from dualproc.spec import TaskSpec

GB = 1e9
"""A card of 24 GB has 24 * 1024^3 bytes: the 7 % more are left to the driver and to fragmentation."""


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command()(plan)


def plan(
    file: File,
    overrides: Overrides = None,
    variant: Variant = None,
    memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Does it fit into so much, such as 24GB? If not: what would.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(metavar="NAME", help="A GPU to plan for, such as h100 or 4090; else this machine.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what memory and time a spec's training will take.

    No weights are loaded: the models are built from their configurations, without memory, and the engine takes one step
    on shapes alone. Of models of a hub, only configurations and tokenizers are fetched. Of a spec with variants, the
    first is planned unless --variant names one.

    With --memory, or the memory of the --device, it is said whether the spec fits, and if not, which --set flags make
    it fit: each is tried alone, then the cheapest combination.

    \b
    dp plan specs/line_weight.yaml
    dp plan specs/horizon.yaml --set generator.type=flux-schnell --set judge.type=qwen2.5-vl --device h100
    dp plan specs/horizon.yaml --set generator.type=sdxl-turbo --set judge.type=qwen2.5-vl --memory 24GB
    """
    from dualproc.resolve import read_checked

    limit = None if memory is None else _bytes(memory)
    spec = read_checked(file, overrides=overrides or (), variant=variant).each()[0].require()
    from .progress import quiet

    quiet()
    import torch

    from dualproc.plan import switches
    from dualproc.plan.dry_run import dry_run
    from dualproc.plan.hardware import gpu_named, seconds

    card = gpu_named(device) if device else None
    limit = limit or (card.memory * GB if card else None)
    gpu = limit is not None or torch.cuda.is_available()
    _tell("building the models without their weights, and taking a step")
    observed: dict[str, Observed] = {}
    found = dry_run(spec, gpu=gpu, known=observed)
    search = None
    if limit is not None and found.peak > limit:
        search = switches.search(spec, found, limit, gpu=gpu, known=observed, progress=_tell)
    # This machine's own speed says nothing of a GPU that it does not have.
    guess = seconds(found.operations, card) if card or not gpu or torch.cuda.is_available() else None
    if as_json:
        typer.echo(json.dumps(_plain(spec, found, guess, limit, search), indent=1))
        return
    _print_parts(spec, found)
    _print_time(found, guess, f"the data sheet of {device}" if card else "matrix products, measured on this machine")
    for note in found.notes:
        print_warning(note)
    if limit is not None:
        _print_fit(found, limit, search)


def _tell(message: str) -> None:
    typer.secho(f"{message} ...", dim=True, err=True)


def _bytes(text: str) -> float:
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(GB|MB|GiB|MiB|G|M)?\s*", text, re.IGNORECASE)
    if match is None or float(match[1]) == 0:
        raise DualprocError(f"`--memory {text}` is no size", hint="write it as --memory 24GB")
    units = {"gb": 1e9, "g": 1e9, "mb": 1e6, "m": 1e6, "gib": 1024**3, "mib": 1024**2}
    return float(match[1]) * units[(match[2] or "GB").lower()]


def _size(count: float) -> str:
    from dualproc.report.numeric import number

    return f"{number(count / GB)} GB" if abs(count) >= 1e8 else f"{number(count / 1e6)} MB"


def _count(count: float) -> str:
    from dualproc.report.numeric import number

    return f"{number(count / 1e9)} B" if count >= 1e9 else f"{number(count / 1e6)} M"


def _print_parts(spec: TaskSpec, found: Plan) -> None:
    asked = f"{plural(spec.train.batch, 'image')}, {plural(len(spec.questions), 'question')} per training step"
    typer.secho(f"{spec.label}: {asked}", bold=True)
    rows = [
        (
            part.role, part.name, part.kind, _count(part.parameters), part.precision, _size(part.bytes),
            part.device if part.stays else f"{part.device}, until the prompts are encoded",
        )
        for part in found.parts
    ]  # fmt: skip
    home, lora = next((place, memory.lora) for place, memory in found.memory.items() if memory.lora)
    rows.append(("generator", "LoRA", "and AdamW", _count(found.lora_parameters), "float32", _size(lora), home))
    print_table(("", "part", "class", "parameters", "precision", "memory", "device"), rows)
    for place, memory in found.memory.items():
        typer.echo()
        print_table((f"memory on {place}", ""), _memory_rows(memory))


def _memory_rows(memory: Memory) -> list[tuple[str, str]]:
    return [
        ("weights", _size(memory.weights)),
        ("LoRA, its gradients and moments", _size(memory.lora)),
        ("activations, kept for the backward pass", _size(memory.activations)),
        ("temporaries at the highest moment", _size(memory.temporaries)),
        ("at most, in a step", _size(memory.training)),
        ("at most, while loading", _size(memory.loading)),
    ]


def _print_time(found: Plan, guess: float | None, basis: str) -> None:
    from dualproc.plan.hardware import SHARE
    from dualproc.report.numeric import number, percent

    total = f"\na step: {number(sum(found.operations.values()) / 1e12)} x 10^12 operations"
    if guess is None:
        typer.echo(f"{total} (with --device, a guess at the time)")
        return
    typer.echo(f"{total}, perhaps {number(guess)} seconds ({percent(SHARE)} of the speed by {basis})")


def _print_fit(found: Plan, limit: float, search: Search | None) -> None:
    typer.echo()
    if search is None:
        typer.secho(f"fits into {_size(limit)}: at most {_size(found.peak)}", fg="green")
        return
    typer.secho(f"does not fit into {_size(limit)}: it takes {_size(found.peak)}. Each alone:", fg="yellow")
    print_table(("switch", "in a step", "while loading"), [_trial_row(trial) for trial in search.alone])
    for trial in search.alone:
        if trial.problem:
            print_warning(f"not tried: {trial.flags} ({trial.problem})")
    if search.together is None or search.together.plan is None:
        typer.secho("\nno combination was found that fits", fg="red")
        return
    typer.secho(f"\nfits, with at most {_size(search.together.plan.peak)}:", fg="green")
    typer.echo(f"  {search.together.flags}")


def _trial_row(trial: Trial) -> tuple[str, str, str]:
    if trial.plan is None:
        return trial.flags, "not tried", ""
    memories = trial.plan.devices.values()
    return trial.flags, _size(max(m.training for m in memories)), _size(max(m.loading for m in memories))


def _plain(spec: TaskSpec, found: Plan, guess: float | None, limit: float | None, search: Search | None) -> Any:
    """Everything as plain data; sizes in bytes."""
    from dataclasses import asdict

    def memory(plan: Plan) -> dict[str, dict[str, int]]:
        return {
            place: {**asdict(each), "training": each.training, "peak": each.peak} for place, each in plan.memory.items()
        }

    def trial(one: Trial) -> dict[str, Any]:
        values = {key: value for switch in one.switches for key, value in switch.values.items()}
        return {"set": values, "memory": memory(one.plan) if one.plan else None, "problem": one.problem or None}

    hidden = {"linear", "largest"}
    return {
        "spec": spec.name,
        "variant": spec.variant,
        "parts": [{k: v for k, v in asdict(part).items() if k not in hidden} for part in found.parts],
        "lora_parameters": found.lora_parameters,
        "memory": memory(found),
        "operations": dict(found.operations),
        "seconds_a_step": guess,
        "notes": list(found.notes),
        "limit": limit,
        "fits": None if limit is None else search is None,
        "alone": [trial(one) for one in search.alone] if search else [],
        "together": trial(search.together) if search and search.together else None,
    }
