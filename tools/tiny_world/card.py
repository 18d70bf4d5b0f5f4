"""Evaluate the shipped checkpoints on new scenes and write their model card: `python -m tools.tiny_world.card`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from dualproc.plugins.scorers.line_weight import LineWeight
from dualproc.types import ScoreContext

from .build import WEIGHTS
from .data import Data, load
from .judges import Student, accuracy, generated, recoded
from .questions import QUESTIONS
from .scenes import HELD_OUT, KNOWN, NAMES, OPENMOJI_PACKAGE
from .vae import to_tensor

COUNT = 600

CARD = """\
# The shipped checkpoints: a small world of cartoons

Three small models of ordinary diffusers and transformers classes, saved with `save_pretrained`. They let you
try and test dualproc without a GPU and without downloads. They know cartoons of 64 x 64 pixels of {subjects}
subjects, and nothing else.

| part | class | parameters | file size |
| --- | --- | --- | --- |
{sizes}

![one-step images of the generator](samples.png)

## Data and licence

The scenes are composed from drawings of [OpenMoji](https://openmoji.org) (CC BY-SA 4.0; npm package
`{package}`) on skies and grounds. The drawings were changed: outlines rescaled, fills darker than half
lightened, placed and combined. The checkpoints, and images that are adaptations of the drawings, are licensed
under CC BY-SA 4.0 too.

Subjects: {names}.

Held out from the judge and from the training prompts of the shipped specs: {held_out}.

## How they were made

`make weights` (`python -m tools.tiny_world.build`) renders scenes with known line weight, horizon, colours and
places, and trains VAE, generator, judge and referee one after another. The seeds are in the code. The committed
checkpoints were made by these stages in several sessions on two shared CPU cores, while the code was being
developed:

* **VAE**: 7 minutes.
* **Generator**: 66 minutes on an earlier world (narrower ranges of colours and places, fewer pairs), then 48
  minutes on the current one (6,100 steps). In the last 14 minutes, the decoder of the VAE was trained too.
* **Judge and referee**: 37 minutes each on the questions of the earlier world, then 68 and 39 minutes on the
  current questions, then 60 minutes each (4,050 and 5,370 steps) with more questions about horizon and palette,
  mostly near the correct answer. Before that, the models could not tell small distances from it apart. "Where
  is Point A?" and "Which is closer to the camera?" were added late; without them, the question `depth` stayed
  at chance. Then 35 minutes each (5,678 and 7,473 steps, learning rate 4e-4) with other labels and scenes: a
  palette matches only if two of its three swatches are in the image; a horizon between two areas of the same
  colour is not one, and a quarter of the scenes has such areas; line weights are asked about more often, near the
  correct answer. The command: `python -m tools.tiny_world.judges NAME dualproc/weights/generator/vae OUT --start
  dualproc/weights/NAME --generator dualproc/weights/generator --lr 4e-4 --minutes 35`. Then 13 minutes each (2,415
  and 3,159 steps) with the same command, `--lr 3e-4`, and `--fits` with the LoRAs of twelve fits against the judge of
  the stage before (four of *thin*, five palettes, *commonsense*, two horizons; training subjects only). They show
  the mistakes that a judge makes under training. Last, 25 minutes each (3,562 and 4,568 steps) with the first command
  and `--fits` with seven LoRAs (four palettes, *thick*, *commonsense*, *attribute*): since then, one colour between two
  swatches does not match both, as for the scorer. `make weights` has no stage with LoRAs.

The generator's captions name the subjects and the setting. Everything else varies with the noise, by design: in
training, the mean over tokens of packed noise channel k was set so that Phi(8 * mean) is the scene's k-th code
(line weight, horizon, colours, places). Over 64 tokens, the noise stays N(0, I), so any noise can be used. But
the map from noise to image was designed, not discovered.

