"""Models that the hub does not give away: the message says why, and what to do.

The exceptions are those of huggingface_hub itself, raised for the answers of a server that answers like the hub. Its
address is read when huggingface_hub is imported, so the models are loaded in a process of their own.
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import small_judges
import small_pipelines
import torch
from fake_hub import serve

from dualproc.kit.hub import hub_reason

LOADS = """
import json, sys, time, warnings
warnings.simplefilter("ignore")
time.sleep = lambda _: None  # huggingface_hub waits for minutes between its retries
from dualproc.errors import PluginError
from dualproc.plugins.generators.diffusers import DiffusersGenerator
from dualproc.plugins.judges.transformers import TransformersJudge
for name, kind, params in json.loads(sys.argv[1]):
    cls = {"generator": DiffusersGenerator, "judge": TransformersJudge}[kind]
    try:
        cls(cls.Params(device="cpu", **params))
    except PluginError as error:
        print(json.dumps([name, str(error)]))
    else:
        print(json.dumps([name, "loaded"]))
"""
Case = tuple[str, str, dict[str, str]]
CASES: list[Case] = [
    *[(f"{kind} {name}", kind, {"model": f"some/{name}"}) for kind in ("generator", "judge")
      for name in ("gated", "forbidden", "nothing", "down")],
    *[(f"{kind} revision", kind, {"model": f"some/{kind}", "revision": "v9"}) for kind in ("generator", "judge")],
    *[(f"{kind} variant", kind, {"model": f"some/{kind}", "variant": "fp16"}) for kind in ("generator", "judge")],
    ("generator without variant", "generator", {"model": "some/fp16"}),
    ("generator with variant", "generator", {"model": "some/fp16", "variant": "fp16"}),
    ("generator complete", "generator", {"model": "some/generator", "revision": "main"}),
    ("judge complete", "judge", {"model": "some/judge", "revision": "main"}),
    ("judge of the wrong kind", "judge", {"model": "some/generator"}),
    ("small VAE gated", "generator", {"model": "some/generator", "reward_vae": "some/gated"}),
]  # fmt: skip


def load(cases: list[Case], endpoint: str, cache: Path, **environment: str) -> dict[str, str]:
    """What loading each of the models printed, in one process."""
    given = {"HF_ENDPOINT": endpoint, "HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1", **environment}
    kept = {name: value for name, value in os.environ.items() if name not in ("HF_TOKEN", "HF_HUB_OFFLINE")}
    command = [sys.executable, "-c", LOADS, json.dumps(cases)]
    done = subprocess.run(command, env={**kept, **given}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(line) for line in done.stdout.splitlines() if line.startswith("["))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def answers(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, str]]:
    halves = tmp_path_factory.mktemp("fp16")
    small_pipelines.FAMILIES["sd"].build().to(torch.float16).save_pretrained(halves, variant="fp16")
    endpoint, server = serve({
        "some/gated": "gated, not logged in", "some/forbidden": "gated, no access", "some/down": "down",
        "some/generator": small_pipelines.saved("sd").name, "some/fp16": str(halves),
        "some/judge": str(small_judges.save("llava-1.5", tmp_path_factory.mktemp("judge"))),
    })  # fmt: skip
    yield load(CASES, endpoint, cache)
    server.shutdown()


@pytest.mark.parametrize("kind", ["generator", "judge"])
@pytest.mark.parametrize(
    ("name", "reason"), [("gated", "you are not logged in"), ("forbidden", "your account has no access yet")]
)
def test_a_gated_model_names_the_page_of_its_terms_and_the_command_to_log_in(
    answers: Mapping[str, str], kind: str, name: str, reason: str
) -> None:
    assert answers[f"{kind} {name}"] == (
        f"cannot load the {kind} 'some/{name}': it is gated, and {reason}\n"
        f"  accept the terms at https://huggingface.co/some/{name}, then log in with a token of that account: "
        "hf auth login"
    )


def test_a_gated_small_vae_says_the_same(answers: Mapping[str, str]) -> None:
    assert answers["small VAE gated"].startswith("cannot load the reward_vae 'some/gated': it is gated")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "the hub has no model of this name, or it is private\n  check the name"),
        ("down", "the hub answered with status 503\n  try again later"),
        ("revision", "it has no revision 'v9'\n  https://huggingface.co/some/{kind}/commits/main lists its revisions"),
        ("variant", "it has no weights of the variant 'fp16'\n  leave `variant` out: it has none"),
    ],
)
@pytest.mark.parametrize("kind", ["generator", "judge"])
def test_other_reasons_are_told_apart(answers: Mapping[str, str], kind: str, name: str, message: str) -> None:
    assert message.format(kind=kind) in answers[f"{kind} {name}"]


def test_weights_that_exist_only_as_a_variant_name_it(answers: Mapping[str, str]) -> None:
    assert "set its parameter `variant`; its files have: fp16" in answers["generator without variant"]
    assert answers["generator with variant"] == "loaded"


def test_a_model_of_another_kind_is_neither_gated_nor_missing(answers: Mapping[str, str]) -> None:
    assert (
        "write the hub id of a vision-language model, or a folder that holds one" in answers["judge of the wrong kind"]
    )


def test_a_model_that_the_hub_gives_away_is_downloaded_and_kept(answers: Mapping[str, str], cache: Path) -> None:
    assert (answers["generator complete"], answers["judge complete"]) == ("loaded", "loaded")
    kept = {"model": "some/generator"}
    offline = load(
        [("kept", "generator", kept), ("new", "judge", {"model": "some/new"})], "http://127.0.0.1:9", cache,
        HF_HUB_OFFLINE="1",
    )  # fmt: skip
    assert offline["kept"] == "loaded"
    assert "neither a local folder nor a downloaded model, and HF_HUB_OFFLINE forbids downloads" in offline["new"]
    assert "run once without HF_HUB_OFFLINE" in offline["new"]


def test_a_hub_that_does_not_answer_is_named(tmp_path: Path) -> None:
    cases: list[Case] = [(kind, kind, {"model": "some/model"}) for kind in ("generator", "judge")]
    for message in load(cases, "http://127.0.0.1:9", tmp_path).values():
        assert "neither a local folder nor a downloaded model, and the hub cannot be reached" in message
        assert "run once with network access" in message


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), RuntimeError("No space left on device (os error 28)")]
)
def test_a_full_disk_is_not_a_wrong_name(error: Exception) -> None:
    libraries = OSError("Can't load the model 'some/model'")
    libraries.__cause__ = error
    assert (found := hub_reason("some/model", libraries, {})) is not None
    assert found[0] == "there is no space left for its files"
    assert "set HF_HOME to a folder on a larger disk" in found[1]
