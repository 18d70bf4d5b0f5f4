"""specs/real: the tasks of the paper for real models. Nothing is loaded here but the specs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from dualproc.cli.bench_jobs import plan_jobs
from dualproc.plan.dry_run import dry_run
from dualproc.resolve import check_plugins, read_checked
from dualproc.spec import TaskSpec

ROOT = Path(__file__).parents[1]
SPECS = sorted((ROOT / "specs" / "real").glob("*.yaml"))
CONFIGS = ROOT / "benchmarks" / "configs"
OFFLINE = (
    f"generator.model={CONFIGS / 'flux-schnell'}", f"judge.model={CONFIGS / 'qwen2.5-vl-7b'}",
    f"referee.model={CONFIGS / 'smolvlm2-2.2b'}",
)  # fmt: skip
FIRST = {
    "line_weight": "line_weight", "horizon": "depth_horizon", "palette": "palette", "relative_depth": "depth",
    "composition": "detect", "commonsense": "clip", "attribute": "clip",
}  # fmt: skip
"""The scorer that measures each task; its share on target is the result."""
DOCUMENT = ROOT / "docs" / "real_images.md"


def documented_flags() -> list[str]:
    """The `--set` options for 24 GB in docs/real_images.md."""
    (block,) = re.findall(
        r"```sh\n(dp run specs/real/\w+\.yaml .*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL
    )
    return re.findall(r"--set (\S+)", block)


each_spec = pytest.mark.parametrize("file", SPECS, ids=lambda file: file.stem)


def variants(file: Path, *overrides: str) -> list[TaskSpec]:
    return [one.require() for one in read_checked(file, overrides=overrides).each()]


def layers(spec: TaskSpec) -> list[dict[str, Any]]:
    """The visual prompt's layers; files by their content, and without the values that variants fill in."""
    found = []
    for layer in spec.visual_prompt.layers if spec.visual_prompt else ():
        params = {key: value for key, value in layer.params.items() if key not in ("width", "from", "to", "colors")}
        if "path" in params:
            params["path"] = Path(params["path"]).read_bytes()
        found.append({"type": layer.type, **params})
    return found


def test_every_shipped_task_has_a_spec_for_real_models() -> None:
    assert {file.name for file in SPECS} == {file.name for file in (ROOT / "specs").glob("*.yaml")}


@each_spec
def test_models_and_settings_are_those_of_the_paper(file: Path) -> None:
    for spec in variants(file):
        check_plugins(spec)
        assert spec.name == f"real_{file.stem}"
        assert (spec.generator.type, [ref.type for _, ref in spec.judges]) == ("flux-schnell", ["qwen2.5-vl"])
        assert [ref.type for _, ref in spec.referees] == ["smolvlm2"]
        train, lora = spec.train, spec.train.lora
        assert (train.steps, train.batch, train.lr, train.clip, train.weight_decay) == (100, 1, 5e-5, 1.0, 0)
        assert (lora.rank, lora.strength * lora.alpha / lora.rank) == (16, 2.5)
        assert spec.evaluation.seeds == 5
        assert len(spec.prompts.eval) * spec.evaluation.seeds >= 40
        assert spec.preserve is not None


@each_spec
def test_values_are_those_of_the_paper(file: Path) -> None:
    key, values = {
        "line_weight": ("width", {"thin": 0.007, "thick": 0.045}),
        "horizon": ("row", {"high": 0.30, "middle": 0.43, "low": 0.79}),
        "palette": ("colors", {"dark_academia": ["#3B1518", "#2E2B25", "#1F3A4A"]}),
    }.get(file.stem, ("", {}))
    found = {name: given.get(key) for name, given in variants(file)[0].variants.items()}
    assert {name: found[name] for name in values} == values


@each_spec
def test_the_task_is_that_of_the_shipped_spec(file: Path) -> None:
    if file.stem in ("commonsense", "attribute"):  # without a visual prompt; the questions follow the prompts
        assert all(spec.visual_prompt is None for spec in variants(file))
        return
    for real, shipped in zip(variants(file), variants(ROOT / "specs" / file.name), strict=True):
        assert real.variant == shipped.variant
        assert real.questions[0] == shipped.questions[0]
        assert layers(real) == layers(shipped)
        assert real.visual_prompt is not None
        assert shipped.visual_prompt is not None
        for key in ("blend", "opacity", "jitter"):
            assert getattr(real.visual_prompt, key) == getattr(shipped.visual_prompt, key)


@each_spec
def test_the_first_scorer_measures_the_task_and_others_the_image(file: Path) -> None:
    for spec in variants(file):
        first, *others = [ref.type for ref in spec.scorers]
        assert first == FIRST[file.stem]
        assert {"clip", "dino", "pickscore"} <= {first, *others}


@each_spec
def test_fields_that_scorers_name_are_those_of_the_prompts(file: Path) -> None:
    for spec in variants(file):
        fields = [prompt.fields for prompt in (*spec.prompts.train_prompts(), *spec.prompts.eval_prompts())]
        for ref in spec.scorers:
            named = [ref.params[key] for key in ("field", "against_field") if key in ref.params]
            assert all(name in each for name in named for each in fields)


def test_commands_for_the_folder_specs_leave_them_out(tmp_path: Path) -> None:
    shipped, real = (
        {job.spec.name for job in plan_jobs([str(ROOT / place)], (), None, tmp_path)}
        for place in ("specs", "specs/real")
    )
    assert not any(name.startswith("real_") for name in shipped)
    assert real == {f"real_{file.stem}" for file in SPECS}


@pytest.mark.nightly
@each_spec
def test_every_spec_fits_into_80_gb(file: Path) -> None:
    pytest.importorskip("num2words")
    assert dry_run(variants(file, *OFFLINE)[0], gpu=True).peak < 80e9


@pytest.mark.nightly
@each_spec
def test_with_its_flags_every_spec_fits_into_24_gb(file: Path) -> None:
    pytest.importorskip("num2words")
    assert dry_run(variants(file, *OFFLINE, *documented_flags())[0], gpu=True).peak < 24e9
