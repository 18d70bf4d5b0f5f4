"""Finding and loading plugins, with the fake distributions in tests/fake_plugins."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest

from dualproc import registry
from dualproc.errors import PluginError
from dualproc.protocols import KINDS

Install = Callable[..., None]
FAKE_PLUGINS = Path(__file__).parent / "fake_plugins"

BUILT_IN = {
    "generators": [
        "diffusers",
        "flux-dev",
        "flux-schnell",
        "flux2-klein",
        "kolors",
        "lumina2",
        "pixart-sigma",
        "qwen-image",
        "sana",
        "sd1.5",
        "sd3.5",
        "sdxl",
        "sdxl-turbo",
        "tiny",
        "z-image-turbo",
    ],
    "judges": [
        "gemma3",
        "idefics2",
        "idefics3",
        "internvl3",
        "llava-1.5",
        "llava-onevision",
        "mllama",
        "paligemma2",
        "pixtral",
        "qwen2.5-vl",
        "qwen3-vl",
        "smolvlm2",
        "tiny",
        "tiny-referee",
        "transformers",
    ],
    "rewards": ["answer_likelihood", "yes_no_gap"],
    "visual_prompts": ["box", "image", "line", "points", "swatches", "text"],
    "anchors": ["base_answers", "base_colors", "base_denoise", "base_features", "base_image", "base_layout"],
    "scorers": [
        "clip", "composition", "depth", "depth_horizon", "depth_order", "detect", "dino", "horizon", "hue",
        "kept", "line_weight", "palette", "pickscore", "region_color", "tone",
    ],
}  # fmt: skip


def names(kind: str, distribution: str) -> list[str]:
    return [entry.name for entry in registry.entries(kind) if entry.distribution == distribution]


# listing


@pytest.mark.parametrize("kind", KINDS)
def test_all_built_in_plugins_are_registered(kind: str) -> None:
    assert names(kind, "dualproc") == BUILT_IN[kind]


def test_an_entry_has_distribution_version_and_target(install: Install) -> None:
    install("good")
    entry = registry.find("rewards", "constant")
    assert (entry.distribution, entry.version, entry.target) == ("acme-good", "1.2", "acme_good:Constant")


def test_the_version_of_an_editable_install_comes_from_its_metadata() -> None:
    assert registry.find("rewards", "yes_no_gap").version == metadata.version("dualproc")


def test_listing_imports_no_plugin(install: Install) -> None:
    install("good", "broken", "twin_a", "twin_b")
    before = set(sys.modules)
    assert sum(len(registry.entries(kind)) for kind in KINDS) > 25
    assert not [name for name in set(sys.modules) - before if name.startswith(("acme", "twin", "dualproc"))]


def test_a_distribution_found_twice_is_listed_once(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("good")
    info = FAKE_PLUGINS / "good" / "acme_good-1.2.dist-info"
    shutil.copytree(info, tmp_path / "again" / info.name)
    shutil.copytree(info, tmp_path / "other_spelling" / "Acme.Good-1.2.dist-info")
    for folder in ("again", "other_spelling"):
        monkeypatch.syspath_prepend(tmp_path / folder)
    assert names("scorers", "acme-good") == ["brightness"]
    assert registry.load("scorers", "brightness").cls.__name__ == "Brightness"


def test_an_invalid_entry_point_fails_only_when_it_is_named(install: Install) -> None:
    install("good", "garbled_line")
    assert names("rewards", "garbled-line") == ["garbled", "neighbour"]
    assert names("rewards", "dualproc") == BUILT_IN["rewards"]
    assert registry.load("rewards", "neighbour").cls.__name__ == "Constant"
    with pytest.raises(PluginError, match=r"garbled-line 1\.0.*expected an entry point of the form module:object"):
        registry.load("rewards", "garbled")


def test_an_unreadable_entry_points_file_is_reported_and_skipped(install: Install) -> None:
    install("garbled_file", "good")
    found = registry.discover("rewards")
    assert [entry.name for entry in found.entries if entry.distribution == "dualproc"] == BUILT_IN["rewards"]
    assert len(found.unreadable) == 1
    assert "garbled_file-1.0.dist-info" in found.unreadable[0]
    with pytest.raises(PluginError) as caught:
        registry.find("rewards", "of_the_garbled_file")
    assert "garbled_file-1.0.dist-info" in str(caught.value)


def test_an_unknown_kind_is_rejected_with_the_known_kinds() -> None:
    with pytest.raises(PluginError, match="unknown kind of plugin: 'judge'") as caught:
        registry.entries("judge")
    assert "judges" in str(caught.value.hint)


# looking up


def test_an_unknown_name_has_a_suggestion_and_the_command_that_lists_the_plugins() -> None:
    with pytest.raises(PluginError, match="no visual prompt plugin is called 'lin'") as caught:
        registry.find("visual_prompts", "lin")
    assert caught.value.hint == "did you mean `line`? `dp plugins visual_prompts` lists the installed plugins"


def test_a_name_in_two_distributions_is_rejected_and_both_are_named(install: Install) -> None:
    install("twin_a", "twin_b")
    with pytest.raises(PluginError) as caught:
        registry.find("rewards", "twin")
    assert "twin-a 1.0 and twin-b 1.0" in caught.value.message
    assert caught.value.hint == "write 'twin-a/twin' or 'twin-b/twin'"


@pytest.mark.parametrize("name", ["twin-b/twin", "twin_b/twin", "Twin.B/twin"])
def test_distribution_and_name_select_one_of_two_plugins(install: Install, name: str) -> None:
    install("twin_a", "twin_b")
    assert registry.load("rewards", name).summary == "The twin of distribution twin-b."


def test_a_name_that_the_distribution_does_not_have_is_unknown(install: Install) -> None:
    install("twin_a", "twin_b")
    with pytest.raises(PluginError, match="no reward plugin is called 'dualproc/twin'"):
        registry.find("rewards", "dualproc/twin")


# loading


def test_a_loaded_class_has_the_summary_from_its_docstring(install: Install) -> None:
    install("good")
    loaded = registry.load("rewards", "constant")
    assert (loaded.cls.__name__, loaded.summary, loaded.preset) == ("Constant", "Always the same reward.", {})


def test_presets_can_build_on_presets_and_the_outer_one_has_precedence(install: Install) -> None:
    install("good")
    loaded = registry.load("rewards", "quarter")
    assert loaded.cls.__name__ == "Constant"
    assert loaded.preset == {"value": 0.25, "unit": "marks"}
    assert loaded.summary == "A quarter of a reward."


def test_the_parameters_of_a_preset_are_defaults_and_not_required(install: Install) -> None:
    install("good")
    assert registry.load("visual_prompts", "dot").schema()["required"] == ["at"]
    schema = registry.load("visual_prompts", "middle").schema()
    assert "required" not in schema
    assert schema["properties"]["at"]["default"] == [0.5, 0.5]
    assert schema["properties"]["at"]["description"] == "where"


@pytest.mark.parametrize(
    ("name", "cause", "remedy"),
    [
        ("raises", "RuntimeError: the moon is in the wrong phase", "pip install --force-reinstall acme-broken"),
        ("needs_missing", "No module named 'surely_not_installed'", "pip install surely_not_installed"),
        ("no_module", "No module named 'acme_broken.nowhere'", "pip install --force-reinstall acme-broken"),
        ("no_object", "has no attribute 'Nothing'", "pip install --force-reinstall acme-broken"),
        ("too_new", "written for plugin API 2, but this version of dualproc has 1", "pip install --upgrade dualproc"),
        ("too_old", "its api_version is 0", "pip install --upgrade acme-broken"),
        ("no_version", "its api_version is None", "pip install --upgrade acme-broken"),
        ("new_preset", "written for plugin API 2", "pip install --upgrade dualproc"),
        ("no_params", "NoParams has no nested pydantic model Params", "author"),
        ("lenient", "Lenient.Params does not forbid extra keys", "author"),
        ("no_call", "NoCall lacks __call__", "author"),
        ("a_scorer", "AScorer lacks __call__", "author"),
        ("not_a_class", "neither a class nor a dualproc.protocols.Preset", "author"),
        ("leaves", "SystemExit: 0", "pip install --force-reinstall acme-broken"),
        ("mute", "Mute: (its text cannot be shown)", "report this to the plugin's author"),
        ("undefined", "Undefined.Params has no JSON schema: PydanticUserError", "author"),
        (
            "odd_preset",
            "its Preset needs strings for `of`, `summary` and `train_source`, and mappings for `params` and `train`",
            "author",
        ),
    ],
)
def test_a_broken_plugin_is_reported_with_origin_cause_and_remedy(
    install: Install, name: str, cause: str, remedy: str
) -> None:
    install("good", "broken")
    with pytest.raises(PluginError) as caught:
        registry.load("rewards", name)
    assert f"reward '{name}' (acme-broken 0.3, entry point acme_broken." in caught.value.message
    assert cause in caught.value.message
    assert remedy in (caught.value.hint or "")


def test_a_class_variable_without_a_value_is_missing(install: Install) -> None:
    install("broken")
    with pytest.raises(PluginError, match=r"HalfDoneScorer lacks score, unit"):
        registry.load("scorers", "half_done")


def test_an_exception_in_a_validator_is_reported_as_an_error_of_the_plugin(install: Install) -> None:
    install("broken")
    loaded = registry.load("rewards", "stumbles")
    loaded.params({})
    with pytest.raises(PluginError, match=r"reward 'stumbles' \(acme-broken.*cannot be used: KeyError: 'cubic'"):
        loaded.params({"scale": "cubic"})


def test_all_mistakes_of_a_class_are_reported_at_once(install: Install) -> None:
    install("broken")
    with pytest.raises(PluginError, match=r"Lenient.Params does not forbid extra keys; Lenient lacks answer_log_"):
        registry.load("judges", "lenient")


def test_a_preset_prefers_a_plugin_of_its_own_distribution(install: Install) -> None:
    install("twin_a", "twin_b")
    loaded = registry.load("rewards", "like_twin")
    assert (loaded.cls.__module__, loaded.summary) == ("twin_a", "The twin of its own distribution.")


def test_a_preset_of_a_missing_plugin_names_both(install: Install) -> None:
    install("good")
    with pytest.raises(PluginError, match=r"reward 'lost_preset' \(acme-good.*no reward plugin is called 'nowhere'"):
        registry.load("rewards", "lost_preset")


def test_presets_in_a_cycle_are_rejected(install: Install) -> None:
    install("good")
    with pytest.raises(PluginError, match="its presets form a cycle: 'circle' -> 'circle_back' -> 'circle'\n"):
        registry.load("rewards", "circle")


@pytest.mark.parametrize("kind", ["rewards", "visual_prompts"])
def test_built_in_plugins_have_summaries_and_described_parameters(kind: str) -> None:
    for name in BUILT_IN[kind]:
        loaded = registry.load(kind, f"dualproc/{name}")
        assert loaded.summary.endswith(".")
        assert all(field.description for field in loaded.cls.Params.model_fields.values())


# the command line with all of them installed


@pytest.mark.parametrize(
    ("command", "code", "expected"),
    [
        ("--help", 0, "dp plugins"),
        ("plugins", 0, "acme_broken.leaves:Reward"),
        ("spec check specs/horizon.yaml", 0, "ok: horizon"),
        ("spec check specs/horizon.yaml --set reward.type=raises", 2, "RuntimeError: the moon is in the wrong phase"),
        ("plugins show rewards/leaves", 2, "cannot be used: SystemExit: 0"),
    ],
)
def test_broken_plugins_have_no_effect_until_one_is_named(command: str, code: int, expected: str) -> None:
    path = os.pathsep.join(str(folder) for folder in sorted(FAKE_PLUGINS.iterdir()))
    done = subprocess.run(
        [sys.executable, "-m", "dualproc", *command.split()],
        env={**os.environ, "PYTHONPATH": path},
        cwd=FAKE_PLUGINS.parents[1],
        capture_output=True,
        text=True,
    )
    assert done.returncode == code, done.stderr
    assert expected in (done.stderr if code else done.stdout)
    assert "Traceback" not in done.stderr
    assert code or "Error" not in done.stderr
