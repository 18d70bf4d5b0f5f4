"""`dp plan`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dualproc.cli import main

SPEC = str(Path(__file__).parents[1] / "specs" / "line_weight.yaml")
ALONE = ["--set", "referee=null", "--set", "train.stop=null"]


def plan(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `dp plan`."""
    with pytest.raises(SystemExit) as exit_:
        main(["plan", *arguments])
    out, err = capsys.readouterr()
    return int(exit_.value.code or 0), out, err


def test_parts_memory_and_time_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = plan(capsys, SPEC, "--variant", "thick", "--device", "h100")
    assert code == 0
    for text in (
        "FluxTransformer2DModel", "until prompts are encoded", "language_model", "referee", "LoRA",
        "activations for the backward pass", "peak in a training step", "peak while loading",
        "speed in the data sheet of h100", "fits into 80.0 GB: peak ",
    ):  # fmt: skip
        assert text in out
    assert "building the models without weights" in err


@pytest.mark.nightly
def test_printed_flags_make_the_spec_fit(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = plan(capsys, SPEC, "--variant", "thick", "--memory", "100MB", *ALONE, "--set", "train.batch=2")
    assert code == 0
    assert "fits into 0.100 GB" in out
    code, out, err = plan(capsys, SPEC, "--variant", "thick", "--memory", "100MB", *ALONE)
    assert code == 0
    assert "does not fit into 0.100 GB: peak " in out
    assert "trying --set generator.checkpointing=true" in err
    flags = out.strip().splitlines()[-1].split()
    assert flags[0] == "--set"
    code, out, _ = plan(capsys, SPEC, "--variant", "thick", "--memory", "100MB", *ALONE, *flags, "--json")
    found = json.loads(out)
    assert found["fits"] is True
    assert found["memory"]["cuda:0"]["peak"] < 1e8


def test_json_has_all_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = plan(capsys, SPEC, "--variant", "thin", "--json", *ALONE)
    assert code == 0
    found = json.loads(out)
    assert found["variant"] == "thin"
    assert found["fits"] is None
    assert found["seconds_per_step"] > 0
    memory = found["memory"]["cpu"]
    assert memory["training"] == sum(memory[key] for key in ("weights", "lora", "activations", "temporaries"))
    assert {part["role"] for part in found["parts"]} == {"generator", "judge"}
    assert "linear" not in found["parts"][0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--memory", "much"], "expected a size such as 24GB, got `--memory much`"),
        (["--memory", "0GB"], "expected a size such as 24GB, got `--memory 0GB`"),
        (["--device", "abacus"], "unknown device 'abacus'"),
        (["--variant", "fat"], "fat"),
        (["--variant", "thick", "--processes", "99"], "train.batch is 4, but the fit has 99 processes"),
        (["--set", "judge.type=nobody"], "nobody"),
        (["--set", "judge.type=transformers", "--set", "judge.model=no/such/folder"], "cannot load the judge"),
    ],
)
def test_mistakes_give_a_message_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    code, out, err = plan(capsys, SPEC, *arguments)
    assert code == 2
    assert message in err
    assert out == ""
