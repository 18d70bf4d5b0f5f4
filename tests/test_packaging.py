"""What a pip user gets: a wheel that was built from the sdist, installed, and used in an empty folder."""

from __future__ import annotations

import email
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.message import Message
from pathlib import Path

import pytest
from fresh_environment import Environment

from tools import lowest

ROOT = Path(__file__).parents[1]
SOURCES = ("dualproc", "specs", "docs", "tests", "tools", "pyproject.toml", "setup.py", "MANIFEST.in", "README.md",
           "LICENSE", "NOTICE")  # fmt: skip
BUILD = "import sys, setuptools.build_meta as backend; print(getattr(backend, f'build_{sys.argv[1]}')(sys.argv[2]))"
LINK = re.compile(r"\]\(\s*<?([^)\s>]+)|^\s*\[[^\]]+\]:\s*(\S+)|(?:href|src)\s*=\s*[\"']?([^\"'\s>]+)", re.MULTILINE)
"""The target of a Markdown link or image, inline or by reference, or of one in HTML."""


def build(kind: str, source: Path, target: Path) -> Path:
    """Build `sdist` or `wheel` of the project in a folder, as pip does."""
    target.mkdir(exist_ok=True)
    command = [sys.executable, "-c", BUILD, kind, str(target)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return target / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from an unpacked sdist."""
    folder = tmp_path_factory.mktemp("built")
    clone = folder / "clone"
    clone.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, clone / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, clone / name)
    with tarfile.open(build("sdist", clone, folder / "dist")) as archive:
        archive.extractall(folder / "sdist", filter="data")
    (source,) = (folder / "sdist").iterdir()
    return build("wheel", source, folder / "dist")


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(archive.read(name))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with the wheel."""
    folder = tmp_path_factory.mktemp("installed")
    environment = Environment.make(folder / "venv")
    environment.run(f"pip install {wheel}", folder)
    return environment


def test_the_wheel_has_every_file_of_the_specs(wheel: Path) -> None:
    ours = {file.relative_to(ROOT).as_posix(): file.read_bytes() for file in (ROOT / "specs").rglob("*.*")}
    prefix = "dualproc/"
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.startswith(f"{prefix}specs/")]
        assert {name.removeprefix(prefix): archive.read(name) for name in names} == ours


def test_every_link_of_the_long_description_is_absolute(metadata: Message) -> None:
    text = str(metadata.get_payload())
    assert text.startswith("# dualproc")
    targets = ["".join(found) for found in LINK.findall(text)]
    assert targets
    assert [target for target in targets if not target.startswith("https://")] == []
    assert "docs/spec.md" in text
    assert metadata["Description-Content-Type"] == "text/markdown"


def test_the_licence_expression_names_both_licences(metadata: Message) -> None:
    assert metadata["License-Expression"] == "Apache-2.0 AND CC-BY-SA-4.0"
    assert metadata.get_all("License-File") == ["LICENSE", "NOTICE"]


def test_an_installed_package_runs_a_shipped_spec_by_name_in_an_empty_folder(
    installed: Environment, tmp_path: Path
) -> None:
    where = installed.run("python -c 'import dualproc; print(dualproc.__file__)'", tmp_path)
    assert Path(where.strip()).is_relative_to(installed.root)
    listed = installed.run("dp specs", tmp_path)
    assert {"line_weight", "composition", "real/horizon"} <= {line.split(" ")[0] for line in listed.splitlines()}
    assert "ok: real_composition" in installed.run("dp spec check real/composition", tmp_path)
    small = "--set train.steps=1 --set train.batch=1 --set evaluation.seeds=1"
    installed.run(f"dp run composition --variant box_region {small}", tmp_path)
    assert (tmp_path / "runs/composition/box_region/report.html").is_file()


def test_the_constraints_of_the_lowest_versions_are_those_of_the_project() -> None:
    assert lowest.FILE.read_text(encoding="utf-8") == lowest.lowest(), "outdated: run `python -m tools.lowest`"
