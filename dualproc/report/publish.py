"""`dp push`: upload a run's LoRA, model card and samples to the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from dualproc.errors import DualprocError, RunError
from dualproc.kit.hub import LOGIN
from dualproc.run.files import ASIDE, read_text
from dualproc.run.folder import CARD, COMFYUI, EVALUATION, RESOLVED, SAMPLES, SLIDERS, WEIGHTS, RunFolder
from dualproc.run.inputs import INPUTS
from dualproc.run.lock import refuse_locked
from dualproc.run.resolved import leaves
from dualproc.spec.paths import MODELS
from dualproc.wording import command

if TYPE_CHECKING:
    from huggingface_hub import HfApi

UPLOADED = (
    CARD, WEIGHTS, COMFYUI, "adapter_model.safetensors", "adapter_config.json", f"{SLIDERS}/*", f"{SAMPLES}/*",
    EVALUATION, RESOLVED,
)  # fmt: skip
"""What is uploaded of a run. Not the spec as written, its input files, `env.json` or checkpoints: they may name or
contain what is private."""
_EXPECTED = {"base_model": "the base model's page does not list this LoRA", "license": "users do not know its terms"}


def metadata(run: RunFolder) -> dict[str, Any]:
    """The front matter of the run's model card. Raises RunError if there is none, or it cannot be read."""
    text = read_text(run.path / CARD)
    begin, found, rest = text.partition("---\n")
    head, end, _ = rest.partition("\n---")
    try:
        data = yaml.safe_load(head)
    except yaml.YAMLError:
        data = None
    if begin or not found or not end or not isinstance(data, dict):
        raise RunError(
            f"{run.path / CARD} has no valid front matter", hint=f"write it again: {command('dp', 'score', run.path)}"
        )
    return data


def missing(run: RunFolder) -> list[str]:
    """What the model card does not tell the hub, one sentence each."""
    known = metadata(run)
    notes = [f"the model card has no `{key}`: {why}" for key, why in _EXPECTED.items() if not known.get(key)]
    if any((run.path / INPUTS).glob("*")):
        notes.append("its input files are not uploaded: `dp generate` cannot read the downloaded run, diffusers can")
    return notes


def publish(run: RunFolder, repo: str, *, private: bool = True, api: HfApi | None = None) -> str:
    """Upload a finished run to the model repository `repo`, made if it does not exist; returns the page's address.

    `repo` is `OWNER/NAME`, or `NAME` for the owner of the token. Files of the same names are replaced. `private`
    concerns a new repository only. Raises DualprocError if the hub refuses or cannot be reached, RunError if another
    process writes the run, the model card is damaged, or a file of the run is a link: what it points to may be private.
    """
    from huggingface_hub import HfApi

    refuse_locked(run.path)  # its files would be of two evaluations
    metadata(run)
    if link := next((path for path in sorted(run.path.rglob("*")) if path.is_symlink()), None):
        raise RunError(f"{link} is a link, and what it points to would be published", hint="replace it by a file")
    models = (str(value) for key, value in leaves(run.resolved) if key.rpartition(".")[2] in MODELS)
    if folder := next((model for model in models if Path(model).is_absolute()), None):
        raise RunError(
            f"the run names a folder of this machine, which would be published: {folder}",
            hint="train with the hub id of the model, or with its folder relative to the current one",
        )
    client = api or HfApi(library_name="dualproc")
    try:
        page = client.create_repo(repo, private=private, exist_ok=True)
        client.upload_folder(
            repo_id=page.repo_id,
            folder_path=run.path,
            allow_patterns=list(UPLOADED),
            ignore_patterns=[f"*{ASIDE}*"],  # what a killed process left
            commit_message=f"LoRA, model card and samples of {run.path.resolve().name}",
        )
    except Exception as error:  # of the hub's library, of its HTTP library, or of the network
        raise _refusal(repo, error) from error
    return str(page)


def _refusal(repo: str, error: Exception) -> DualprocError:
    cause = " ".join(str(error).split())[:300] or type(error).__name__
    kinds = {kind.__name__ for kind in type(error).__mro__}
    status = getattr(getattr(error, "response", None), "status_code", None)
    hint = None
    if status in (401, 403) or "LocalTokenNotFoundError" in kinds:
        hint = f"log in with a token that may write to {repo}: {LOGIN}"
    elif "HFValidationError" in kinds:
        hint = "for example dp push runs/horizon/high my-name/high-horizon"
    elif status is None and kinds & {"ConnectionError", "TransportError", "OfflineModeIsEnabled"}:
        cause, hint = "the hub cannot be reached", "check the network, and HF_HUB_OFFLINE and HF_ENDPOINT"
    return DualprocError(f"cannot upload to {repo}: {cause}", hint=hint)
