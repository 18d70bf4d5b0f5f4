"""The model card: README.md with front matter for the Hub."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from dualproc.run.folder import CARD, SAMPLES, SLIDERS, WEIGHTS, RunFolder
from dualproc.run.images import GRID
from dualproc.run.resolved import task
from dualproc.types import Evaluation, Recipe
from dualproc.wording import command, duration, plural

from . import markdown
from .base_model import base_name, hub_id, is_folder
from .base_model import shipped as _shipped
from .summary import alarms, headline, judge_against_measurement, memory_used, summary_rows

_NAMED_BY_THE_HUB = frozenset({"apache-2.0", "cc-by-sa-4.0", "creativeml-openrail-m", "mit", "openrail++"})
"""Licences that the hub has a name for, as far as base models use them; it calls all others `other`."""

_LIMITS = """\
This LoRA was trained for one task by a vision-language model's answers, on few prompts and in few steps. The numbers
above hold for the held-out prompts and seeds in `evaluation.json`, at the resolution of the training; check your own
images before relying on it elsewhere. It inherits the limits and the licence terms of the base model."""


def write_card(run: RunFolder, recipe: Recipe) -> Path:
    """Write the run's README.md from its folder; returns its path.

    `recipe` is the base generator's. Raises RunError if a file of the run is damaged, or the card cannot be written.
    """
    return run.write(CARD, render_card(run, recipe))


def render_card(run: RunFolder, recipe: Recipe) -> str:
    """The text of `write_card`."""
    known = task(run.resolved)
    evaluation = run.read_evaluation()
    prompt = evaluation.prompts[0].text if evaluation is not None and evaluation.prompts else known.name
    sections = [
        _front_matter(recipe),
        f"# {markdown.text(known.name or run.path.name)}",
        f"A LoRA for {markdown.code(base_name(recipe.model))}, trained with dualproc by the answers of a "
        "vision-language model to a question about its images.",
        markdown.text(known.description),
        *(f"> {markdown.text(text)} **{markdown.text(answer)}**" for text, answer in known.questions),
        *_results(evaluation),
        f"![Base and trained images, one above the other]({SAMPLES}/{GRID})" if (run.samples / GRID).exists() else "",
        _usage(_without_local_path(recipe), prompt),
        _sliders(recipe, run.resolved, prompt),
        _training(run),
        f"## The spec\n\n{markdown.block(run.resolved_text, 'yaml')}",
        f"## Limits\n\n{_LIMITS}",
    ]
    return "\n\n".join(filter(None, sections)) + "\n"


def _front_matter(recipe: Recipe) -> str:
    model = hub_id(recipe.model)
    library = "peft" if recipe.peft_module else recipe.library
    base = {"base_model": model, "base_model_relation": "adapter"} if model else {}
    tags = list(dict.fromkeys(["lora", "text-to-image", recipe.library, library, "dualproc"]))
    about = {"library_name": library, "pipeline_tag": "text-to-image", "tags": tags}
    return f"---\n{yaml.safe_dump({**_license(recipe, model), **base, **about}, sort_keys=False)}---"


def _license(recipe: Recipe, model: str | None) -> Mapping[str, Any]:
    """The base model's licence: a LoRA is a derivative of it. Empty if unknown."""
    if recipe.license is None or recipe.license in _NAMED_BY_THE_HUB:
        return {} if recipe.license is None else {"license": recipe.license}
    link = {"license_link": f"https://huggingface.co/{model}"} if model else {}
    return {"license": "other", "license_name": recipe.license, **link}


def _results(evaluation: Evaluation | None) -> list[str]:
    if evaluation is None:
        return ["**Not evaluated yet**: the run is not finished, so the effect of this LoRA is unknown."]
    table = markdown.table(("measured", "base", "trained", ""), summary_rows(evaluation))
    remarks = [f"> **Look closely.** {markdown.text(note)}" for note in alarms(evaluation)]
    sentence, alarming = judge_against_measurement(evaluation)
    if not alarming:
        remarks.append(markdown.text(sentence))
    about = f"{len(evaluation.seeds)} held-out images; base and trained use the same prompts and seeds."
    return ["## What it does", f"{markdown.text(headline(evaluation))}.", table, about, *remarks]


def _training(run: RunFolder) -> str:
    """What the fit took; empty before its end."""
    outcome, gpu = run.read_outcome(), run.environment.get("gpu")
    if outcome is None:
        return ""
    took = f"{plural(outcome.steps, 'training step')} in {duration(outcome.seconds)}"
    used = memory_used(outcome)
    parts = [took + (f" on {markdown.text(str(gpu))}" if gpu else ""), f"peak memory: {used}" if used else ""]
    return f"## What training took\n\n{'; '.join(filter(None, parts))}."


def _without_local_path(recipe: Recipe) -> Recipe:
    """The recipe with a placeholder for the place of a model that is in a folder of this machine."""
    if not is_folder(recipe.model) or _shipped(recipe.model):
        return recipe
    return replace(recipe, model=f"path/to/{base_name(recipe.model)}")


