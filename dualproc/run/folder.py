"""The run folder: everything that a fit leaves behind. This is the only module that knows the file names."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dualproc.errors import DamageError, RunError
from dualproc.spec import paths
from dualproc.types import Evaluation, StepRecord
from dualproc.wording import command, listed

from .checkpoints import Checkpoint, latest_checkpoint, save_checkpoint, steps
from .environment import Environment, environment
from .files import (
    ASIDE,
    as_run_error,
    make_folder,
    open_to_write,
    read_text,
    refuse_links,
    remove,
    sweep,
    sync,
    write_atomically,
)
from .images import BASE, JUDGE_VIEW, PREVIEW, TRAINED
from .inputs import INPUTS
from .lock import FolderLock, refuse_locked
from .lora_file import write_lora
from .records import Outcome, T, fits_together, from_json, sealed, to_json
from .resolved import STEPS, differing_keys, plain, slider_loras

if TYPE_CHECKING:
    from torch import Tensor

SPEC = "spec.yaml"
RESOLVED = "spec.resolved.yaml"
"""Written first and deleted last: a folder with this file is a run."""
ENVIRONMENT = "env.json"
WARNINGS = "warnings.json"
METRICS = "metrics.jsonl"
EVALUATION = "evaluation.json"
OUTCOME = "outcome.json"
WEIGHTS = paths.WEIGHTS
COMFYUI = "comfyui_lora.safetensors"
"""The same LoRA with the key names that ComfyUI knows, for generators where it does not know those of the other."""
CARD = "README.md"
REPORT = "report.html"
SAMPLES = "samples"
CHECKPOINTS = "checkpoints"
GENERATED = "generated"
SLIDERS = "sliders"
"""A subfolder for each slider's LoRA."""
TENSORBOARD = "tensorboard"
"""What the tracker of this name logs."""
TRACEBACK = "traceback.txt"
"""Where a plugin failed; deleted when the run is resumed."""

_OURS = (
    CHECKPOINTS, OUTCOME, SPEC, ENVIRONMENT, METRICS, EVALUATION, WARNINGS, WEIGHTS, COMFYUI,
    "adapter_model.safetensors", "adapter_config.json", CARD, REPORT, TRACEBACK, SAMPLES, GENERATED, SLIDERS,
    TENSORBOARD, INPUTS, RESOLVED,
)  # fmt: skip
"""In the order in which they are deleted: a run that lost only some of them has no checkpoint and starts again."""

_WRITTEN = re.compile(
    rf"({CHECKPOINTS}/checkpoint-\d+|{SLIDERS}/[^/]+)/[^/]+\.(safetensors|json)"
    rf"|{SAMPLES}/({BASE}|{TRAINED}|{JUDGE_VIEW}|{PREVIEW})/[^/]+\.png"
    rf"|({SAMPLES}|{GENERATED})/[^/]+\.png|{INPUTS}/[^/]+|(.*/)?{re.escape(ASIDE)}.*"
    rf"|{TENSORBOARD}/(.+/)?(events\.out\.tfevents[^/]*|hparams\.yml)"
)
"""Files that a run or `dp generate` writes into the subfolders of a run."""


def default_folder(name: str, variant: str | None) -> Path:
    """The default run folder: `runs/<name>`, or `runs/<name>/<variant>`."""
    return Path("runs", name, variant or "")


