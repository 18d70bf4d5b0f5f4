"""Runs every `dp` command and every Python block of the README and docs/ in a folder like a clone.

The specs are shortened to one training step. Blocks marked `bash` in place of `sh` are left out: they train many fits,
or need a hub, a launcher or a tracker. Other tests cover docs/write_a_plugin.md (test_write_a_plugin) and the
plugin in the README (test_docs).
"""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import huggingface_hub.constants
import pytest
from found_images import dp
from test_docs import README, ROOT, blocks

PAGES = [README, *sorted(page for page in (ROOT / "docs").glob("*.md") if page.name != "write_a_plugin.md")]

STEPS, ONE = r"(?m)^(train: \{steps: )\d+", r"\g<1>1"


def commands(page: Path) -> list[str]:
    lines = [line for block in blocks(page, "sh") for line in block.replace("\\\n", " ").splitlines()]
    # The plan of the models in benchmarks/configs takes a minute; test_plan makes it with fewer layers.
    shortened = (re.sub(r"train\.steps=\d+", "train.steps=2", line) for line in lines)
    return [line for line in shortened if line.startswith("dp ") and "benchmarks/configs" not in line]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the documented commands use: specs, the spec of the README, shipped weights."""
    folder = tmp_path_factory.mktemp("clone")
    shutil.copytree(ROOT / "specs", folder / "specs")
    for spec in (*(folder / "specs").glob("*.yaml"), *(folder / "specs" / "sliders").glob("*.yaml")):
        text = re.sub(STEPS, ONE, spec.read_text(encoding="utf-8"))
        spec.write_text(text.replace("evaluation: {seeds: 22}", "evaluation: {seeds: 2}"))
    (spec_of_readme,) = blocks(README, "yaml")
    (folder / "horizon.yaml").write_text(re.sub(STEPS, ONE, spec_of_readme))
    shutil.copytree(ROOT / "dualproc" / "weights" / "generator", folder / "dualproc" / "weights" / "generator")
    return folder


def test_documented_commands_and_python_blocks_run(
    clone: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(clone)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    demo = ("run", "specs/line_weight.yaml", "--variant", "thick", "--overwrite")  # `make demo`, but only one variant
    assert dp(capsys, *demo)[0] == 0
    done = []
    for page in PAGES:
        for command in commands(page):
            code, out, err = dp(capsys, *shlex.split(command, comments=True)[1:])
            if "generator.type=flux-schnell" in command or "specs/real/" in command:
                # The command is valid: only the download fails, or, before it, the check for bitsandbytes.
                fails = [
                    "HF_HUB_OFFLINE forbids downloads",
                    *(["quantize: 4bit needs"] if "quantize=4bit" in command else []),
                ]
                assert code == 2, f"{page.name}: {command}\n{out}"
                assert any(reason in err for reason in fails), f"{page.name}: {command}\n{err}"
            else:
                assert code == 0, f"{page.name}: {command}\n{out}\n{err}"
            done.append(command)
        for block in blocks(page, "python"):
            if "class Redness" not in block:
                exec(compile(block, f"{page.name}: {block[:40]!r}", "exec"), {"__name__": "documented"})
                done.append(block)
    assert {command.split()[1] for command in done if command.startswith("dp ")} >= {"generate", "spec", "run", "plan"}
    assert any("load_lora_weights" in block for block in done)


def test_makefile_demo_runs_the_command_tested_here() -> None:
    assert "dp run specs/line_weight.yaml --overwrite" in (ROOT / "Makefile").read_text(encoding="utf-8")
