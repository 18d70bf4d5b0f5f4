"""Makes a one-module distribution visible as if it were installed."""

from __future__ import annotations

from pathlib import Path

import pytest


def install(folder: Path, name: str, code: str, entry_points: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write the module `name` and its metadata into a folder, and add the folder to `sys.path` for one test."""
    info = folder / f"{name}-1.dist-info"
    info.mkdir()
    (info / "entry_points.txt").write_text(entry_points, encoding="utf-8")
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n", encoding="utf-8")
    (folder / f"{name}.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(folder)
