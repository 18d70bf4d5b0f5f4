"""Fits that can be killed: a process that loads the models once and then forks for every fit.

Started as `python fit_server.py SPEC`. It prints a line when it is ready. Then every line of its input is a JSON
object, `{"out": folder, "die_at": n, "full_from": n, "after": seconds, "overwrite": true}`, and every line of its
output says what became of that fit, `{"code": exit code, negative for a signal, "error": message, "events": count}`.
Only `out` is needed:

* events are what Python does to files below `out`: opening, making, renaming, deleting (audit hooks see all of it);
* `die_at`: the process ends by SIGKILL right before that event;
* `full_from`: from that event on, the disk is full: what would take room fails;
* `after`: the process is ended by SIGKILL after so many seconds;
* `overwrite`: an earlier run is replaced; else the fit goes on with it.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

WATCHED = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate")


def serve(spec: str) -> None:
    """Load the models, then fit as often as asked."""
    import torch

    from dualproc import Engine, load_spec

    torch.set_num_threads(1)  # a fork takes one thread along: no other must hold anything
    with TemporaryDirectory() as folder:  # so that everything is imported
        Engine(load_spec(spec)).fit(Path(folder, "run"))
    engine = Engine(load_spec(spec))
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(_forked(engine, json.loads(line))), flush=True)


def _forked(engine: Any, order: Mapping[str, Any]) -> dict[str, Any]:
    source, target = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = _fit(engine, order, target)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(target)
    if "after" in order:
        time.sleep(order["after"])
        os.kill(child, signal.SIGKILL)
    with os.fdopen(source, encoding="utf-8") as told:
        report = told.read()
    _, status = os.waitpid(child, 0)
    return {"code": os.waitstatus_to_exitcode(status), **json.loads(report or "{}")}


def _fit(engine: Any, order: Mapping[str, Any], target: int) -> int:
    from dualproc.engine.fit import fit
    from dualproc.errors import DualprocError

    out, count = str(order["out"]), 0

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if event not in WATCHED or not (str(arguments[0]).startswith(out) or _in_open_folder(event, arguments)):
            return
        reading = event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR)
        count += not reading
        if count == order.get("die_at") and not reading:
            os.kill(os.getpid(), signal.SIGKILL)
        if count >= order.get("full_from", count + 1) and not reading and event not in ("os.remove", "os.rmdir"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), arguments[0])

    if "die_at" in order or "full_from" in order:
        sys.addaudithook(watch)
    code, error = 0, ""
    try:
        fit(engine, out, resume=not order.get("overwrite"), overwrite=bool(order.get("overwrite")))
    except DualprocError as caught:
        code, error = 2, str(caught)
    os.write(target, json.dumps({"error": error, "events": count}).encode())
    return code


def _in_open_folder(event: str, arguments: tuple[Any, ...]) -> bool:
    """Whether a path is relative to a folder that is open: so `shutil.rmtree` deletes."""
    return event in ("os.remove", "os.rmdir") and arguments[1] != -1


if __name__ == "__main__":
    serve(str(Path(sys.argv[1])))
