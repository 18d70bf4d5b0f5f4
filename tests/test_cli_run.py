"""`dp run`, `dp generate` and `dp score`, from the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from found_images import dp

from dualproc.plugins.generators.diffusers import DiffusersGenerator
from dualproc.run import RunFolder
from dualproc.types import Sample

SPEC = """\
name: short
prompts: {template: "a cartoon of {subject}", train: [a cat, a dog], eval: [an owl, a house]}
question: {template: "Does the red line match the horizon?"}
visual_prompt: {layers: [{type: line, from: [0, "{row}"], to: [1, "{row}"], width: 0.02}]}
variants: {high: {row: 0.3}, low: {row: 0.6}}
train: {steps: 1, batch: 1, lora: {rank: 2}}
evaluation: {seeds: 1, batch: 1}
"""


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    file = tmp_path / "short.yaml"
    file.write_text(SPEC)
    return file


def test_every_variant_is_trained_used_and_evaluated_again(
    capsys: pytest.CaptureFixture[str], spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample, sizes = DiffusersGenerator.sample, list[int]()

    def counted(self: Any, prompts: Any, seeds: Any, **how: Any) -> Sample:
        sizes.append(len(seeds))
        return sample(self, prompts, seeds, **how)

    code, out, _ = dp(capsys, "run", spec, "--out", tmp_path / "runs")
    assert code == 0
    assert "Evaluation on 2 held-out images" in out
    assert "judge's P(wanted answer)" in out
    assert (tmp_path / "runs" / "high" / "report.html").exists()
    low = tmp_path / "runs" / "low"
    assert (low / "spec.yaml").read_text() == SPEC

    with monkeypatch.context() as patch:
        patch.setattr(DiffusersGenerator, "sample", counted)
        code, out, err = dp(capsys, "generate", low, "a cartoon of an astronaut", "--seed", "3", "-n", "2")
    assert code == 0
    assert sizes == [1, 1]  # as many at a time as in the run's evaluation, which fitted into memory
    assert len(list((low / "generated").glob("*.png"))) == len(out.splitlines()) == 2
    assert "does not know the words: astronaut\n" in err

    before = RunFolder.open(low).read_evaluation()
    code, out, _ = dp(capsys, "score", low)
    assert code == 0
    assert "Evaluation on 2 held-out images" in out
    after = RunFolder.open(low).read_evaluation()
    assert before is not None
    assert after is not None
    assert after.trained.judge == pytest.approx(before.trained.judge, abs=1e-5)

    outcome = (low / "outcome.json").read_bytes()
    code, out, _ = dp(capsys, "run", spec, "--out", tmp_path / "runs", "--resume")
    assert code == 0
    assert out.count("already finished") == 2
    assert (low / "outcome.json").read_bytes() == outcome

    for mistake in (("--seed", str(2**63)), ("--strength", "nan"), ("--strength", "inf")):
        code, _, err = dp(capsys, "generate", low, "a cat", *mistake)
        assert code == 2
        assert "Traceback" not in err
    assert dp(capsys, "generate", low, "a cat", "--seed", str(2**62))[0] == 0
    for mistake in (("generate", low, " "), ("generate", low, "a cat", "--out", ""), ("run", spec, "--out", "")):
        code, _, err = dp(capsys, *mistake)
        assert code == 2
        assert "is empty" in err

    _, trained, _ = dp(capsys, "generate", low, "a cat")
    _, base, _ = dp(capsys, "generate", low, "a cat", "--strength", "0")
    assert base.strip() == trained.strip().replace(".png", "-strength0.png")  # the image of strength 1 is not replaced
    assert Path(base.strip()).read_bytes() != Path(trained.strip()).read_bytes()

    code, _, err = dp(capsys, "run", spec, "--variant", "low", "--out", low)
    assert code == 2
    assert f"{low} already has a run" in err
    assert "continue it (`--resume`), replace it (`--overwrite`), or choose another folder (`--out`)" in err
    code, _, err = dp(capsys, "generate", tmp_path / "runs", "a cat")
    assert code == 2
    assert "name one of the runs in it" in err


def test_messages_of_resume_and_ctrl_c(
    capsys: pytest.CaptureFixture[str], spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pressed(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("dualproc.engine.Engine", pressed)  # Ctrl+C while the models are loaded
    code, out, err = dp(capsys, "run", spec, "--variant", "low", "--out", tmp_path / "run", "--resume")
    assert code == 130
    assert f"nothing to resume in {tmp_path / 'run'}, starting a new run" in out
    assert "interrupted: no training step is done yet" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "no-such.yaml"], "no-such.yaml"),
        (["run", "SPEC", "--set", "train.stepz=3"], "did you mean `steps`?"),
        (["run", "SPEC", "--set", "judge.type=tinny"], "tiny"),
        (
            ["run", "SPEC", "--variant", "low", "--set", "judge={type: transformers, model: ./nowhere}"],
            "no such folder",
        ),
        (["run", "SPEC", "--variant", "hihg"], "high"),
        (
            ["run", "SPEC", "--variant", "low", "--set", "question.candidates=[Yes, yes]", "--out", "SPEC-run"],
            "reads the candidates 'Yes' and 'yes' as the same tokens",
        ),
        (["run", "SPEC", "--variant", "low", "--set", "question.answer=Pink"], "add the other answers"),
        (
            ["run", "SPEC", "--variant", "low", "--set", "question=Is the sky blue?"],
            'write a question as `{template: "Is the sky blue?"}`',
        ),
        (["run", "SPEC", "--variant", "low", "--out", "SPEC/run"], "SPEC"),
        (["run", "SPEC", "--variant", "low", "--set", "generator={type: diffusers, model: /no/such}"], "/no/such"),
        (["generate", "no-such-run", "a cat"], "no such folder: no-such-run"),
        (["score", "no-such-run"], "no such folder: no-such-run"),
    ],
)
def test_mistakes_give_one_message_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], spec: Path, arguments: list[str], message: str
) -> None:
    code, _, err = dp(capsys, *[argument.replace("SPEC", str(spec)) for argument in arguments])
    assert code == 2
    assert message.replace("SPEC", str(spec)) in err
    assert err.count("error:") == 1
    assert "Traceback" not in err
    assert not Path(f"{spec}-run").exists()
