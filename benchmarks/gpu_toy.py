"""Checks of `gpu_check.py` with the shipped toy models and the small model families of the tests."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import io
import math
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from gpu_machine import GB, ROOT, Machine, OutOfTime, Report, Skip, short
from safetensors.torch import load_file
from small_judges import FAMILIES as JUDGES
from small_judges import save
from small_models import trained as with_lora
from small_pipelines import FAMILIES as GENERATORS
from small_pipelines import small

from dualproc import Engine, load_spec, registry, resolve
from dualproc import cli as command_line
from dualproc.errors import DualprocError
from dualproc.kit.devices import without_cudnn_attention
from dualproc.kit.patching import replaced
from dualproc.plan.hardware import measured_rate
from dualproc.plugins.judges.transformers import TransformersJudge
from dualproc.spec import Lora
from dualproc.types import Evaluation, Measurement, Question, StepRecord

SPEC = ROOT / "specs" / "line_weight.yaml"
LORA_FILE = "pytorch_lora_weights.safetensors"
LIBRARIES = (
    "torch", "torchvision", "transformers", "diffusers", "peft", "accelerate", "huggingface_hub", "safetensors",
    "tokenizers", "numpy", "pillow", "pydantic", "bitsandbytes", "triton", "flash_attn", "kernels", "sentencepiece",
    "num2words",
)  # fmt: skip
MODES: Mapping[str, Mapping[str, Any]] = {
    "plain": {},
    "checkpointing": {"checkpointing": True},
    "offload": {"offload": True, "checkpointing": True},
    "8bit": {"quantize": "8bit", "dtype": "bfloat16"},
    "4bit": {"quantize": "4bit", "dtype": "bfloat16"},
}
"""Parameters with which each small family is compared with itself on the CPU, where it is `plain`."""
IMAGES, GRADIENT = 1e-2, 2e-2
"""Largest differences that count as equal: of images, latents or log-likelihoods, and of gradients (`compared`)."""
MILD = Lora(rank=2, alpha=2.0, strength=1.0)
"""A weak LoRA: in random models, a strong one amplifies rounding errors."""


def pretending() -> contextlib.AbstractContextManager[Any]:
    """Within, the device `auto` is the pretended GPU of the tests."""
    from pretended_gpu import pretended_gpu

    return pretended_gpu()


def versions(machine: Machine, report: Report) -> None:
    """The machine: GPU, driver, libraries, and the speed of matrix products and copies."""
    installed = {}
    for name in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            installed[name] = importlib.metadata.version(name)
    plugins = sum(len(registry.entries(kind)) for kind in ("generators", "judges", "scorers"))
    report.note(
        python=platform.python_version(), cores=os.cpu_count(), plugins=plugins, libraries=installed,
        bitsandbytes=installed.get("bitsandbytes", "missing"), transformers=installed["transformers"],
        memory_gb=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GB, torch=torch.__version__,
        missing=", ".join(name for name in LIBRARIES if name not in installed),
    )  # fmt: skip
    report.want(plugins > 0, "the plugins of dualproc are found")
    if not machine.cuda:
        return
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    with contextlib.suppress(OSError):
        report.note(card=subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip())
    card = torch.cuda.get_device_properties(0)
    report.note(gpu_gb=card.total_memory / GB, capability=f"{card.major}.{card.minor}", cuda=torch.version.cuda)
    report.note(bf16_tflops=measured_rate("bfloat16", lasting=0.3) / 1e12)
    report.note(float32_tflops=measured_rate("float32", lasting=0.3) / 1e12)
    for name, pinned in (("pageable", False), ("pinned", True)):
        host = torch.zeros(2**29, dtype=torch.uint8).pin_memory() if pinned else torch.zeros(2**29, dtype=torch.uint8)
        seconds = min(machine.timed(lambda host=host: host.to("cuda"), times=3, warm=1))
        report.note(**{f"{name}_to_gpu_gb_a_second": host.numel() / GB / seconds})


def demo_fit(machine: Machine, report: Report) -> None:
    """The fit of the demo (line_weight, thick) on the device, compared with the same fit on the CPU."""
    found: dict[str, dict[str, Any]] = {}
    evaluations: list[Evaluation] = []
    more: list[str] = []
    for name, device in ((machine.kind, machine.device), ("cpu", "cpu")):
        label = name if name not in found else "cpu_again"
        settings = {"train.steps": 140 if machine.full else 4, "evaluation.seeds": 6 if machine.full else 1}
        engine = toy_engine(device, settings, more, report)
        started = time.perf_counter()
        result = engine.fit(machine.scratch / "demo_fit" / label, overwrite=True)
        side = {"seconds": time.perf_counter() - started, **both(result.evaluation)}
        records = engine_records(result.run)
        side["seconds_a_step"] = statistics.median(record.seconds for record in records)
        found[label] = side
        evaluations.append(result.evaluation)
        report.note(**{label: side})
        del engine, result
        machine.tidy()
    ours, theirs = evaluations
    shares = [evaluation.trained.scores[0].on_target or 0 for evaluation in evaluations]
    apart = largest(base_values(ours.base), base_values(theirs.base))
    first, second = found.values()
    report.note(
        on_target=f"{shares[0]:.0%} against {shares[1]:.0%} on the CPU", base_differs=apart,
        base_line_weight=first["line_weight"][0], trained_line_weight=first["line_weight"][1],
        seconds=first["seconds"], seconds_on_cpu=second["seconds"], seconds_a_step=first["seconds_a_step"],
    )  # fmt: skip
    report.want(abs(shares[0] - shares[1]) <= 0.1 + 1e-9, "shares on target differ by at most 10 points")
    report.want(apart <= 1e-2, "scores of the base images differ by at most 1e-2")


def toy_engine(device: str, settings: Mapping[str, Any], more: list[str], report: Report) -> Engine:
    """The engine of the demo on a device. If the referee cannot be loaded, `more` gets overrides that leave it out."""
    devices = {f"{role}.device": device for role in ("generator", "judge", "referee")}
    overrides = [f"{key}={value}" for key, value in {**devices, **settings}.items()]

    def made() -> Engine:
        given = [each for each in overrides if not (more and each.startswith("referee"))]
        return Engine(load_spec(SPEC, variant="thick", overrides=[*given, *more]))

    try:
        return made()
    except DualprocError as error:
        if more:
            raise
        report.note(without_referee=short(error))
        more += ["referee=null", "preserve=null"]
        return made()


def engine_records(run: Path) -> Sequence[StepRecord]:
    """The records of all training steps of a run."""
    from dualproc.run import RunFolder

    return RunFolder.open(run).metrics()


def both(evaluation: Evaluation) -> dict[str, Any]:
    """Each measurement of base and trained images: its mean, or the share on target."""
    sides = [evaluation.base, evaluation.trained]
    return {
        "on_target": [side.scores[0].on_target for side in sides],
        "line_weight": [mean(side.scores[0].values) for side in sides],
        "judge": [mean(side.judge) for side in sides],
        "referee": [mean(side.referee or ()) for side in sides],
        "kept": [mean(side.preserved or ()) for side in sides],
        "hack_meter": [side.hack_meter for side in sides],
        "diversity": [side.diversity for side in sides],
    }


def base_values(measured: Measurement) -> list[float]:
    """Every score and probability of every image."""
    rows = [measured.scores[0].values, measured.judge, measured.referee or (), measured.preserved or ()]
    return [value for row in rows for value in row]


def mean(values: Iterable[float]) -> float | None:
    """The mean of all values that are not nan; None if there are none."""
    numbers = [value for value in values if value == value]
    return sum(numbers) / len(numbers) if numbers else None


def largest(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The largest difference of two rows; infinite if one has nan where the other has a number."""
    pairs = zip(ours, theirs, strict=True)
    apart = [abs(a - b) if a == a and b == b else 0.0 if a != a and b != b else float("inf") for a, b in pairs]
    return max(apart, default=0.0)


