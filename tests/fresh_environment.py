"""An environment of its own to install plugin packages into, offline, without a second copy of torch."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass
from pathlib import Path

COMMANDS = {"pip": "pip", "pytest": "pytest", "dp": "dualproc"}
"""The commands that documents name, and the modules that they run."""


@dataclass(frozen=True)
class Environment:
    """A virtual environment that sees the packages of the one that the tests run in, and keeps its own to itself."""

    root: Path

    @classmethod
    def make(cls, root: Path) -> Environment:
        """Make one in an empty folder."""
        venv.create(root, with_pip=False)
        scheme = {"base": str(root), "platbase": str(root)}
        folder = Path(sysconfig.get_path("purelib", "venv" if os.name == "posix" else "nt_venv", vars=scheme))
        # `addsitedir` and not the bare path: it reads the .pth files there, by which editable installs are found.
        parent = sysconfig.get_path("purelib")
        (folder / "parent.pth").write_text(f"import site; site.addsitedir({parent!r})\n", encoding="utf-8")
        made = cls(root)
        for command, module in COMMANDS.items():
            script = made.scripts / command
            script.write_text(f'#!/bin/sh\nexec "{made.python}" -m {module} "$@"\n', encoding="utf-8")
            script.chmod(0o755)
        return made

    @property
    def scripts(self) -> Path:
        """Where its commands are."""
        return self.root / ("bin" if os.name == "posix" else "Scripts")

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.scripts / "python"

    def run(self, command: str, cwd: Path, *, code: int | None = 0) -> str:
        """What a shell command prints, stderr too; fails unless it ends with exit code `code` (None: whatever)."""
        own = {
            "PATH": f"{self.scripts}{os.pathsep}{os.environ['PATH']}",
            "PIP_NO_INDEX": "1",
            "PIP_NO_DEPS": "1",  # all are there, and to see that takes pip ten seconds
            "PIP_NO_BUILD_ISOLATION": "0",  # pip reads this as `--no-build-isolation`; setuptools is there, too
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "COLUMNS": "120",
        }
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "PYTEST"))}
        done = subprocess.run(
            command,
            shell=True,
            cwd=cwd,
            env=inherited | own,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert code is None or done.returncode == code, f"`{command}` ended with {done.returncode}:\n{done.stdout}"
        return done.stdout


def ruff(folder: Path) -> None:
    """Fail unless ruff has nothing to say about the files of a folder, by the folder's own settings."""
    for command in (["check", "--no-cache"], ["format", "--check", "--no-cache"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, str(folder)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
