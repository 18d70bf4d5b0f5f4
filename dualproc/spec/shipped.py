"""The specs that are shipped with dualproc; each has a name, such as `line_weight` or `real/horizon`."""

from __future__ import annotations

import os
from pathlib import Path

from dualproc.wording import suggestion

_PACKAGE = Path(__file__).parents[1]


def shipped_specs() -> dict[str, Path]:
    """The file of every shipped spec, by name, in alphabetical order; those for real models are last.

    An installed package contains them (`setup.py` puts them there); a clone has them at its top level.
    """
    inside = _PACKAGE / "specs"
    home = inside if inside.is_dir() else _PACKAGE.parent / "specs"
    files = [file for pattern in ("*.yaml", "sliders/*.yaml", "real/*.yaml") for file in sorted(home.glob(pattern))]
    return {file.relative_to(home).with_suffix("").as_posix(): file for file in files}


def locate(spec: str | os.PathLike[str]) -> Path:
    """The file of the shipped spec of this name; anything else is a path. Names have no ending, spec files have one."""
    path = Path(spec)
    return path if path.suffix else shipped_specs().get(path.as_posix(), path)


def hint_for_missing(path: Path) -> str | None:
    """A hint for a missing spec file: the shipped spec that it may refer to, for example `specs/horizon.yaml`."""
    shipped = shipped_specs()
    bare = path.with_suffix("") if path.name else path
    for name in ("/".join(bare.parts[-2:]), bare.name):
        if name in shipped:
            return f"the shipped spec is called `{name}`, without folder and ending, in any folder"
    if path.suffix:
        return None
    close = suggestion(path.as_posix(), shipped)
    return f"{close or 'a spec file ends in .yaml'}; `dp specs` lists the shipped specs"
