"""`dp push`: upload a run to the Hugging Face hub."""

from __future__ import annotations

from typing import Annotated

import typer

from .output import print_progress, print_warning, say


def push(
    run: Annotated[str, typer.Argument(metavar="RUN", help="The run folder, such as runs/line_weight/thick.")],
    repo: Annotated[
        str, typer.Argument(metavar="REPO", help="OWNER/NAME of the repository; NAME alone is in your own account.")
    ],
    public: Annotated[
        bool, typer.Option("--public", help="Make a new repository public; without it, only you can see it.")
    ] = False,
) -> None:
    """Upload a run's LoRA, model card and samples to the Hugging Face hub.

    The repository is made if it does not exist. Files of the same names are replaced, others stay. evaluation.json and
    the resolved spec, which the card refers to, are uploaded too; checkpoints, logs and input files are not. Log in
    first, with `hf auth login`. A card without `base_model` or `license` gives a warning.

    \b
    dp push runs/horizon/high my-name/high-horizon
    dp push runs/horizon/high my-name/high-horizon --public
    """
    from dualproc.report.publish import missing, publish
    from dualproc.run import RunFolder
    from dualproc.run.folder import CARD, EVALUATION, WEIGHTS

    folder = RunFolder.open(run, needs=[WEIGHTS, CARD, EVALUATION])
    for sentence in missing(folder):
        print_warning(sentence)
    print_progress(f"uploading to {repo}")
    say(publish(folder, repo, private=not public))
