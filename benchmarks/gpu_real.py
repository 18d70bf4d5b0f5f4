"""Checks of `gpu_check.py` with FLUX.1-schnell and Qwen2.5-VL-7B in their real sizes, with random weights."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from gpu_machine import GB, Machine, Report, Skip, median, short
from PIL import Image
from real_size import JUDGE, SMALL_IMAGES, build, filled, spec_of, without_linear_weights

from dualproc import Engine, TaskSpec
from dualproc.engine.evaluate import monitor
from dualproc.plan.dry_run import Observed, dry_run
from dualproc.plan.hardware import gpu_named, seconds
from dualproc.plan.ledger import MAIN
from dualproc.plugins.generators.loading import checkpoint_activations
from dualproc.plugins.judges._attention import NAME, pack_attention
from dualproc.plugins.judges._loading import checkpoint

LIMIT = 24e9
"""Bytes that a GPU of 24 GB leaves for tensors; as in `dp plan`, a GB has 10^9 bytes."""
SECONDS = 0.3
"""Required: a step in bfloat16 with one image and one question takes at most this long."""
OFFLOADED = ("generator.offload=true", "judge.offload=true", "prompts.train=[a cat]", "prompts.eval=[a sheep]")
CASES: Mapping[str, Mapping[str, Any]] = {
    "bfloat16": {},
    "bfloat16, 5 questions": {"questions": 5},
    "bfloat16, batch 4, checkpointing": {"batch": 4, "checkpointing": True},
    "4bit": {},
    "4bit, checkpointing": {"checkpointing": True},
    "8bit": {},
    "8bit, checkpointing": {"checkpointing": True},
    "bfloat16, offload": {"checkpointing": True, "more": OFFLOADED},
}
"""The cases that are planned and measured; each name begins with the precision."""


def spec_for(machine: Machine, case: str) -> TaskSpec:
    """The spec of a case on this machine; rehearsals use float32, because bfloat16 is slow on a CPU."""
    options = dict(CASES[case])
    more = list(options.pop("more", ()))
    if not machine.full:
        more += ["generator.dtype=float32", "judge.dtype=float32"]
    precision = case.split(",")[0]
    return spec_of(machine.configs, precision, device=machine.device, scale=machine.scale, more=more, **options)


def predictions(configs: Path, scale: str) -> dict[str, dict[str, Any]]:
    """The plan of every case: bytes in a step and while loading, operations by precision."""
    observed: dict[str, Observed] = {}
    plans = {}
    for case, options in CASES.items():
        spec = spec_of(configs, case.split(",")[0], device="cuda", scale=scale, **options)
        plan = dry_run(spec, gpu=True, known=observed)
        (memory,) = [each for place, each in plan.memory.items() if place != MAIN]
        sums = {"step": memory.training, "loading": memory.loading}
        plans[case] = {**sums, "memory": asdict(memory), "operations": dict(plan.operations), "moved": plan.moved}
        print(f"{case}: a step {memory.training / GB:.2f} GB, loading {memory.loading / GB:.2f} GB planned", flush=True)
    return plans


def shared(machine: Machine, report: Report) -> Engine:
    """The bfloat16 engine that several checks share; the first of them builds it, and reports the loading."""
    if machine.refused:
        raise Skip(machine.refused)
    if machine.engine is None:
        machine.refused = "the engine in bfloat16 could not be built"
        machine.engine = built(machine, report, "bfloat16")
        machine.refused = ""
    engine: Engine = machine.engine
    return engine


def built(machine: Machine, report: Report, case: str, *, weights_on: str | None = None) -> Engine:
    """Build the engine of a case; report time and memory of the loading."""
    made: list[Engine] = []
    precision, place = case.split(",")[0], weights_on or machine.place
    with machine.peaks() as most:
        taken = machine.timed(lambda: made.append(build(spec_for(machine, case), precision, place)), times=1)
    engine = made.pop()
    report.note(
        loading_seconds=taken[0], loading=most, loading_gb=most.get("allocated_gb"), uses_cache=uses_cache(engine)
    )
    report.note(planned_loading_gb=planned(machine, case, "loading"))
    return engine


def planned(machine: Machine, case: str, what: str) -> float | None:
    """The predicted GB of a case, `step` or `loading`; None without a prediction."""
    return machine.plans[case][what] / GB if case in machine.plans else None


def uses_cache(engine: Engine) -> bool:
    judge: Any = engine.judge
    return bool(judge.uses_cache)


def steps(machine: Machine, report: Report, engine: Engine, case: str, *, times: int = 5, warm: int = 2) -> None:
    """Report time and memory of training steps of the engine, and the plan's predictions."""
    calls: list[int] = []
    skipped: list[bool] = []
    hook = engine.generator.adapter_module.register_forward_pre_hook(lambda *_: calls.append(1))
    counts = []

    def step() -> None:
        before = len(calls)
        skipped.append(engine.step().skipped)
        counts.append(len(calls) - before)

    try:
        machine.timed(step, times=warm)
        with machine.peaks() as most:
            taken = machine.timed(step, times=times)
    finally:
        hook.remove()
    report.note(
        step_seconds=median(taken), all_steps=taken, backbone_calls=counts[-times:], skipped_steps=sum(skipped),
        reserved_gb=most.get("reserved_gb"), allocated_gb=most.get("allocated_gb"),
        planned_gb=planned(machine, case, "step"),
    )  # fmt: skip
    name = torch.cuda.get_device_name().lower() if machine.cuda else ""
    card = next((card for card in ("h100", "h200") if card in name), "")
    if card and case in machine.plans:
        plan = machine.plans[case]
        report.note(planned_seconds=seconds(plan["operations"], gpu_named(card), moved=plan["moved"]))
    if machine.full and case in machine.plans and "bit" not in case:
        share = most["allocated_gb"] / (machine.plans[case]["step"] / GB)
        report.note(measured_of_planned=share)
        report.want(abs(share - 1) <= 0.1, "the plan is within 10 % of the measured peak")
    report.want(not any(skipped), "losses and gradients are finite")


