"""Time of a training step: the engine, the bare computation, and a direct implementation of the paper.

    python benchmarks/step.py [--times 1] [--steps 12] [--questions 1 3 5] [--spec specs/line_weight.yaml] ...

Three ways to run a training step of the shipped generator, on the same batch and machine. They take turns, so that
other load on the machine affects all of them alike:

* engine: `Engine.step`.
* bare: forward and backward pass of the same modules (backbone, VAE decoder, judge; the backbone once more for the
  anchor) with the same shapes. Everything else, from tokens to the visual prompt, is computed beforehand. The rest of
  the engine's time is its overhead.
* paper: the paper's equations and nothing else: the prompts are encoded in every step, each question takes its own pass
  through processor and judge, and the logits of the whole vocabulary are computed at every position. The paper has no
  anchor, so the engine without its anchor is measured too.

`--times 4` makes backbone and judge four times as wide, with random weights; the overhead that does not grow with the
models is then a smaller share of a step. The script prints medians and their ratios as Markdown, and asserts nothing.
"""

from __future__ import annotations

import argparse
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from transformers import AutoConfig, AutoModelForImageTextToText

import dualproc
from dualproc import Engine, TaskSpec, load_spec
from dualproc.engine.overlay import draw_shift

WEIGHTS = Path(dualproc.__file__).parent / "weights"

QUESTIONS = (
    "Ignoring the line color, does the line weight of the image match the red line overlaid at the bottom?",
    "Is this still a drawing of {subject}?",
    "Does the line weight of the image match the overlaid red line?",
    "Are the outlines of the drawing as thick as the red line?",
    "Is this a cartoon of {subject}?",
)


def widened(times: int, folder: Path) -> dict[str, str]:
    """Folders of the shipped generator and judge, with backbone and judge `times` as wide and untrained."""
    pipe = FluxPipeline.from_pretrained(WEIGHTS / "generator")
    config = dict(pipe.transformer.config)
    pipe.transformer = FluxTransformer2DModel.from_config(
        config | {"num_attention_heads": times * config["num_attention_heads"]}
    )
    pipe.save_pretrained(folder / "generator")
    shutil.copytree(WEIGHTS / "judge", folder / "judge", ignore=shutil.ignore_patterns("*.safetensors"))
    judge = AutoConfig.from_pretrained(WEIGHTS / "judge")
    for part in (judge.text_config, judge.vision_config):
        for name in ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads"):
            if hasattr(part, name):
                setattr(part, name, times * getattr(part, name))
    AutoModelForImageTextToText.from_config(judge, dtype=torch.float32).save_pretrained(folder / "judge")
    return {"generator": str(folder / "generator"), "judge": str(folder / "judge")}


def spec_of(
    file: str, variant: str | None, questions: int, *, anchored: bool, models: Mapping[str, str] | None = None
) -> TaskSpec:
    """The spec with the first `questions` of QUESTIONS, with or without anchor, or other models of its classes."""
    question = [{"template": text, "answer": "Yes"} for text in QUESTIONS[:questions]]
    data = load_spec(file, variant=variant).model_dump() | {"question": question, "referee": None}
    for part, model in (models or {}).items():
        data[part] = (data[part][0] if isinstance(data[part], list) else data[part]) | {"model": model}
    data["train"]["stop"] = None
    return TaskSpec.model_validate(data if anchored else data | {"anchor": None})


def bare(engine: Engine) -> Callable[[], None]:
    """Forward and backward pass of the modules of a step, on inputs that were recorded from a real step."""
    generator: Any = engine.generator
    judge: Any = engine.judge
    pipe, backbone = generator.pipe, generator.adapter_module
    calls: list[dict[str, Any]] = []
    hook = backbone.register_forward_pre_hook(lambda _m, _a, kwargs: calls.append(kwargs), with_kwargs=True)
    engine.step()
    hook.remove()
    noise, *again = [{name: _detached(value) for name, value in kwargs.items()} for kwargs in calls]
    prompts = random.Random(0).choices(engine.prompts, k=engine.spec.train.batch)
    size = generator.params.height
    texts = [
        [judge._question_tokens(row[q].text, size, size) for row in engine.questions(prompts)]
        for q in range(len(engine.wanted))
    ]
    asked = engine.questions(prompts)[0][0]
    answers = [judge._answer_ids(asked.text, candidate)[0] for candidate in asked.candidates]
    ones = [1] * len(texts)
    blank = engine.judge_view(torch.zeros(len(prompts), 3, size, size))
    # The share of each pixel that the overlay leaves visible.
    visible = engine.judge_view(torch.ones(len(prompts), 3, size, size)) - blank
    more = {k: v for k, v in judge._image_inputs(blank).items() if k != "pixel_values"}
    read = judge._read_cached if judge.uses_cache and len(texts) > 1 else judge._read_uncached

    def step() -> None:
        latents = noise["hidden_states"] - backbone(**noise)[0]
        z = FluxPipeline._unpack_latents(latents, size, size, pipe.vae_scale_factor)
        images = pipe.vae.decode(z / pipe.vae.config.scaling_factor + pipe.vae.config.shift_factor, return_dict=False)[
            0
        ]
        seen = (images * 0.5 + 0.5) * visible + blank
        inputs = {"pixel_values": (seen - 0.5) / 0.5, **more}
        log_p = torch.stack([row[:, 0, answers] for row in read(inputs, texts, ones)])
        loss = -(log_p[..., 0] - log_p[..., 1]).mean()
        for kwargs in again:
            with torch.no_grad():
                clean = kwargs["hidden_states"] - 0.3 * backbone(**kwargs)[0]
            loss = loss + (latents - clean).square().mean()
        torch.autograd.backward(loss)

    return step