def second_variant(machine: Machine, report: Report) -> None:
    """`dp run` of two variants: which models of the first one are alive when the second one loads, and their memory."""
    engines: list[dict[str, weakref.ref[Any]]] = []
    seen: list[dict[str, Any]] = []
    before = machine.allocated()
    own = Engine.__init__

    def alive() -> dict[str, bool]:
        return {name: ref() is not None for name, ref in engines[0].items()}

    def watched(kind: str, ref: Any) -> Any:
        if engines and not seen:  # the second variant's generator is about to be built
            seen.append({"alive": alive(), "allocated_gb": machine.allocated()})
            machine.tidy()
            seen.append({"alive": alive(), "allocated_gb": machine.allocated()})
        return resolve.build(kind, ref)

    def noted(self: Engine, spec: Any) -> None:
        own(self, spec, build=watched)
        parts: dict[str, Any] = {"backbone": self.generator.adapter_module}
        parts |= {"vae": self.generator.pipe.vae, "judge": self.judge.model}  # type: ignore[attr-defined]
        engines.append({name: weakref.ref(part) for name, part in parts.items()})
        report.note(**{f"loaded_gb_{len(engines)}": machine.allocated()})

    settings = [f"{role}.device={machine.device}" for role in ("generator", "judge")]
    settings += ["referee=null", "preserve=null", "train.steps=2", "train.batch=1", "evaluation.seeds=1"]
    flags = [word for setting in settings for word in ("--set", setting)]
    words = ["dp", "run", str(SPEC), "--out", str(machine.scratch / "second_variant"), "--overwrite", *flags]
    printed = io.StringIO()
    with (
        replaced(Engine, "__init__", noted),
        replaced(sys, "argv", words),
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(printed),
        contextlib.suppress(SystemExit),
        warnings.catch_warnings(),  # because the command changes them
    ):
        command_line.main()
    if len(engines) != 2:
        raise RuntimeError(f"dp run built {len(engines)} engines: {printed.getvalue()[-500:]}")
    at_once, collected = seen
    still = [name for name, is_alive in at_once["alive"].items() if is_alive]
    report.note(
        before_gb=before, when_the_second_loads=at_once, after_collecting=collected, alive=", ".join(still) or "none",
        alive_after_collecting=", ".join(name for name, is_alive in collected["alive"].items() if is_alive) or "none",
        allocated_gb=at_once["allocated_gb"], allocated_gb_after_collecting=collected["allocated_gb"],
    )  # fmt: skip
    report.want(not still, "no model of the first variant is alive when the second is loaded")


