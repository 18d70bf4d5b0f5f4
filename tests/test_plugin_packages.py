"""Packages of plugins: those that `dp plugins new` writes, and the example, installed with pip and used by name."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from fresh_environment import Environment, ruff

from dualproc.cli import main
from dualproc.engine import lora
from dualproc.kit.adapters import lora_off
from dualproc.protocols import KINDS
from dualproc.scaffold import USES, new_package
from dualproc.spec import Lora

EXAMPLE = Path(__file__).parents[1] / "examples" / "dualproc-symmetry"
SINGULAR = ("generator", "judge", "reward", "visual_prompt", "anchor", "scorer")
SPEC = """
schema_version: 1
name: all_mine
prompts: {train: [a cat, a dog], eval: [an owl]}
question: {template: "Is the image warm?", answer: Yes}
train: {steps: 2, batch: 2}
evaluation: {seeds: 2}
"""
"""To which what a package's README says of its plugins is added."""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return Environment.make(tmp_path_factory.mktemp("environment"))


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What `dp plugins new` prints when it ends with exit code 2."""
    with pytest.raises(SystemExit) as caught:
        main(["plugins", "new", *arguments])
    assert caught.value.code == 2
    return capsys.readouterr().err


# what is written, without installing it


@pytest.mark.parametrize("name", ["ab", "abcdefghijklmnopqrstuvwxyz.abcde"])
@pytest.mark.parametrize("kind", SINGULAR)
def test_what_is_written_is_clean_and_complete(tmp_path: Path, kind: str, name: str) -> None:
    made = new_package(name, [kind], out=tmp_path / "new")
    assert sorted(made.files) == sorted(path for path in made.folder.rglob("*") if path.is_file())
    assert not any("{{" in file.read_text(encoding="utf-8") for file in made.files)
    ruff(made.folder)


def test_a_generator_that_is_written_leaves_the_lora_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = new_package("acme-nested", ["generator"], out=tmp_path / "new")
    monkeypatch.syspath_prepend(made.folder / "src")
    cls = importlib.import_module("acme_nested.generator").AcmeNestedGenerator
    generator = cls(cls.Params())
    for weight in lora.attach(generator.adapter_module, Lora(rank=1), generator.lora_targets, seed=0):
        torch.nn.init.ones_(weight.requires_grad_(False))

    def drawn(**switches: bool) -> torch.Tensor:
        images: torch.Tensor = generator.sample(["a cat"], [1], **switches).images
        return images

    with lora_off(generator.adapter_module):
        base = drawn(base=True)
        assert torch.equal(drawn(), base)
    assert not torch.equal(drawn(), base)
    assert not any(weight.requires_grad for weight in generator.adapter_module.parameters())


@pytest.mark.parametrize(
    ("name", "plugin"),
    [("dualproc-soft-light", "soft_light"), ("Acme.Plugins", "acme_plugins"), ("dualproc-3d", "dualproc_3d")],
)
def test_a_plugin_is_called_after_its_package(tmp_path: Path, name: str, plugin: str) -> None:
    assert new_package(name, ["judge"], out=tmp_path / "new").plugins == (f"judges/{plugin}",)


@pytest.mark.parametrize("kind", [*SINGULAR, *KINDS, "Visual-Prompt"])
def test_a_kind_may_be_written_in_the_singular_and_the_plural(tmp_path: Path, kind: str) -> None:
    (plugin,) = new_package("acme-one", [kind, kind], out=tmp_path / "new").plugins
    assert plugin.partition("/")[0].startswith(kind.lower().replace("-", "_"))


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("json", "Python has a 'json' already"),
        ("dualproc", "Python has a 'dualproc' already"),
        ("class", "Python has a 'class' already"),
        ("3d", "'3d' is no name of a package"),
        ("two words", "'two words' is no name"),
        ("../elsewhere", "'../elsewhere' is no name"),
        ("soft--light", "'soft--light' is no name"),
        ("", "'' is no name"),
        ("a" * 33, "has 33 characters"),
    ],
)
def test_a_name_that_cannot_be_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, cause: str
) -> None:
    assert cause in refused(capsys, name, "--out", str(tmp_path / "new"))
    assert not (tmp_path / "new").exists()


def test_an_unknown_kind_is_refused_with_the_nearest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = refused(capsys, "acme-one", "--kind", "scorer", "--kind", "juge", "--out", str(tmp_path / "new"))
    assert "'juge' is no kind of plugin\n  did you mean 'judge'? kinds: generator, judge, reward" in told
    assert not (tmp_path / "new").exists()


def test_nothing_that_is_there_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    for out in (tmp_path, tmp_path / "file"):
        assert f"{out} is there already" in refused(capsys, "acme-one", "--out", str(out))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text(encoding="utf-8") == "mine"


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    assert "cannot be written" in refused(capsys, "acme-one", "--out", str(tmp_path / "file" / "new"))


def test_an_empty_folder_will_do(tmp_path: Path) -> None:
    assert (new_package("acme-one", out=tmp_path).folder / "pyproject.toml").exists()


def test_the_next_steps_are_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        main(["plugins", "new", "dualproc-soft-light", "--kind", "reward"])
    assert caught.value.code == 0
    told = capsys.readouterr().out
    assert "wrote dualproc-soft-light/src/dualproc_soft_light/reward.py\n" in told
    assert told.endswith(
        "  cd dualproc-soft-light\n  pip install -e '.[dev]'\n  pytest\n  dp plugins show rewards/soft_light\n"
    )


# what is written, installed


@pytest.fixture(scope="module")
def all_kinds(environment: Environment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package with a plugin of every kind, installed."""
    folder = tmp_path_factory.mktemp("packages")
    environment.run(f"dp plugins new acme-all {' '.join(f'--kind {kind}' for kind in SINGULAR)}", folder)
    environment.run("pip install --quiet --editable .", folder / "acme-all")
    return folder / "acme-all"