def paper(engine: Engine) -> Callable[[], None]:
    """A step of L = -mean_i log p(answer_i | V(x), question, answer_<i), question by question."""
    generator: Any = engine.generator
    judge: Any = engine.judge
    pipe, rng = generator.pipeline(), random.Random(0)  # with its text encoders
    call = generator.recipe().call

    def step() -> None:
        prompts = rng.choices(engine.prompts, k=engine.spec.train.batch)
        texts = [prompt.text for prompt in prompts]
        embeds, pooled, text_ids = pipe.encode_prompt(texts, None, max_sequence_length=call["max_sequence_length"])
        side = generator.params.height // pipe.vae_scale_factor // 2
        ids = FluxPipeline._prepare_latent_image_ids(1, side, side, "cpu", torch.float32)
        z = torch.randn(len(texts), side * side, pipe.transformer.config.in_channels)
        v = pipe.transformer(
            hidden_states=z, timestep=torch.ones(len(texts)), pooled_projections=pooled, encoder_hidden_states=embeds,
            txt_ids=text_ids, img_ids=ids,
        ).sample  # fmt: skip
        x0 = FluxPipeline._unpack_latents(z - v, generator.params.height, generator.params.width, pipe.vae_scale_factor)
        images = pipe.vae.decode(x0 / pipe.vae.config.scaling_factor + pipe.vae.config.shift_factor).sample / 2 + 0.5
        shown = engine.spec.visual_prompt
        seen = engine.judge_view(images, [draw_shift(shown, rng) for _ in images] if shown else None)
        loss = torch.zeros(())
        for asked in zip(*engine.questions(prompts), strict=True):
            answered = [f"{judge._prompt(question.text)} {question.candidates[question.wanted]}" for question in asked]
            inputs = judge._inputs(seen, answered)
            log_p = judge.model(**inputs, use_cache=False).logits.log_softmax(-1)
            loss = loss - log_p[:, -2].gather(1, inputs["input_ids"][:, -1:]).mean() / len(engine.wanted)
        engine.optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(engine.weights, engine.spec.train.clip)
        engine.optimiser.step()

    return step


def timed(ways: dict[str, Callable[[], Any]], steps: int) -> dict[str, float]:
    """Median seconds of each way. The ways take turns; the first two rounds are not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(steps + 2):
        for name, step in ways.items():
            started = time.perf_counter()
            step()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(times[2:]) for name, times in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spec", default="specs/line_weight.yaml")
    parser.add_argument("--variant", default="thick")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--questions", type=int, nargs="+", default=[1, 3, 5])
    parser.add_argument("--times", type=int, default=1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        compare(args, widened(args.times, Path(folder)) if args.times > 1 else None)


def compare(args: argparse.Namespace, models: Mapping[str, str] | None) -> None:
    """Print the table, one row for each number of questions."""
    print("| questions | engine | bare | engine / bare | engine, no anchor | paper | paper / engine, no anchor |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for count in args.questions:
        anchored = Engine(spec_of(args.spec, args.variant, count, anchored=True, models=models))
        free = Engine(spec_of(args.spec, args.variant, count, anchored=False, models=models))
        ways = {"engine": anchored.step, "bare": bare(anchored), "free": free.step, "paper": paper(free)}
        s = timed(ways, args.steps)
        print(
            f"| {count} | {s['engine']:.3f} s | {s['bare']:.3f} s | {s['engine'] / s['bare']:.2f} | {s['free']:.3f} s "
            f"| {s['paper']:.3f} s | {s['paper'] / s['free']:.2f} |",
            flush=True,
        )


def _detached(value: Any) -> Any:
    return value.detach() if isinstance(value, torch.Tensor) else value


if __name__ == "__main__":
    main()
