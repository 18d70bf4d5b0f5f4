"""Why a model of the Hugging Face hub cannot be loaded, and what to do."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dualproc.wording import listed

LOGIN = "hf auth login"
"""The command that stores a token of the hub."""
UNREACHABLE = ("LocalEntryNotFoundError", "RevisionResolutionError", "ConnectionError", "TransportError")
"""Names of exceptions, or of their base classes, that mean: not downloaded, and no answer from the hub."""
_VARIANT = re.compile(r"\.([A-Za-z]\w*)(?:-\d+-of-\d+)?\.safetensors$")


def page(model: str, *more: str) -> str:
    """The address of a model's page, or of one below it."""
    return "/".join(("https://huggingface.co", model, *more))


def hub_reason(model: str, error: BaseException, source: Mapping[str, Any]) -> tuple[str, str] | None:
    """Why loading `model` failed, and what to do; None if neither the hub nor a missing file is the reason.

    Libraries replace the hub's exceptions by their own, so all those that led to `error` are searched.

    Args:
        model: hub id or folder.
        error: what `from_pretrained` raised.
        source: the arguments of `from_pretrained` that select the files: `revision`, `variant`.
    """
    of_hub = not Path(model).is_dir()
    causes = {kind.__name__: cause for cause in _causes(error) for kind in type(cause).__mro__} if of_hub else {}
    revision = source.get("revision")
    if of_hub and any(map(_disk_is_full, _causes(error))):
        return _full_disk()
    if (gated := causes.get("GatedRepoError")) is not None:
        who = "you are not logged in" if _status(gated) == 401 else "your account has no access yet"
        hint = f"accept the terms at {page(model)}, then log in with a token of that account: {LOGIN}"
        return f"it is gated, and {who}", hint
    if "RevisionNotFoundError" in causes:
        return f"it has no revision {revision!r}", f"{page(model, 'commits', 'main')} lists its revisions"
    if "DisabledRepoError" in causes:
        return "the hub has disabled it", f"see {page(model)}"
    if "RepositoryNotFoundError" in causes:
        return (
            "the hub has no model of this name, or it is private",
            f"check the name; for a private model, log in with a token that may read it: {LOGIN}",
        )
    if (answer := causes.get("HfHubHTTPError")) is not None and _status(answer) != 404:
        refused = _status(answer) in (401, 403)
        hint = f"log in with a token that may read it: {LOGIN}" if refused else "try again later: downloads are kept"
        return f"the hub answered with status {_status(answer)}", hint
    if any(name in causes for name in UNREACHABLE):
        return _unreachable()
    missing = ("no file named", "a file named", "no such modeling files", "necessary `safetensors` weights")
    return _missing(model, source) if any(words in str(error) for words in missing) else None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """`error`, and the exceptions that led to it."""
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__ or link.__context__


def _disk_is_full(error: BaseException) -> bool:
    # The hub's faster downloads (hf-xet) keep only the text of the system's error.
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(error)


def _full_disk() -> tuple[str, str]:
    from huggingface_hub import constants

    return (
        "there is no space left for its files",
        f"free some space in {constants.HF_HUB_CACHE}, or set HF_HOME to a folder on a larger disk, and run it again:"
        " complete files are kept",
    )


def _status(error: BaseException) -> int | None:
    """The status code of the hub's answer."""
    code: int | None = getattr(getattr(error, "response", None), "status_code", None)
    return code


def _unreachable() -> tuple[str, str]:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return (
            "it is neither a local folder nor a downloaded model, and HF_HUB_OFFLINE forbids downloads",
            "write a folder that holds it, or run once without HF_HUB_OFFLINE: downloads are kept",
        )
    return (
        "it is neither a local folder nor a downloaded model, and the hub cannot be reached",
        "write a folder that holds it, or run once with network access: downloads are kept",
    )


def _missing(model: str, source: Mapping[str, Any]) -> tuple[str, str] | None:
    """The reason and the remedy if the model has weights, but of another variant than the one asked for."""
    variant = source.get("variant")
    names = [name for name in _files(model, source.get("revision")) if name.endswith(".safetensors")]
    variants = sorted({found[1] for name in names if (found := _VARIANT.search(name))})
    if not (variants or variant) or variant in variants:
        return None
    reason = f"it has no weights of the variant {variant!r}" if variant else "not all its weights have a plain name"
    if variants:
        return reason, f"set its parameter `variant`; its files have: {listed(variants)}"
    return reason, "leave `variant` out: it has none"


def _files(model: str, revision: str | None) -> Sequence[str]:
    """The names of a model's files; none if the hub does not tell."""
    if Path(model).is_dir():
        return [path.relative_to(model).as_posix() for path in Path(model).rglob("*") if path.is_file()]
    from huggingface_hub import HfApi

    try:
        return HfApi().list_repo_files(model, revision=revision)
    except Exception:  # the reason of the first failure is what matters
        return ()
