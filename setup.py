"""What pyproject.toml cannot declare: specs inside the package, and a description for package indexes."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
LINK = re.compile(r"!?\[([^\]]+)\]\((?!\w+://)([^)\s]+)\)")
"""A Markdown link or image whose target is not a URL."""


class BuildWithSpecs(build_py):
    """Copies specs/ to dualproc/specs in a wheel. In a clone and an editable install, specs/ itself is read."""

    def run(self) -> None:
        """Build the package."""
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib, "dualproc", "specs")
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(ROOT / "specs", target)


def description() -> str:
    """README.md with relative links replaced by their text and path: on the page of an index, they lead nowhere."""

    def unlinked(link: re.Match[str]) -> str:
        text, target = link.groups()
        return text if text == target else f"{text} (`{target}`)"

    return LINK.sub(unlinked, (ROOT / "README.md").read_text(encoding="utf-8"))


setup(
    cmdclass={"build_py": BuildWithSpecs},
    long_description=description(),
    long_description_content_type="text/markdown",
)
