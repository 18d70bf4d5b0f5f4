"""A virtual environment for tests that install plugin packages: offline, without a second copy of torch."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass
from pathlib import Path

COMMANDS = {"pip": "pip", "pytest": "pytest", "dp": "dualproc"}
"""The commands that the documentation uses, and the Python modules that they run."""


@dataclass(frozen=True)
class Environment:
    """A virtual environment that also sees the packages of the one that runs the tests, but never changes it."""

    root: Path

    @classmethod
    def make(cls, root: Path) -> Environment:
        """Create an environment in an empty folder."""
        venv.create(root, with_pip=False)
        scheme = {"base": str(root), "platbase": str(root)}
        folder = Path(sysconfig.get_path("purelib", "posix_prefix" if os.name == "posix" else "nt", vars=scheme))
        # Editable installs need `addsitedir`: unlike a plain path, it also reads the .pth files of the parent.
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
        """The folder of its commands."""
        return self.root / ("bin" if os.name == "posix" else "Scripts")

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.scripts / "python"

    def run(self, command: str, cwd: Path, *, code: int | None = 0) -> str:
        """Run a shell command; returns stdout and stderr. Fails unless the exit code is `code` (None: any)."""
        own = {
            "PATH": f"{self.scripts}{os.pathsep}{os.environ['PATH']}",
            "PIP_NO_INDEX": "1",
            "PIP_NO_DEPS": "1",  # all dependencies are installed; checking them takes pip ten seconds
            "PIP_NO_BUILD_ISOLATION": "0",  # pip reads this as `--no-build-isolation`; setuptools is installed
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
    """Fail if ruff reports anything about the files of a folder; uses the folder's own settings."""
    for command in (["check", "--no-cache"], ["format", "--check", "--no-cache"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, str(folder)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
