"""The documentation: valid specs, existing commands and links, generated parts that are up to date, code that runs."""

from __future__ import annotations

import configparser
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
import typer
from installed import install

from dualproc import registry
from dualproc.cli import app
from dualproc.protocols import KINDS
from dualproc.resolve import read_checked
from dualproc.types import ScoreContext
from tools import ablation, results
from tools.reference import PAGES

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DOCUMENTS = sorted(file for folder in (".", "docs", "dualproc/weights") for file in (ROOT / folder).glob("*.md"))
FRAMES = """
import sys
import traceback
from pathlib import Path
import dualproc, torch
from dualproc.cli import main

def backward(*_):
    home = Path(dualproc.__file__).parent
    for frame in traceback.extract_stack():
        if Path(frame.filename).is_relative_to(home):
            print("frame", Path(frame.filename).relative_to(home).as_posix(), frame.name, sep="\\t", file=sys.stderr)
    raise SystemExit

torch.autograd.backward = backward
main({command})
"""
"""Runs a command up to its first backward pass, and prints the library's own frames on the way."""
LEAF = {"plugins": {*KINDS, "show"}, "specs": set[str]()}
"""Words that may follow a command that also works alone."""


def blocks(document: Path, language: str) -> list[str]:
    """The code blocks of a document in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", document.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def commands(document: Path) -> Iterator[list[str]]:
    """The words of every `dp ...` in code, up to the first that cannot be the name of a command."""
    text = document.read_text(encoding="utf-8")
    fenced = re.findall(r"^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"^```\w*\n.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))
    code = [*(line for block in fenced for line in block.splitlines()), *inline]
    for line in code:
        if match := re.match(r"\s*(?:\.venv/bin/)?dp((?: [a-z_]+(?:-[a-z]+)*(?=\s|$))+)", line):
            yield match[1].split()


def known(words: list[str]) -> bool:
    """Whether the words begin with a command of `dp`."""
    group = typer.main.get_command(app)
    for depth, word in enumerate(words):
        children = getattr(group, "commands", None)
        if children is None:
            return True  # the rest are arguments
        if word not in children:
            return depth > 0 and word in LEAF.get(words[depth - 1], ())
        group = children[word]
    return not getattr(group, "commands", None) or words[-1] in LEAF


def test_specs_in_the_readme_are_valid(tmp_path: Path) -> None:
    specs = [text for text in blocks(README, "yaml") if "schema_version" in text]
    assert specs
    for number, text in enumerate(specs):
        file = tmp_path / f"{number}.yaml"
        file.write_text(text, encoding="utf-8")
        assert read_checked(file).each()[0].require().name


def test_readme_is_short() -> None:
    assert len(README.read_text(encoding="utf-8").split()) <= 1500


def test_the_architecture_names_every_frame_from_the_command_to_the_gradient() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \d \| `(\S+)` `(?:\w+\.)?(\w+)` \|", text, re.MULTILINE)
    with tempfile.TemporaryDirectory() as folder:
        command = ["run", "specs/line_weight.yaml", "--variant", "thick", "--out", str(Path(folder, "run"))]
        program = FRAMES.format(command=command)
        done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    found = [tuple(line.split("\t")[1:]) for line in done.stderr.splitlines() if line.startswith("frame\t")]
    assert found == rows, done.stderr


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_in_the_documentation_exist(document: Path) -> None:
    assert [words for words in commands(document) if not known(words)] == []


def test_readme_shows_every_command() -> None:
    shown = {words[0] for words in commands(README)}
    assert shown == set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


@pytest.mark.parametrize("words", ["run", "spec check", "plugins", "plugins judges"])
def test_existing_command_is_known(words: str) -> None:
    assert known(words.split())


@pytest.mark.parametrize("words", ["fit", "spec chek", "spec", "plugins judgez"])
def test_misspelled_command_is_unknown(words: str) -> None:
    assert not known(words.split())


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_lead_to_files(document: Path) -> None:
    targets = re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8"))
    files = [target.partition("#")[0] for target in targets if "://" not in target]
    assert [file for file in files if file and not (document.parent / file).exists()] == []


@pytest.mark.parametrize("page", PAGES)
def test_reference_page_is_up_to_date(page: str) -> None:
    pinned = re.search(r"^typer==(\d+\.\d+)", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    if page == "commands.md" and (not pinned or not version("typer").startswith(f"{pinned[1]}.")):
        pytest.skip("the page has the layout of help of the typer in constraints.txt")
    assert (ROOT / "docs" / page).read_text(encoding="utf-8") == PAGES[page](), (
        "outdated: run `python -m tools.reference`"
    )


@pytest.mark.parametrize(
    ("document", "markers"),
    [
        ("README.md", results.SMALL_TABLE),
        ("docs/results.md", results.FULL_TABLE),
        ("docs/ablation.md", (ablation.BEGIN, ablation.END)),
    ],
)
def test_markers_of_generated_tables_occur_once_and_in_order(document: str, markers: tuple[str, str]) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    assert [text.count(marker) for marker in markers] == [1, 1]
    assert text.index(markers[0]) < text.index(markers[1])


def test_plugin_in_the_readme_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = (text for text in blocks(README, "python") if "class Redness" in text)
    (project,) = blocks(README, "toml")
    parser = configparser.ConfigParser()
    parser.read_string(project)
    target = parser['project.entry-points."dualproc.scorers"']["redness"].strip('"')
    install(tmp_path, "redness", code, f"[dualproc.scorers]\nredness = {target}\n", monkeypatch)
    loaded = registry.load("scorers", "redness")
    scorer = loaded.cls(loaded.params({"target": 0.5}))
    images = torch.tensor([[1.0, 0, 0], [0.5, 0.25, 0.25], [0, 0, 0]])[..., None, None].expand(3, 3, 4, 4)
    assert scorer.score(images, ScoreContext((), ())).tolist() == pytest.approx([1, 0.5, 0])


def test_example_runs(tmp_path: Path) -> None:
    script = str(ROOT / "examples" / "train_and_draw.py")
    command = [sys.executable, script, "--steps", "2", "--out", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "images on target" in done.stdout
    assert (tmp_path / "run" / "owl.png").exists()