def _usage(recipe: Recipe, prompt: str) -> str:
    if recipe.library != "diffusers":
        usage = markdown.block(command("dp", "generate", "path/to/this/folder", prompt), "sh")
        return f"## Use it\n\n{usage}\n\nNeeds dualproc with the plugin {markdown.text(recipe.library)}."
    inside, part = _shipped(recipe.model), f"pipe.{recipe.peft_module}"
    model = f'str(files("dualproc") / {_quoted(inside)})' if inside else _quoted(recipe.model)
    source = "".join(f", {name}={_quoted(value)}" for name, value in recipe.source.items())
    settings = "".join(f", {name}={value!r}" for name, value in recipe.call.items())
    lines = [
        "from importlib.resources import files" if inside else "",
        "import torch",
        "from diffusers import DiffusionPipeline" + (f", {recipe.scheduler}" if recipe.scheduler else ""),
        "from peft import PeftModel" if recipe.peft_module else "",
        f"\npipe = DiffusionPipeline.from_pretrained({model}{source}, dtype=torch.{recipe.dtype})",
        f"pipe.scheduler = {recipe.scheduler}.from_config(pipe.scheduler.config)" if recipe.scheduler else "",
        f'{part} = PeftModel.from_pretrained({part}, "path/to/this/folder")  # at weight 1.0'
        if recipe.peft_module
        else 'pipe.load_lora_weights("path/to/this/folder")  # at weight 1.0: the trained strength is folded in',
        f"image = pipe(prompt={_quoted(prompt)}{settings}).images[0]",
    ]
    code = markdown.block("\n".join(filter(None, lines)), "python")
    needed = "; only the model files come from dualproc" if inside else ", without dualproc"
    return f"## Use it\n\n{code}\n\nPlain diffusers{needed}.\n\n{_comfyui(recipe.comfyui)}"


def _comfyui(file: str | None) -> str:
    """What is known about loading the LoRA in ComfyUI."""
    if file is None:
        return (
            "ComfyUI: not checked for this family of models. It prints `lora key not loaded` for every part of a LoRA "
            "that it leaves out."
        )
    which = f"`{file}`"
    if file != WEIGHTS:
        which += f", which has the weights of `{WEIGHTS}` under key names that ComfyUI knows"
    return (
        f"ComfyUI: load {which}, at strength 1.0. Checked: ComfyUI has a layer for every key of this family's default "
        "layers. Not checked: images drawn with it."
    )


def _sliders(recipe: Recipe, spec: Mapping[str, Any], prompt: str) -> str:
    """How to use the sliders; empty without any."""
    sliders = spec.get("sliders") or {}
    if not sliders:
        return ""
    centre = "default" if recipe.peft_module else "centre"
    files, weights, places = [(centre, "")], ["1.0"], []
    for name, one in sliders.items():
        low, high = one["from"], one["to"]
        places.append(f"{name} = {(low + high) / 2:g}  # {low:g} to {high:g}")
        places.append(f"u_{name} = 2 * ({name} - {low!r}) / ({high!r} - {low!r}) - 1")
        for power in range(1, one.get("degree", 1) + 1):
            key = name if power == 1 else f"{name}-{power}"
            files.append((key, f"/{SLIDERS}/{key}"))
            weights.append(f"u_{name}" + (f" ** {power}" if power > 1 else ""))
    names, values = ", ".join(_quoted(key) for key, _ in files), ", ".join(weights)
    part, folder = f"pipe.{recipe.peft_module}", "path/to/this/folder"
    if recipe.peft_module:
        lines = [
            *(f'{part}.load_adapter("{folder}{at}", adapter_name={_quoted(key)})' for key, at in files[1:]),
            *places,
            f'{part}.add_weighted_adapter([{names}], [{values}], "at", combination_type="cat")',
            f'{part}.set_adapter("at")',
        ]
    else:
        lines = [
            "pipe.unload_lora_weights()",
            *(f'pipe.load_lora_weights("{folder}{at}", adapter_name={_quoted(key)})' for key, at in files),
            *places,
            f"pipe.set_adapters([{names}], [{values}])",
        ]
    chosen = [word for name, one in sliders.items() for word in ("--at", f"{name}={(one['from'] + one['to']) / 2:g}")]
    generate = command("dp", "generate", folder, prompt, *chosen)
    export = command("dp", "export", folder, *chosen, "--out", "one-value")
    about = "The code above loads only the centre, the LoRA of the middle. Load all of them, and set their weights:"
    code = [about, markdown.block("\n".join(lines), "python")] if recipe.library == "diffusers" else []
    exported = "With dualproc; `dp export` saves one value as one ordinary LoRA, for every tool:"
    return "\n\n".join(["## Sliders", *code, exported, markdown.block(f"{generate}\n{export}", "sh")])


def _quoted(text: str) -> str:
    """A Python string."""
    return json.dumps(text, ensure_ascii=False)