def one_image(machine: Machine, report: Report) -> None:
    """Time and memory of a step with one image and one question, in bfloat16."""
    steps(machine, report, shared(machine, report), "bfloat16")
    if machine.full:
        report.want(report.facts["step_seconds"] <= SECONDS, f"a step takes at most {SECONDS} s")


def five_questions(machine: Machine, report: Report) -> None:
    """Time and memory of a step with five questions."""
    engine = shared(machine, report)
    with asking(engine, spec_for(machine, "bfloat16, 5 questions")):
        steps(machine, report, engine, "bfloat16, 5 questions")


def four_images(machine: Machine, report: Report) -> None:
    """Time and memory of a step with four images and activation checkpointing of generator and judge."""
    engine, case = shared(machine, report), "bfloat16, batch 4, checkpointing"
    with asking(engine, spec_for(machine, case)), checkpointed(engine):
        steps(machine, report, engine, case, times=3, warm=1)


def sampling(machine: Machine, report: Report) -> None:
    """Time and memory of a monitoring check, and of sampling with evaluation batches of 16, 4 and 1 images."""
    engine = shared(machine, report)
    batches = (16, 4, 1) if machine.full else (2, 1)
    texts = [prompt.text for prompt in (engine.prompts * 16)[:16]]
    for batch in batches:
        with machine.peaks() as most, torch.no_grad():
            taken = machine.timed(lambda: engine.generator.sample(texts[:batch], range(batch)), times=2)  # noqa: B023
        report.note(**{f"sampling_{batch}": {"seconds": min(taken), "seconds_an_image": min(taken) / batch, **most}})
        report.note(**{f"sampling_{batch}_gb": most.get("allocated_gb"), f"sampling_{batch}_seconds": min(taken)})
    for batch in (batches[0], batches[1]):
        data = engine.spec.model_dump()
        data["evaluation"]["batch"] = batch
        data["train"]["watch"]["images"] = batches[0]
        with asking(engine, TaskSpec.model_validate(data)), machine.peaks() as most:
            (taken_once,) = machine.timed(lambda: monitor(engine), times=1)
        report.note(**{f"look_{batch}": {"images": batches[0], "seconds": taken_once, **most}})
        report.note(**{f"look_{batch}_gb": most.get("allocated_gb"), f"look_{batch}_seconds": taken_once})


@contextmanager
def asking(engine: Engine, spec: TaskSpec) -> Iterator[None]:
    """Within, the engine runs steps of another spec with the same models."""
    own, wanted = engine.spec, engine.wanted
    engine.spec = engine.evaluators.spec = spec
    engine.wanted = [question.wanted for question in spec.questions]
    try:
        yield
    finally:
        engine.spec = engine.evaluators.spec = own
        engine.wanted = wanted


@contextmanager
def checkpointed(engine: Engine) -> Iterator[None]:
    """Within, generator and judge recompute activations in the backward pass."""
    generator: Any = engine.generator
    judge: Any = engine.judge
    parts, on = (generator.adapter_module, generator.pipe.vae), judge.uses_cache
    checkpoint_activations(parts[0], parts[1:])
    checkpoint(judge.model)
    judge.uses_cache = False
    try:
        yield
    finally:
        judge.uses_cache = on
        for part in parts:
            part.disable_gradient_checkpointing()
        for block in judge.model.modules():
            block.__dict__.pop("forward", None)


