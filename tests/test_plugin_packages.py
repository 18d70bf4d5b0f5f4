"""Plugin packages: those that `dp plugins new` writes, and the example; installed with pip and used by name."""

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
"""A spec without plugins; the README of a package has the lines to add."""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return Environment.make(tmp_path_factory.mktemp("environment"))


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What `dp plugins new` prints to stderr; it must end with exit code 2."""
    with pytest.raises(SystemExit) as caught:
        main(["plugins", "new", *arguments])
    assert caught.value.code == 2
    return capsys.readouterr().err


# the written files


@pytest.mark.parametrize("name", ["ab", "abcdefghijklmnopqrstuvwxyz.abcde"])
@pytest.mark.parametrize("kind", SINGULAR)
def test_a_new_package_is_complete_and_passes_ruff(tmp_path: Path, kind: str, name: str) -> None:
    made = new_package(name, [kind], out=tmp_path / "new")
    assert sorted(made.files) == sorted(path for path in made.folder.rglob("*") if path.is_file())
    assert not any("{{" in file.read_text(encoding="utf-8") for file in made.files)
    ruff(made.folder)


def test_the_generator_of_a_new_package_restores_the_lora(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_a_plugin_is_named_after_its_package(tmp_path: Path, name: str, plugin: str) -> None:
    assert new_package(name, ["judge"], out=tmp_path / "new").plugins == (f"judges/{plugin}",)


@pytest.mark.parametrize("kind", [*SINGULAR, *KINDS, "Visual-Prompt"])
def test_a_kind_may_be_singular_or_plural(tmp_path: Path, kind: str) -> None:
    (plugin,) = new_package("acme-one", [kind, kind], out=tmp_path / "new").plugins
    assert plugin.partition("/")[0].startswith(kind.lower().replace("-", "_"))


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("json", "the package name 'json' is taken: Python already has a keyword or module 'json'"),
        ("dualproc", "Python already has a keyword or module 'dualproc'"),
        ("class", "Python already has a keyword or module 'class'"),
        ("3d", "invalid package name '3d'"),
        ("two words", "invalid package name 'two words'"),
        ("../elsewhere", "invalid package name '../elsewhere'"),
        ("soft--light", "invalid package name 'soft--light'"),
        ("", "invalid package name ''"),
        ("a" * 33, "has 33 characters"),
    ],
)
def test_an_invalid_name_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, cause: str) -> None:
    assert cause in refused(capsys, name, "--out", str(tmp_path / "new"))
    assert not (tmp_path / "new").exists()


def test_an_unknown_kind_is_refused_with_a_suggestion(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(capsys, "acme-one", "--kind", "scorer", "--kind", "juge", "--out", str(tmp_path / "new"))
    assert "unknown kind of plugin: 'juge'\n  did you mean `judge`? kinds: generator, judge, reward" in message
    assert not (tmp_path / "new").exists()


def test_existing_files_are_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    for out in (tmp_path, tmp_path / "file"):
        assert f"{out} exists already" in refused(capsys, "acme-one", "--out", str(out))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text(encoding="utf-8") == "mine"


def test_a_folder_that_cannot_be_written_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    message = refused(capsys, "acme-one", "--out", str(tmp_path / "file" / "new"))
    assert f"cannot write {tmp_path / 'file' / 'new'}: Not a directory" in message
    assert "`--out`" in message


def test_an_empty_folder_is_used(tmp_path: Path) -> None:
    assert (new_package("acme-one", out=tmp_path).folder / "pyproject.toml").exists()


def test_the_next_steps_are_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        main(["plugins", "new", "dualproc-soft-light", "--kind", "reward"])
    assert caught.value.code == 0
    printed = capsys.readouterr().out
    assert "wrote dualproc-soft-light/src/dualproc_soft_light/reward.py\n" in printed
    assert printed.endswith(
        "  cd dualproc-soft-light\n  pip install -e '.[dev]'\n  pytest\n  dp plugins show rewards/soft_light\n"
    )


# an installed package


@pytest.fixture(scope="module")
def all_kinds(environment: Environment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package with a plugin of every kind, installed."""
    folder = tmp_path_factory.mktemp("packages")
    environment.run(f"dp plugins new acme-all {' '.join(f'--kind {kind}' for kind in SINGULAR)}", folder)
    environment.run("pip install --quiet --editable .", folder / "acme-all")
    return folder / "acme-all"


def test_installed_plugins_are_listed_by_name(environment: Environment, all_kinds: Path) -> None:
    listed = environment.run("dp plugins", all_kinds)
    for kind in KINDS:
        assert [line.split()[:2] for line in listed.splitlines() if "acme-all 0.1.0" in line].count(
            [kind, "acme_all"]
        ) == 1


def test_an_installed_package_passes_its_own_tests(environment: Environment, all_kinds: Path) -> None:
    printed = environment.run("pytest -q -p no:cacheprovider", all_kinds)
    assert "passed" in printed
    assert "skipped" not in printed


def test_a_spec_runs_with_new_plugins_only(environment: Environment, all_kinds: Path, tmp_path: Path) -> None:
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
    """An installed copy of the example; a copy, because pip writes into the source folder."""
    folder = tmp_path_factory.mktemp("example") / EXAMPLE.name
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("runs", "build", "*.egg-info", "__pycache__"))
    environment.run("pip install --quiet .", folder)
    return folder


def test_the_example_passes_its_own_tests(environment: Environment, example: Path) -> None:
    ruff(example)
    assert "passed" in environment.run("pytest -q -p no:cacheprovider", example)


def test_the_example_trains_the_shipped_generator(environment: Environment, example: Path, tmp_path: Path) -> None:
    few = "--set train.steps=2 --set train.batch=2 --set evaluation.seeds=1 --set train.lora.strength=20"
    printed = environment.run(f"dp run {example / 'night.yaml'} --variant dark --out run {few}", tmp_path)
    assert "symmetry" in printed
    evaluation = json.loads((tmp_path / "run" / "evaluation.json").read_text(encoding="utf-8"))
    base, trained = (sum(evaluation[which]["judge"]) for which in ("base", "trained"))
    assert trained > base  # two training steps are enough to make images measurably darker


def test_the_readme_of_the_example_names_its_spec_and_plugins() -> None:
    text = (EXAMPLE / "README.md").read_text(encoding="utf-8")
    assert all(word in text for word in ("night.yaml", "`symmetry`", "`vignette`", "`brightness`"))
