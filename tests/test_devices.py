"""Device names: invalid ones are refused before anything is loaded, and `auto` means the same for all plugins."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from dualproc import load_spec
from dualproc.errors import PluginError, SpecError
from dualproc.kit.devices import as_current, pick_device
from dualproc.plugins.generators.diffusers import DiffusersGenerator
from dualproc.plugins.generators.presets import TINY

SPEC = Path(__file__).parents[1] / "specs" / "line_weight.yaml"


@pytest.mark.parametrize("key", ["generator.device", "judge.device", "referee.device"])
@pytest.mark.parametrize("name", ["nonsense", "cuda:", "cuda:x", "cpu:1", " cuda", "meta"])
def test_an_invalid_name_is_a_mistake_in_the_spec(key: str, name: str) -> None:
    with pytest.raises(SpecError) as caught:
        load_spec(SPEC, variant="thick", overrides=[f"{key}='{name}'"])
    (problem,) = caught.value.problems
    assert problem.path == key
    assert "auto|cpu|mps|" in problem.message


@pytest.mark.parametrize("name", ["auto", "cpu", "mps", "cuda", "cuda:1", "xpu:0"])
def test_a_valid_name_is_accepted_on_any_machine(name: str) -> None:
    spec = load_spec(SPEC, variant="thick", overrides=[f"generator.device={name}", f"judge.device={name}"])
    assert spec.generator.params["device"] == name


def test_offload_with_quantize_is_a_mistake_in_the_spec() -> None:
    with pytest.raises(SpecError, match="cannot be set together") as caught:
        load_spec(SPEC, variant="thick", overrides=["generator.offload=true", "generator.quantize=8bit"])
    assert caught.value.problems[0].path == "generator"


@pytest.mark.parametrize("name", ["cuda:99", "xpu:99"])
def test_a_device_that_does_not_exist_is_named(name: str) -> None:
    with pytest.raises(PluginError, match=f"torch finds no {name} on this machine"):
        pick_device(name)
    with pytest.raises(PluginError, match=f"torch finds no {name} on this machine"):
        DiffusersGenerator(DiffusersGenerator.Params(**{**TINY.params, "device": name}))


@pytest.mark.parametrize(("cuda", "mps", "found"), [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")])
def test_auto_is_a_gpu_if_there_is_one(cuda: bool, mps: bool, found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert pick_device("auto").type == found


def test_quantised_weights_are_loaded_on_the_device_of_the_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    current: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext(current.append(device)))
    for name in ("cpu", "cuda:1"):
        with as_current(torch.device(name)):
            pass
    assert current == [torch.device("cuda:1")]


@pytest.mark.parametrize(("asked", "seen"), [(None, ""), ("1", "0,1")])
def test_tests_see_a_gpu_only_if_asked_to(asked: str | None, seen: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "DUALPROC_TEST_GPU"}
    environment["CUDA_VISIBLE_DEVICES"] = "0,1"
    if asked is not None:
        environment["DUALPROC_TEST_GPU"] = asked
    program = "import conftest, os; print(os.environ['CUDA_VISIBLE_DEVICES'])"
    command, folder = [sys.executable, "-c", program], Path(__file__).parent
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == seen