def four_bits(machine: Machine, report: Report) -> None:
    """A step in 4 bits within 24 GB, without and with activation checkpointing."""
    quantized(machine, report, "4bit", LIMIT)
    if machine.full:
        report.want(report.facts["fits"] != "no", f"a step in 4 bits fits into {LIMIT / GB:.0f} GB")


def eight_bits(machine: Machine, report: Report) -> None:
    """A step in 8 bits, without and with activation checkpointing."""
    quantized(machine, report, "8bit", None)


def quantized(machine: Machine, report: Report, bits: str, limit: float | None) -> None:
    """Steps of the engine in 8 or 4 bits, within `limit` bytes if given; steps that do not fit run again without it."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise Skip("bitsandbytes is not installed")
    whole = limit or float("inf")
    with machine.memory_limit(whole):
        engine = built(machine, report, bits)
    fits = []
    for case, within in ((bits, nothing_else), (f"{bits}, checkpointing", checkpointed)):
        one = Report()
        with within(engine):
            try:
                with machine.memory_limit(whole):
                    steps(machine, one, engine, case, times=3, warm=1)
                fits.append(case)
            except torch.OutOfMemoryError as error:
                one.note(out_of_memory=short(error))
                engine.optimiser.zero_grad(set_to_none=True)
            if "out_of_memory" in one.facts:
                machine.tidy()
                steps(machine, one, engine, case, times=3, warm=1)
        report.note(**{case: one.facts})
        name = case.partition(", ")[2] or "plain"
        for fact in ("step_seconds", "allocated_gb", "reserved_gb", "planned_gb"):
            report.note(**{f"{name}_{fact}": one.facts[fact]})
        report.missed += [f"{case}: {what}" for what in one.missed]
    if limit:
        report.note(limit_gb=limit / GB, fits="; ".join(fits) or "no")


@contextmanager
def nothing_else(_engine: Engine) -> Iterator[None]:
    """Within, the engine is unchanged."""
    yield


def attention_windows(machine: Machine, report: Report) -> None:
    """Time of forward and backward pass of Qwen2.5-VL's image encoder, with each implementation of window attention."""
    from transformers import AutoImageProcessor

    side = 512 if machine.full else SMALL_IMAGES
    processor = AutoImageProcessor.from_pretrained(machine.configs / JUDGE)
    ways = {"sdpa": True, NAME: True, "sdpa_no_windows": False}
    for name, windows in ways.items():
        try:
            tower = image_encoder(machine, "sdpa", windows=windows)
            if name == NAME:
                pack_attention(tower)
        except (ImportError, ValueError, RuntimeError) as error:
            report.note(**{name: short(error)})
            continue
        for batch in (1, 4):
            inputs = processor(images=[Image.new("RGB", (side, side))] * batch, return_tensors="pt").to(tower.device)
            pixels = inputs["pixel_values"].to(tower.dtype).requires_grad_()
            taken = machine.timed(partial(encoded, tower, pixels, inputs["image_grid_thw"]), times=5, warm=2)
            report.note(**{f"{name}_batch_{batch}_seconds": median(taken)})
        del tower
        machine.tidy()


def image_encoder(machine: Machine, implementation: str, *, windows: bool) -> Any:
    """The judge's image encoder with random weights; without `windows`, all positions attend to all others."""
    from transformers import AutoConfig
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel as Encoder

    place, dtype = machine.place, torch.bfloat16 if machine.cuda else torch.float32
    config = AutoConfig.from_pretrained(machine.configs / JUDGE).vision_config
    if not windows:
        config.fullatt_block_indexes = list(range(config.depth))
    with without_linear_weights(place):
        encoder = Encoder._from_config(config, dtype=dtype, attn_implementation=implementation)
    filled("whole", place)("", encoder)
    return encoder.requires_grad_(False).eval()


def encoded(encoder: Any, pixels: torch.Tensor, grid: torch.Tensor) -> None:
    """Forward and backward pass of the image encoder."""
    encoder(pixels, grid_thw=grid).last_hidden_state.float().square().mean().backward()


def offloaded(machine: Machine, report: Report) -> None:
    """Time and memory of a step with offloaded frozen weights and activation checkpointing."""
    needed = 64e9
    if machine.full and os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES") < needed:
        raise Skip(f"needs {needed / GB:.0f} GB of free main memory")
    case = "bfloat16, offload"
    engine = built(machine, report, case, weights_on="cpu")
    steps(machine, report, engine, case, times=2, warm=1)


def same_step(engine: Engine, number: int) -> Callable[[], Any]:
    """A function that repeats the step of one number; prompts, seeds and noise follow from the number."""

    def step() -> Any:
        engine.done = number
        return engine.step()

    return step