The judge was trained on renders (line weights from {wide_low} to {wide_high} of the height, far beyond the
generator's), on their VAE reconstructions, and on the generator's own images (line weight labelled by the
scorer `line_weight`, everything else by the noise; with a LoRA also sky and ground by the scorer `region_color`),
with noise, blur and stains, and with the visual prompt in many places. The referee has another architecture, other
scenes and another seed.

## Accuracy

Measured by `python -m tools.tiny_world.card` on {count} new scenes per column: the share of correct answers.
Questions whose correct answer is uncertain (log-odds within 0.5) are not counted. In questions about subjects,
the judge is asked about the subjects that it was trained on, the referee about all.

| question | judge, renders | judge, generated | judge, unseen subjects | referee, renders | referee, generated |
| --- | --- | --- | --- | --- | --- |
{accuracies}

Generator (one sampling step, new noise): the line weight measured by the scorer `line_weight` differs from the
one that the noise encodes by {line_error:.2f} pixels on average (correlation {line_correlation:.3f}). VAE:
renders are reconstructed with {psnr:.1f} dB.

## Limits

These models are toys. They know {subjects} drawings, each in one pose. Single subjects are drawn better than
two in one image. Lines thinner than one pixel become paler instead of thinner.
"""


def main() -> None:
    subjects = {"judge": KNOWN, "referee": NAMES}
    students = {name: _student(WEIGHTS / name) for name in subjects}
    renders = load("card", COUNT, seed=51, pairs=0.3)
    known = load("card-known", COUNT, seed=52, pairs=0.3, names=KNOWN)
    unseen = load("card-unseen", COUNT, seed=53, pairs=0.3, names=list(HELD_OUT))
    made = {name: generated(WEIGHTS / "generator", COUNT, names=names, seed=54) for name, names in subjects.items()}
    columns = [
        _accuracies(students["judge"], known, KNOWN),
        _accuracies(students["judge"], made["judge"], KNOWN),
        {**_accuracies(students["judge"], unseen, KNOWN), "subject": None, "name": None, "both": None},
        _accuracies(students["referee"], renders, NAMES),
        _accuracies(students["referee"], made["referee"], NAMES),
    ]
    rows = [
        f"| {kind} | "
        + " | ".join("-" if (share := column[kind]) is None else f"{share:.3f}" for column in columns)
        + " |"
        for kind in QUESTIONS
    ]
    error, correlation = _line_weight(made["referee"])
    Image.fromarray(_sheet(made["referee"])).save(WEIGHTS / "samples.png")
    text = CARD.format(
        subjects=len(NAMES), sizes=_sizes(), package=OPENMOJI_PACKAGE, names=", ".join(NAMES),
        held_out=", ".join(HELD_OUT), count=COUNT, accuracies="\n".join(rows), line_error=error,
        line_correlation=correlation, psnr=_psnr(renders), wide_low=0.003, wide_high=0.08,
    )  # fmt: skip
    (WEIGHTS / "README.md").write_text(text, encoding="utf-8")
    print(text)


def _student(folder: Path) -> Student:
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    return Student(model, AutoProcessor.from_pretrained(folder))


def _accuracies(student: Student, data: Data, names: list[str]) -> dict[str, float | None]:
    return dict(accuracy(student, data, names, count=COUNT))


def _line_weight(data: Data) -> tuple[float, float]:
    """Mean error in pixels, and correlation, of the measured line weight against the intended one."""
    found = LineWeight(LineWeight.Params()).score(to_tensor(data.images) / 2 + 0.5, ScoreContext((), ()))
    truth = torch.tensor([dataclasses.replace(scene, measured=None).line_weight for scene in data.scenes])
    there = found.isfinite()
    correlation = float(np.corrcoef(found[there], truth[there])[0, 1])
    return 64 * (found - truth)[there].abs().mean().item(), correlation


def _psnr(data: Data) -> float:
    from diffusers import AutoencoderKL

    vae = AutoencoderKL.from_pretrained(WEIGHTS / "generator", subfolder="vae", dtype=torch.float32)
    again = recoded(vae, data, len(data.scenes)).images.astype(np.float32)
    error = np.square((again - data.images.astype(np.float32)) / 255).mean((1, 2, 3))
    return float(-10 * np.log10(error).mean())


def _sizes() -> str:
    rows = []
    for name in ("generator", "judge", "referee"):
        files = sorted((WEIGHTS / name).rglob("*.safetensors"))
        count = sum(value.numel() for file in files for value in _tensors(file).values())
        size = sum(file.stat().st_size for file in files) / 1e6
        config = next(p for p in [WEIGHTS / name / "model_index.json", WEIGHTS / name / "config.json"] if p.exists())
        rows.append(f"| {name} | {_class(config)} | {count / 1e6:.2f} M | {size:.1f} MB |")
    return "\n".join(rows)


def _tensors(file: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return dict(load_file(file))


def _class(config: Path) -> str:
    import json

    data: dict[str, Any] = json.loads(config.read_text())
    return str(data.get("_class_name") or data["architectures"][0])


def _sheet(data: Data, columns: int = 12) -> np.ndarray:
    """A sheet of images at twice their size: two rows of each subject alone, two more of single ones, one of pairs."""
    singles = [i for i, scene in enumerate(data.scenes) if len(scene.subjects) == 1]
    first = {data.scenes[i].subjects[0]: i for i in reversed(singles)}
    chosen = [first[name] for name in NAMES if name in first]
    chosen += [i for i in singles if i not in chosen][: 48 - len(chosen)]
    chosen += [i for i, scene in enumerate(data.scenes) if len(scene.subjects) == 2][:12]
    chosen = chosen[: len(chosen) // columns * columns]
    grid = data.images[chosen].reshape(-1, columns, 64, 64, 3).transpose(0, 2, 1, 3, 4)
    return grid.reshape(-1, columns * 64, 3).repeat(2, 0).repeat(2, 1)


if __name__ == "__main__":
    main()
