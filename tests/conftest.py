"""Fixtures that several test modules use."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

# Before torch is imported, and for the processes that tests start. The models are small: with more threads, the tests
# take several times as long, because the threads wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Tests keep their tensors on the CPU, and on a machine with a GPU, models with `device: auto` would be on the GPU.
if os.environ.get("DUALPROC_TEST_GPU") != "1":
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

# A shell without job control lets what it starts in the background ignore Ctrl+C, and so do the processes of tests.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

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


@pytest.fixture
def small(install: Callable[..., None], tmp_path: Path) -> Path:
    """The spec `SMALL` in a file; its plugins are installed for one test."""
    from spec_texts import SMALL

    install("small")
    file = tmp_path / "small.yaml"
    file.write_text(SMALL)
    return file
