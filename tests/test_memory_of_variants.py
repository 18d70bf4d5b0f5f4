"""`dp run` with several variants: the models of one are freed before those of the next are loaded."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from found_images import dp
from test_cli_run import SPEC

from dualproc.plugins.generators.diffusers import DiffusersGenerator
from dualproc.plugins.judges.transformers import TransformersJudge

MORE = "referee: {type: tiny-referee}\nanchor: {type: base_denoise}\nscorers: [{type: horizon, target: 0.3}]\n"


SAVING = "".join(f"{role}: {{type: tiny, checkpointing: true, offload: true}}\n" for role in ("generator", "judge"))


def models_of(plugin: DiffusersGenerator | TransformersJudge) -> dict[str, Any]:
    if isinstance(plugin, TransformersJudge):
        return {"judge": plugin.model}
    return {"backbone": plugin.adapter_module, "vae": plugin.pipe.vae}


@pytest.mark.parametrize("saving", ["", SAVING], ids=["plain", "offload"])
def test_models_are_freed_before_the_next_variant_loads_its_own(
    saving: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[tuple[str, weakref.ref[Any]]] = []
    alive: list[list[str]] = []
    """When each generator begins to load: the models that exist."""

    def observed(plugin: type, init: Callable[..., None]) -> Callable[..., None]:
        def load(self: Any, params: Any) -> None:
            if plugin is DiffusersGenerator:
                alive.append([name for name, model in loaded if model() is not None])
            init(self, params)
            loaded.extend((name, weakref.ref(model)) for name, model in models_of(self).items())

        return load

    for plugin in (DiffusersGenerator, TransformersJudge):
        monkeypatch.setattr(plugin, "__init__", observed(plugin, plugin.__init__))
    spec = tmp_path / "spec.yaml"
    spec.write_text(SPEC.replace("steps: 1", "steps: 2, watch: {every: 2, images: 1}") + MORE + saving)
    code, _, err = dp(capsys, "run", spec, "--out", tmp_path / "runs")
    assert code == 0, err
    assert len(loaded) == 8  # two variants, each with backbone, VAE, judge and referee
    assert alive == [[], []]