def test_what_is_installed_is_listed_by_name(environment: Environment, all_kinds: Path) -> None:
    listed = environment.run("dp plugins", all_kinds)
    for kind in KINDS:
        assert [line.split()[:2] for line in listed.splitlines() if "acme-all 0.1.0" in line].count(
            [kind, "acme_all"]
        ) == 1


def test_what_is_installed_passes_its_own_tests(environment: Environment, all_kinds: Path) -> None:
    told = environment.run("pytest -q -p no:cacheprovider", all_kinds)
    assert "passed" in told
    assert "skipped" not in told


def test_a_spec_is_run_with_nothing_but_new_plugins(environment: Environment, all_kinds: Path, tmp_path: Path) -> None:
    uses = "\n".join(use.replace("{{name}}", "acme_all") for use in USES.values())
    assert uses in (all_kinds / "README.md").read_text(encoding="utf-8")
    (tmp_path / "spec.yaml").write_text(SPEC + uses, encoding="utf-8")
    environment.run("dp run spec.yaml --out run", tmp_path)
    assert (tmp_path / "run" / "pytorch_lora_weights.safetensors").exists()
    evaluation = json.loads((tmp_path / "run" / "evaluation.json").read_text(encoding="utf-8"))
    (score,) = evaluation["trained"]["scores"]
    assert (score["name"], score["target"], score["accepted"]) == ("acme_all", 0.5, [0.4, 0.6])


# the example


@pytest.fixture(scope="module")
def example(environment: Environment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the example, installed as users of it would: pip writes into a source folder that it builds from."""
    folder = tmp_path_factory.mktemp("example") / EXAMPLE.name
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("runs", "build", "*.egg-info", "__pycache__"))
    environment.run("pip install --quiet .", folder)
    return folder


def test_the_example_passes_its_own_tests(environment: Environment, example: Path) -> None:
    ruff(example)
    assert "passed" in environment.run("pytest -q -p no:cacheprovider", example)


def test_the_example_trains_the_shipped_generator(environment: Environment, example: Path, tmp_path: Path) -> None:
    few = "--set train.steps=2 --set train.batch=2 --set evaluation.seeds=1 --set train.lora.strength=20"
    told = environment.run(f"dp run {example / 'night.yaml'} --variant dark --out run {few}", tmp_path)
    assert "symmetry" in told
    evaluation = json.loads((tmp_path / "run" / "evaluation.json").read_text(encoding="utf-8"))
    base, trained = (sum(evaluation[which]["judge"]) for which in ("base", "trained"))
    assert trained > base  # two steps are enough to see that it gets darker


def test_the_readme_of_the_example_names_its_spec_and_plugins() -> None:
    text = (EXAMPLE / "README.md").read_text(encoding="utf-8")
    assert all(word in text for word in ("night.yaml", "`symmetry`", "`vignette`", "`brightness`"))
