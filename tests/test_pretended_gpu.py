"""The pretended GPU refuses and counts what a GPU would; generators and judges run on it as on the CPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from torch.utils import backend_registration

HERE = Path(__file__).parent

pytestmark = pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="this torch has no backends in Python",
)

REFUSES_AND_COUNTS = """
import torch
from pretended_gpu import pretended_gpu

with pretended_gpu() as traffic:
    here = torch.ones(3, device="gpu")
    assert str((2 * here).device) == "gpu:0"
    try:
        here + torch.ones(3)
    except RuntimeError as error:
        assert "same device" in str(error)
    else:
        raise AssertionError("it took a tensor of the CPU")
    assert not traffic.waits
    here.sum().item()
    here.cpu()
    here[here > 0]
    assert sum(traffic.waits.values()) == 3, traffic.waits
    assert not traffic.copies
    torch.ones(3).to("gpu:0")
    assert sum(traffic.copies.values()) == 1, traffic.copies
"""

SAME_NUMBERS = """
import tempfile
from pathlib import Path

import torch
from pretended_gpu import pretended_gpu
from small_judges import save
from small_models import trained
from small_pipelines import small

from dualproc.plugins.judges.transformers import TransformersJudge
from dualproc.spec import Lora
from dualproc.types import Question


def found(device, folder):
    generator = small("flux", device=device)
    weights = trained(generator, Lora(rank=2))
    images = generator.sample(["a cat"], [1], grad=True).images
    judge = TransformersJudge(TransformersJudge.Params(model=str(folder), device=device))
    answers = judge.answer_log_likelihoods(images, [[Question("Is it dark?")]]).log_likelihoods
    answers[..., 0].sum().backward()
    gradient = torch.cat([weight.grad.flatten() for weight in weights if weight.grad is not None])
    return [each.detach().cpu() for each in (images, answers, gradient)]


folder = save("llava-1.5", Path(tempfile.mkdtemp()))
with pretended_gpu():
    ours = found("auto", folder)
for one, other in zip(ours, found("cpu", folder), strict=True):
    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
"""


@pytest.mark.parametrize("program", [REFUSES_AND_COUNTS, SAME_NUMBERS], ids=["refuses and counts", "same numbers"])
def test_it_is_like_a_gpu(program: str) -> None:
    """In a separate process: torch must know the device before the first backward pass."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent)])}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.nightly
@pytest.mark.parametrize("device", ["cpu", "pretended"])
def test_the_gpu_checks_can_be_rehearsed(device: str, tmp_path: Path) -> None:
    names = ["versions", "demo_fit", "real_bf16_b1", "real_bf16_b4", "resume_on_cuda"]
    script = HERE.parent / "benchmarks" / "gpu_check.py"
    command = [sys.executable, script, "--scale", "small", "--device", device, "--out", tmp_path, "--only", *names]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert (tmp_path / "gpu_check.json").exists()
