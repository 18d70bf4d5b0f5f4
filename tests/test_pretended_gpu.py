"""The pretended GPU refuses and counts what a GPU would; every family and a whole fit run on it.

Covered, by tests/on_pretended_gpu.py: all families of tests/small_pipelines.py and tests/small_judges.py, loaded
plainly, with checkpointing, and with checkpointing and offload (families that differ from another one by scheduler or
guidance only: plainly). A generator prepares prompts, draws a training sample, runs its backward pass, samples and
denoises; a judge answers two questions about two images, runs the backward pass, and generates words. A fit of the
demo trains, checks, evaluates and writes its run folder, and continues from a checkpoint. Not covered: quantised
weights, flash attention, compiled blocks, and the copies of CUDA offloading, which need a real GPU.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from torch.utils import backend_registration

HERE = Path(__file__).parent
Found = dict[str, Any]

pytestmark = pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="this torch has no backends in Python",
)


@pytest.fixture(scope="module")
def found() -> dict[str, Found]:
    """What every case found, by its name; in another process, because torch must know the device early."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent)])}
    command: list[Any] = [sys.executable, "-W", "ignore", HERE / "on_pretended_gpu.py"]
    out: dict[str, Found] = {}
    names: list[str] = []
    while True:
        done = subprocess.run([*command, *names], env=environment, capture_output=True, text=True, check=False)
        assert done.stdout, done.stderr[-2000:]
        names, *results = map(json.loads, done.stdout.splitlines())
        out |= dict(zip(names, results, strict=False))
        if len(results) == len(names):
            return out
        failed, *names = names[len(results) :]
        out[failed] = {"error": done.stderr[-2000:]}
        if not names:
            return out


def of_kind(found: dict[str, Found], start: str) -> dict[str, Found]:
    """The results of the cases whose names start so, without those that lack a package."""
    return {name: each for name, each in found.items() if name.startswith(start) and "skipped" not in each}


def waits(found: Found, *, inside: str = "dualproc") -> int:
    """How often a case waits in code of this folder of the repository."""
    folder = str(HERE.parent / inside).split("site-packages/")[-1]
    return sum(count for place, count in found["waits"].items() if place.partition(": ")[2].startswith(folder))


@pytest.mark.parametrize("case", ["refuses and counts", "same numbers"])
def test_it_is_like_a_gpu(found: dict[str, Found], case: str) -> None:
    assert found[case] == {}


@pytest.mark.parametrize("kind", ["generators", "judges"])
@pytest.mark.parametrize("mode", ["plain", "checkpointing", "offload"])
def test_families_do_not_mix_devices(found: dict[str, Found], kind: str, mode: str) -> None:
    cases = of_kind(found, f"{mode} {kind}/")
    assert len(cases) >= 10
    errors = {name: each["error"] for name, each in cases.items() if "error" in each}
    assert not errors, "\n".join(f"{name}: {text[-1000:]}" for name, text in errors.items())
    assert max(each["apart"] for each in cases.values()) < 1e-3  # the gradient, from that of plain loading


def test_a_whole_fit_runs_on_it(found: dict[str, Found]) -> None:
    fit = found["fit"]
    assert "error" not in fit, fit["error"]
    assert fit["devices"] == ["gpu:0"]
    assert fit["checked"] == [False, True]
    assert fit["images"]
    assert {"evaluation.json", "outcome.json", "report.html", "pytorch_lora_weights.safetensors"} <= set(fit["files"])


def test_a_training_step_waits_for_the_gpu_once_of_itself(found: dict[str, Found]) -> None:
    """Also with the judge's two checks inside transformers, a step of the toys waits three times."""
    fit = found["fit"]
    assert waits(fit) == waits(fit, inside="dualproc/engine") == 1
    assert sum(fit["waits"].values()) <= 3


@pytest.mark.parametrize(("kind", "most"), [("generators", 0), ("judges", 1)])
def test_plugins_hardly_wait_for_the_gpu(found: dict[str, Found], kind: str, most: int) -> None:
    """Judges wait if their processor filters as only the CPU can (Lanczos: Idefics3 and SmolVLM2)."""
    cases = of_kind(found, f"plain {kind}/")
    waiting = {name: count for name, each in cases.items() if (count := waits(each))}
    assert all(count <= most for count in waiting.values()), waiting
    assert len(waiting) <= 2


@pytest.mark.nightly
@pytest.mark.parametrize("device", ["cpu", "pretended"])
def test_the_gpu_checks_can_be_rehearsed(device: str, tmp_path: Path) -> None:
    names = ["versions", "demo_fit", "real_bf16_b1", "real_bf16_b4", "resume_on_cuda"]
    script = HERE.parent / "benchmarks" / "gpu_check.py"
    command = [sys.executable, script, "--scale", "small", "--device", device, "--out", tmp_path, "--only", *names]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert (tmp_path / "gpu_check.json").exists()