class RunFolder:
    """A run on disk. `create` one to write (locked until `close()` or the end of `with`), `open` one to read."""

    def __init__(self, path: Path, *, lock: FolderLock | None = None) -> None:
        self.path = path
        self.samples = path / SAMPLES
        self._lock = lock

    @classmethod
    def create(
        cls,
        path: str | PathLike[str],
        *,
        spec_text: str,
        resolved_text: str,
        files: Mapping[str, bytes] | None = None,
        env: Mapping[str, str | int | None] | None = None,
        resume: bool = False,
        overwrite: bool = False,
        lock: FolderLock | None = None,
    ) -> RunFolder:
        """Start a run in `path`, or continue the run that is there.

        `spec_text` is the spec as the user wrote it; `resolved_text` and `files` come from `inputs.portable`; `env` is
        `environment()` unless given. `resume` continues a run of the same spec, of which `MAY_CHANGE` says what may
        differ; `train.steps` may be raised. Metrics of steps after its last checkpoint are dropped, because these steps
        are repeated. If there is no run, a new one starts.
        `overwrite` deletes an earlier run's files, and no others. `lock` is the folder's, if the caller holds it.

        Raises RunError if the folder cannot be used: it is not writable, is a file, has files of the same names that
        are not a run's, has a run (without `resume` or `overwrite`) or a run of another spec, or is locked.
        """
        folder = Path(path)
        if lock is None:
            cls.refuse(folder, resolved_text, resume=resume, overwrite=overwrite)
            make_folder(folder)
        run = cls(folder, lock=lock or FolderLock(folder))
        try:
            run._refuse_run(resolved_text, resume=resume, overwrite=overwrite)  # started between `refuse` and the lock
            run._make_room(resume=resume, overwrite=overwrite)
            write_atomically(folder / RESOLVED, resolved_text)
            write_atomically(folder / SPEC, spec_text)
            for name, content in (files or {}).items():
                make_folder((folder / name).parent)
                write_atomically(folder / name, content)
            write_atomically(folder / ENVIRONMENT, to_json(env or environment(), indent=2) + "\n")
            make_folder(run.samples)
            make_folder(folder / CHECKPOINTS)
        except BaseException:
            run.close()
            raise
        return run

    @classmethod
    def refuse(cls, path: str | PathLike[str], resolved_text: str, *, resume: bool, overwrite: bool) -> None:
        """Raise what `create` would raise, without writing anything: for checks before models are loaded.

        Errors that only writing shows, such as a full disk, are left to `create`.
        """
        if resume and overwrite:
            raise RunError("`resume=True` continues a run, `overwrite=True` deletes it: use one of them")
        folder = Path(path)
        with as_run_error("use", folder):
            _refuse_foreign(folder)
            _refuse_unwritable(folder)
            refuse_locked(folder)
            refuse_links(folder)
            cls(folder)._refuse_run(resolved_text, resume=resume, overwrite=overwrite)

    @classmethod
    def open(cls, path: str | PathLike[str], *, needs: Sequence[str] = ()) -> RunFolder:
        """A run to read; it may still be training.

        `needs` names files that must exist, such as `WEIGHTS`. Raises RunError if `path` is not a run (the hint lists
        the runs in its subfolders), if another process still writes it, or if a needed file is missing.
        """
        folder = Path(path)
        if not (folder / RESOLVED).is_file():
            raise _not_a_run(folder)
        missing = [name for name in needs if not (folder / name).exists()]
        if missing:
            refuse_locked(folder)
            message = f"the run {folder} is not finished: it has no {' and no '.join(missing)}"
            raise RunError(message, hint="continue it with `dp run ... --resume`")
        return cls(folder)

    @classmethod
    def delete(cls, path: str | PathLike[str]) -> None:
        """Delete the files of a run, and no others; does nothing if there is no run.

        Raises RunError if another process is writing the run, or if a file cannot be deleted.
        """
        folder = Path(path)
        if (folder / RESOLVED).exists():
            with cls(folder, lock=FolderLock(folder)) as run:
                _refuse_other_files(folder)
                run._make_room(resume=False, overwrite=True)

    def close(self) -> None:
        """Release the lock."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Within, the run is locked; RunError if another process holds the lock. Does nothing within `create`."""
        if self._lock is not None:
            yield
            return
        self._lock = FolderLock(self.path)
        with self:
            self._sweep()
            yield

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # --- what is written during a fit -------------------------------------------------------------------------

    def log(self, record: StepRecord) -> None:
        """Append one training step to the metrics."""
        path = self.path / METRICS
        with as_run_error("write", path), open_to_write(path, "ab") as file:
            file.write(f"{sealed(record)}\n".encode())

    def save_checkpoint(self, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> Path:
        """Write a checkpoint: tensors by name, and a JSON-able `state`. The newest two are kept."""
        metrics = self.path / METRICS
        if metrics.exists():  # a power cut must not lose lines of steps that will not be repeated
            with as_run_error("write", metrics):
                sync(metrics)
        return save_checkpoint(self.path / CHECKPOINTS, step, tensors, state)

    def write_lora(
        self, save: Callable[[Path], None], inside: str = "", *, facts: Mapping[str, str] | None = None
    ) -> None:
        """Write a LoRA into the run, or into its subfolder `inside`. See `dualproc.run.lora_file.write_lora`."""
        write_lora(self.path / inside, save, facts)

    def write_evaluation(self, evaluation: Evaluation) -> None:
        """Write the measurements on the held-out images."""
        self.write(EVALUATION, sealed(evaluation, indent=1) + "\n")

    def add_warnings(self, texts: Sequence[str]) -> None:
        """Add warnings to those of the run so far; each is kept once."""
        known = self.read_warnings()
        if new := [text for text in dict.fromkeys(texts) if text not in known]:
            self.write(WARNINGS, to_json([*known, *new], indent=1) + "\n")

    def write_outcome(self, outcome: Outcome) -> None:
        """Write the outcome; a run without it counts as unfinished."""
        self.write(OUTCOME, sealed(outcome, indent=1) + "\n")

    def write(self, name: str, content: str | bytes) -> Path:
        """Write one file of the run atomically, and return its path."""
        write_atomically(self.path / name, content)
        return self.path / name

    def generated(self) -> Path:
        """The folder for the images of `dp generate`. Raises RunError if it would lead out of the run."""
        refuse_links(self.path)
        return self.path / GENERATED

    # --- what is read back ------------------------------------------------------------------------------------

    @property
    def resolved_text(self) -> str:
        """The resolved spec, YAML."""
        return read_text(self.path / RESOLVED)

    @property
    def resolved(self) -> dict[str, Any]:
        """The resolved spec as plain data; RunError if it is damaged."""
        return plain(self.resolved_text, self.path / RESOLVED)

    @property
    def environment(self) -> Environment:
        """Versions and machine; empty if not recorded. Runs of earlier versions have fewer facts."""
        return self._read(ENVIRONMENT, Environment, "delete it: only the report shows it") or {}

    def metrics(self) -> list[StepRecord]:
        """Every training step so far. Ignores a last line cut short by a crash; RunError if another line is damaged."""
        path = self.path / METRICS
        if not path.exists():
            return []
        lines = read_text(path).split("\n")[:-1]  # what follows the last line break is empty or cut short
        hint = "start the run again with `overwrite=True`"
        return [
            from_json(StepRecord, line, source=f"{path}:{number}", hint=hint) for number, line in enumerate(lines, 1)
        ]

    def read_evaluation(self) -> Evaluation | None:
        """The measurements on the held-out images; None before the fit is done."""
        hint = f"evaluate the run again: {command('dp', 'score', self.path)}"
        evaluation = self._read(EVALUATION, Evaluation, hint)
        if evaluation is not None and not fits_together(evaluation):
            message = f"{self.path / EVALUATION} is damaged: its measurements are not of the same images and scorers"
            raise DamageError(message, hint=hint)
        return evaluation

    def read_warnings(self) -> list[str]:
        """What the user was warned of when the run was trained and evaluated; empty if there was nothing."""
        return self._read(WARNINGS, list[str], "delete it: only the report shows it") or []

    def read_outcome(self) -> Outcome | None:
        """The outcome; None before the fit has ended."""
        return self._read(OUTCOME, Outcome, "delete it, then continue the run with `resume=True`")

    def _read(self, name: str, kind: type[T], hint: str) -> T | None:
        """A file of the run that `to_json` or `sealed` wrote; None if there is none."""
        path = self.path / name
        if not path.exists():
            return None
        try:
            return from_json(kind, read_text(path), source=path)
        except RunError as error:
            raise DamageError(error.message, hint=hint) from error

    @property
    def loras(self) -> list[Path]:
        """The files of the run's LoRA, whether they exist or not: the centre's, and those of its sliders."""
        return [self.path / WEIGHTS, *(self.path / SLIDERS / one / WEIGHTS for one in slider_loras(self.resolved))]

    def latest_checkpoint(self) -> Checkpoint | None:
        """The newest checkpoint: (step, tensors, state); None if there is none. RunError if it is damaged."""
        return latest_checkpoint(self.path / CHECKPOINTS)

    @property
    def saved_step(self) -> int:
        """The step of the newest checkpoint; 0 if there is none."""
        return max(steps(self.path / CHECKPOINTS), default=0)

    def refuse_changes(self, resolved_text: str, hint: str, *, training: bool = False) -> None:
        """Raise RunError if this spec differs from the run's own in more than `MAY_CHANGE` allows.

        If the `training` continues, `train.steps` may be raised, too, unless `train.lr_decay` is set.
        """
        spec = plain(resolved_text, "the resolved spec")
        if keys := differing_keys(self.resolved, spec, training=training):
            if training and keys == [STEPS]:
                hint = f"train.steps may only be raised, and only if train.lr_decay is 0: {hint}"
            raise RunError(f"{self.path} has a run of another spec; different: {', '.join(keys)}", hint=hint)

    # --- starting ---------------------------------------------------------------------------------------------

    def _sweep(self) -> None:
        """Delete what killed processes left. Only with the lock."""
        for folder in (self.path, self.path / CHECKPOINTS, self.path / INPUTS, self.samples, *self.samples.glob("*/")):
            sweep(folder)

    def _make_room(self, *, resume: bool, overwrite: bool) -> None:
        self._sweep()
        if not (self.path / RESOLVED).exists():
            return
        if overwrite:
            for name in _OURS:
                remove(self.path / name)
        elif resume:
            for name in (OUTCOME, TRACEBACK):
                remove(self.path / name)
            last = self.saved_step
            kept = [record for record in self.metrics() if record.step <= last]  # later steps are repeated
            self.write(METRICS, "".join(sealed(record) + "\n" for record in kept))

    def _refuse_run(self, resolved_text: str, *, resume: bool, overwrite: bool) -> None:
        if not (self.path / RESOLVED).exists():
            return
        if overwrite:
            _refuse_other_files(self.path)
            return
        if not resume:
            hint = "continue it (`resume=True`), replace it (`overwrite=True`), or choose another folder (`out`)"
            raise RunError(f"{self.path} already has a run", hint=hint)
        self.refuse_changes(
            resolved_text,
            f"continue with the spec that it was started with ({self.path / RESOLVED}), "
            "replace the run (`overwrite=True`), or choose another folder (`out`)",
            training=True,
        )


def _refuse_foreign(folder: Path) -> None:
    """Refuse a folder with files of the same names that are not a run's, such as a project's README.md."""
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is a file; a run needs a folder", hint="choose another folder with `out`")
    taken = [name for name in _OURS if (folder / name).exists()]
    if taken and RESOLVED not in taken:
        message = f"{folder} is not a run, but has files that a run would overwrite: {', '.join(taken)}"
        raise RunError(message, hint="choose another folder with `out`")


def _refuse_other_files(folder: Path) -> None:
    """Refuse to delete a run's subfolders if they have files that no run writes there, such as those of another run."""
    inside = [folder / name for name in _OURS if (folder / name).is_dir()]
    files = [Path(place, name) for one in inside for place, _, names in os.walk(one) for name in names]
    known = (file.relative_to(folder).as_posix() for file in files)
    if others := sorted(name for name in known if not _WRITTEN.fullmatch(name)):
        message = f"{folder} has files that its run did not write, and that would be deleted with it: {listed(others)}"
        raise RunError(message, hint="move them to another folder first, or choose another folder with `out`")


def _refuse_unwritable(folder: Path) -> None:
    """Refuse a folder that cannot be written: below a file, not permitted, on a read-only disk."""
    whole = folder.absolute()
    there = next(place for place in (whole, *whole.parents) if place.exists())
    if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
        return
    action = f"write to {folder}" if there == whole else f"make the folder {folder}"
    cause = "permission denied, or the disk is read-only" if there.is_dir() else f"{there} is a file"
    raise RunError(f"cannot {action}: {cause}", hint="choose a folder that you may write to with `out`")


def _not_a_run(folder: Path) -> RunError:
    inside, beside = (sorted(path.parent for path in place.glob(f"*/{RESOLVED}")) for place in (folder, folder.parent))
    hint = "name a folder that `dp run` wrote"
    if inside:
        hint = f"name one of the runs in it: {', '.join(map(str, inside))}"
    elif beside and not folder.exists():
        hint = f"runs beside it: {', '.join(map(str, beside))}"
    if not folder.exists():
        return RunError(f"no such folder: {folder}", hint=hint)
    if not folder.is_dir():
        return RunError(f"{folder} is a file, not the folder of a run", hint=hint)
    return RunError(f"{folder} is not a run: it has no {RESOLVED}", hint=hint)