def families(machine: Machine, report: Report) -> None:
    """Compare every small generator and judge on the device with itself on the CPU, in full precision."""
    compare(machine, report, {name: changes for name, changes in MODES.items() if "quantize" not in changes})


def quantized_families(machine: Machine, report: Report) -> None:
    """Run every small generator and judge in 8 and 4 bits; their distance from the CPU's results is noted only."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise Skip("bitsandbytes is not installed")
    compare(machine, report, {name: changes for name, changes in MODES.items() if "quantize" in changes})


def compare(machine: Machine, report: Report, modes: Mapping[str, Mapping[str, Any]]) -> None:
    """Compare every small generator and judge on the device with itself on the CPU, in each of the modes."""
    found: dict[str, dict[str, Any]] = {}
    report.note(modes=" ".join(modes), families=found)
    convolutions = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    expected: dict[str, Any] = {}
    cases: dict[str, Callable[..., Any]] = {}
    try:
        with tempfile.TemporaryDirectory() as folder:
            cases |= {f"generator {name}": generator_case(name) for name in GENERATORS}
            cases |= {f"judge {name}": judge_case(name, Path(folder, name)) for name in JUDGES}
            for mode, changes in modes.items():
                for name, case in cases.items():
                    if machine.left() < 5:
                        raise OutOfTime(f"in mode {mode}")
                    result = compared(machine, case, changes, expected.setdefault(name, []))
                    found.setdefault(name, {})[mode] = result
                    machine.tidy()
    except OutOfTime as over:
        report.note(ended_early=str(over))
    finally:
        torch.backends.cudnn.allow_tf32 = convolutions
        for kind in ("generator", "judge"):
            mine = [each for name, each in found.items() if name.startswith(kind)]
            for mode in modes:
                results = [each[mode] for each in mine if "skipped" not in each.get(mode, {"skipped": ""})]
                report.note(**{f"{kind}s_{mode}": f"{sum(agrees(one, mode) for one in results)}/{len(results)}"})
        first = next(iter(modes))
        plain = [each[first] for each in found.values() if first in each]
        report.note(
            worst_image=max((one.get("image", 0.0) for one in plain), default=None),
            worst_gradient=max((one.get("gradient", 0.0) for one in plain), default=None),
            fails_on_the_cpu_too=grouped(found, "skipped"), failed=grouped(found, "error"), differs="; ".join(
                f"{name} {mode}: image {one['image']:.2g}, gradient {one['gradient']:.2g}"
                for name, each in found.items() for mode, one in each.items()
                if "image" in one and not agrees(one, mode)
            ),
        )  # fmt: skip
    report.want(len(plain) == len(cases), "every family was compared")
    report.want(all("skipped" in one or agrees(one, first) for one in plain), f"every family passes in mode {first}")


def grouped(found: Mapping[str, Mapping[str, Any]], kind: str) -> str:
    """The messages of one kind in one line, shortened, each with the families and modes that gave it."""
    owners: dict[str, list[str]] = {}
    for name, each in found.items():
        for mode, one in each.items():
            if kind in one:
                owners.setdefault(one[kind].partition(" at ")[0][:120], []).append(f"{name} {mode}")
    return "; ".join(f"{message} [{', '.join(names)}]" for message, names in owners.items())[:2500]


def agrees(found: Mapping[str, Any], mode: str) -> bool:
    """Whether a family works and agrees with the CPU; if it is quantised, whether its gradient is finite."""
    if "error" in found:
        return False
    if mode.endswith("bit"):
        return math.isfinite(found["gradient"])
    return found["image"] <= IMAGES and found["gradient"] <= GRADIENT


@without_cudnn_attention()  # as in the engine's step
def compared(machine: Machine, case: Callable[..., Any], changes: Mapping[str, Any], kept: list[Any]) -> dict[str, Any]:
    """The difference of a family on the device from itself, unquantised, on the CPU; `kept` stores the CPU's result."""
    try:
        if not kept:
            kept.append(case("cpu", {"dtype": changes["dtype"]} if "dtype" in changes else {}))
    except (Exception, pytest.skip.Exception) as error:  # a family may raise anything
        kept.append(short(error))
    if isinstance(kept[0], str):
        return {"skipped": f"on the CPU too: {kept[0]}"}
    try:
        images, gradient = case(machine.device, changes)
    except Exception as error:
        return {"error": short(error)}
    expected_images, expected = kept[0]
    return {
        "image": max(
            ((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1)).item()
            for ours, theirs in zip(images, expected_images, strict=True)
        ),
        "gradient": ((gradient - expected).norm() / expected.norm()).item(),
    }


