"""Fixtures that several test modules use."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

FAKE_PLUGINS = Path(__file__).parent / "fake_plugins"


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Put distributions of tests/fake_plugins on the path, for one test; none of their modules is imported yet."""
    for module in [name for name in sys.modules if name.startswith(("acme_", "twin_"))]:
        monkeypatch.delitem(sys.modules, module)

    def install(*distributions: str) -> None:
        for distribution in distributions:
            monkeypatch.syspath_prepend(FAKE_PLUGINS / distribution)

    return install