def generator_case(name: str) -> Callable[..., Any]:
    """Images and denoised latents of a small generator, and its LoRA's gradient, on the CPU."""

    def case(device: str, changes: Mapping[str, Any]) -> tuple[list[torch.Tensor], torch.Tensor]:
        generator = small(name, device=device, **changes)
        prompts = ["a cat", "a big red house on the hill"]
        generator.prepare(prompts)
        weights = with_lora(generator, MILD)
        images = []
        for seeds in ([1, 2], [2, 3]):  # both sampling steps are drawn
            sample = generator.sample(prompts, seeds, grad=True)
            sample.images.square().mean().backward()
            images.append(sample.images)
        whole = generator.sample(prompts, [5, 6])
        images += [whole.images, generator.denoise(whole.latents, 0.3, prompts, [5, 6])]
        gradient = torch.cat([weight.grad.flatten().cpu() for weight in weights if weight.grad is not None])
        return [on_cpu(each) for each in images], on_cpu(gradient)

    return case


def judge_case(name: str, folder: Path) -> Callable[..., Any]:
    """A small judge's log-likelihoods and their gradient with respect to the images; it must also answer in words."""

    def case(device: str, changes: Mapping[str, Any]) -> tuple[list[torch.Tensor], torch.Tensor]:
        if not folder.exists():
            save(name, folder)
        preset = registry.load("judges", name).preset
        params = {key: preset[key] for key in ("images", "template") if key in preset}
        judge = TransformersJudge(
            TransformersJudge.Params(**{**params, "model": str(folder), "device": device, **changes})
        )
        images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)).to(judge.device).requires_grad_()
        asked = [[Question("Is it dark?"), Question("Is this a drawing of a cat, or is it one of a dog?")]] * 2
        answers = judge.answer_log_likelihoods(images, asked).log_likelihoods
        (gradient,) = torch.autograd.grad(answers[..., 0].sum(), images)
        judge.generate(images, ["Is it dark?"] * 2, max_new_tokens=2)
        return [on_cpu(answers)], on_cpu(gradient)

    return case


def on_cpu(tensor: torch.Tensor) -> torch.Tensor:
    moved = tensor.detach().cpu().float()
    return getattr(moved, "raw", moved)  # where a tensor of the pretended GPU has its data


def resume(machine: Machine, report: Report) -> None:
    """Compare a fit of six steps with one that is interrupted after three and resumed."""

    class Interrupt:
        def step(self, record: StepRecord, total: int) -> None:
            if record.step == 3:
                signal.raise_signal(signal.SIGINT)

        def ending(self) -> None: ...

        def images(self, done: int, total: int) -> None: ...

    folder, more = machine.scratch / "resume", ["referee=null", "preserve=null"]
    shutil.rmtree(folder, ignore_errors=True)
    settings = {"train.steps": 6, "evaluation.seeds": 1}

    def lora(name: str, **how: Any) -> dict[str, torch.Tensor]:
        result = toy_engine(machine.device, settings, more, report).fit(folder / name, **how)
        report.note(**{f"steps_{name}": result.outcome.steps})
        return load_file(result.run / LORA_FILE)

    whole, again = lora("whole"), lora("whole_again")
    lora("cut", progress=Interrupt())
    resumed = lora("cut", resume=True)

    def apart(other: Mapping[str, torch.Tensor]) -> float:
        return max((value - other[name]).abs().max().item() for name, value in whole.items())

    size = max(value.abs().max().item() for value in whole.values())
    report.note(resumed_differs=apart(resumed), repeated_differs=apart(again), largest_weight=size)
    report.want(apart(resumed) <= 1e-2, "the resumed LoRA differs by at most 1e-2 from the uninterrupted one")
