"""Scorers by pretrained models, on small random models of their classes; the same through transformers' own code."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import small_measuring as small
import torch
import transformers as tf
from PIL import Image
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from stub_plugins import stubs
from torch.utils import backend_registration

from dualproc import Engine, registry
from dualproc.engine.evaluate import evaluate
from dualproc.errors import PluginError
from dualproc.kit.pretrained import PretrainedParams
from dualproc.plugins.scorers.clip import Clip, PickScore
from dualproc.plugins.scorers.depth import Depth, DepthHorizon, horizon_row
from dualproc.plugins.scorers.detect import Detect
from dualproc.plugins.scorers.dino import Dino
from dualproc.spec import spec_from_dict
from dualproc.testing import check_scorer
from dualproc.types import Prompt, ScoreContext

SUBJECTS = ("a cat", "a dog", "a big red house")
POINTS = {"a": [0.25, 0.3], "b": [0.7, 0.8]}
SHIPPED = Path(registry.__file__).parent / "weights" / "samples.png"

Save = Callable[[str], str]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Save:
    """The folder of a small model; each is saved once."""
    root = tmp_path_factory.mktemp("models")

    def folder(name: str) -> str:
        place = root / name
        return str(place if place.exists() else small.save(name, place))

    return folder


def made(cls: type[Any], model: str, **params: Any) -> Any:
    """A scorer as a spec builds it."""
    return cls(registry.validated(cls.Params, {"model": model, "device": "cpu", **params}))


def noise(count: int, height: int = small.SIDE, width: int = small.SIDE) -> torch.Tensor:
    """Smooth random images [count, 3, H, W] whose values are multiples of 1/255, as in an image file."""
    coarse = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    images = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    return (images * 255).round() / 255


def context(count: int, base: torch.Tensor | None = None) -> ScoreContext:
    prompts = [Prompt(f"a cartoon of {s}", {"subject": s}) for s in (SUBJECTS * count)[:count]]
    return ScoreContext(prompts, list(range(count)), base)


def files(images: torch.Tensor) -> list[Image.Image]:
    return [Image.fromarray((image * 255).round().byte().permute(1, 2, 0).numpy()) for image in images]


# the contract


CASES: list[tuple[str, type[Any], dict[str, Any]]] = [
    ("dino", Dino, {"most": 0.5}),
    ("depth", Depth, {**POINTS, "nearer": "b"}),
    ("clip", Clip, {}),
    ("siglip", Clip, {"field": "subject"}),
    ("clip", Clip, {"text": "a cat", "against": ["a dog", "a car"], "least": 0}),
    ("clip", PickScore, {}),
    ("owlv2", Detect, {"field": "subject"}),
    ("owlv2", Detect, {"field": "subject", "measure": "count", "target": 1, "threshold": 0.4}),
    ("grounding_dino", Detect, {"field": "subject", "measure": "x", "threshold": 0.05}),
]


@pytest.mark.parametrize(("family", "cls", "params"), CASES)
def test_scorers_conform(family: str, cls: type[Any], params: Mapping[str, Any], saved: Save) -> None:
    check_scorer(cls, {"model": saved(family), "device": "cpu", **params})


@pytest.mark.parametrize(("family", "cls", "params"), CASES)
def test_models_are_frozen_and_measure_in_small_batches(
    family: str, cls: type[Any], params: Mapping[str, Any], saved: Save
) -> None:
    images = noise(5)
    one, all_at_once = (made(cls, saved(family), **params, batch=batch) for batch in (2, 8))
    sizes: list[int] = []
    for part in one.net.model.modules():
        if isinstance(part, torch.nn.Conv2d):
            part.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    found = one.score(images, context(5, noise(5).flip(0)))
    assert max(sizes) == 2
    torch.testing.assert_close(
        found, all_at_once.score(images, context(5, noise(5).flip(0))), atol=1e-4, rtol=0, equal_nan=True
    )
    assert not any(weight.requires_grad for weight in one.net.model.parameters())
    assert not one.net.model.training
    assert not found.requires_grad


def test_every_scorer_by_a_model_has_a_hub_model_and_is_checked_here() -> None:
    checked = {cls for _, cls, _ in CASES} | {DepthHorizon}
    for entry in registry.entries("scorers"):
        cls = registry.load("scorers", f"{entry.distribution}/{entry.name}").cls
        if entry.distribution == "dualproc" and issubclass(cls.Params, PretrainedParams):
            assert cls in checked
    for cls in checked:
        organisation, _, name = cls.Params.model_fields["model"].default.partition("/")
        assert organisation
        assert name


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_changes_little(dtype: str, saved: Save) -> None:
    found, exact = (made(Clip, saved("clip"), dtype=each).score(noise(3), context(3)) for each in (dtype, "float32"))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, exact, atol=0.02, rtol=0)


ON_A_GPU = """
import sys
from pathlib import Path

import torch
from pretended_gpu import pretended_gpu
from test_pretrained_scorers import CASES, context, noise

import small_measuring as small
from dualproc import registry

def found(device):
    values = []
    for family, cls, params in CASES:
        folder = Path(sys.argv[1]) / family
        given = {"model": str(folder if folder.exists() else small.save(family, folder)), "device": device, **params}
        scorer = cls(registry.validated(cls.Params, given))
        places = set()
        for part in scorer.net.model.modules():
            part.register_forward_pre_hook(lambda part, _: places.update(w.device.type for w in part.parameters()))
        values.append(scorer.score(noise(3), context(3, noise(3).flip(0))))
        assert len(places) == 1, (family, places)
        assert all(weight.device.type == "cpu" for weight in scorer.net.model.parameters())
    return values, places

with pretended_gpu():
    ours, places = found("auto")
assert places == {"gpu"}, places
theirs, places = found("cpu")
assert places == {"cpu"}, places
for one, other in zip(ours, theirs, strict=True):
    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4, equal_nan=True)
"""


@pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="this torch has no backends in Python",
)
def test_on_a_pretended_gpu_the_values_are_the_same_and_the_model_leaves_it(tmp_path: Path) -> None:
    """In a process of its own: torch must know the device before the first backward pass."""
    here = Path(__file__).parent
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(here), str(here.parent)])}
    command = [sys.executable, "-c", ON_A_GPU, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]


# against transformers' own code, which reads image files


def test_clip_and_pickscore_are_the_logits_of_clip(saved: Save) -> None:
    images, model = noise(3), tf.CLIPModel.from_pretrained(saved("clip"))
    processor = tf.CLIPProcessor.from_pretrained(saved("clip"))
    texts = [prompt.text for prompt in context(3).prompts]
    with torch.no_grad():
        logits = model(**processor(images=files(images), text=texts, return_tensors="pt", padding=True))
    wanted = logits.logits_per_image.diag()
    torch.testing.assert_close(made(PickScore, saved("clip")).score(images, context(3)), wanted)
    torch.testing.assert_close(made(Clip, saved("clip")).score(images, context(3)), wanted / model.logit_scale.exp())


def test_clip_against_other_texts_is_a_difference(saved: Save) -> None:
    def similarity(**params: Any) -> torch.Tensor:
        found: torch.Tensor = made(Clip, saved("clip"), **params).score(noise(3), context(3))
        return found

    cat, dog, car = (similarity(text=f"a {name}") for name in ("cat", "dog", "car"))
    found = similarity(text="a cat", against=["a dog", "a car"])
    torch.testing.assert_close(found, cat - torch.maximum(dog, car))
    house = similarity(text="a big red house")
    by_field = similarity(text="a cat", against=["a dog"], against_field="subject")
    torch.testing.assert_close(by_field, cat - torch.maximum(dog, torch.stack([cat[0], dog[1], house[2]])))


@pytest.mark.parametrize("size", [(32, 32), (32, 64)])
def test_depth_is_that_of_the_pipeline(size: tuple[int, int], saved: Save) -> None:
    images = noise(2, *size)
    pipe = tf.pipeline("depth-estimation", model=saved("depth"), device="cpu")
    scorer = made(Depth, saved("depth"), **POINTS, radius=0.02)
    for image, value in zip(images, scorer.score(images, context(2)).tolist(), strict=True):
        near = pipe(files(image[None])[0])["predicted_depth"].squeeze()
        low, high = near.quantile(0.02), near.quantile(0.98)
        at = {name: near[int(y * size[0]), int(x * size[1])] for name, (x, y) in POINTS.items()}
        assert value == pytest.approx(((at["a"] - at["b"]) / (high - low)).item(), abs=0.1)
        assert abs(value) > 0.15


@pytest.mark.parametrize("family", ["owlv2", "grounding_dino"])
def test_detections_are_those_of_the_processor(family: str, saved: Save) -> None:
    """Images twice as wide as tall: boxes of OWLv2 refer to a padded square."""
    images, threshold = noise(2, 32, 64), 0.05
    model = tf.AutoModelForZeroShotObjectDetection.from_pretrained(saved(family))
    processor = tf.AutoProcessor.from_pretrained(saved(family))
    values = {
        measure: made(Detect, saved(family), text="a cat", threshold=threshold, measure=measure).score(
            images, context(2)
        )
        for measure in ("confidence", "x", "y", "width", "height", "top", "bottom", "count")
    }
    for number, image in enumerate(files(images)):
        with torch.no_grad():
            outputs = model(**processor(images=image, text=[["a cat"]], return_tensors="pt"))
        size = [(image.height, image.width)]
        (found,) = processor.post_process_grounded_object_detection(outputs, threshold=threshold, target_sizes=size)
        best = found["scores"].argmax()
        box = found["boxes"][best] / torch.tensor([64, 32, 64, 32])
        left, top, right, bottom = box.clamp(0, 1).tolist()
        wanted = {
            "confidence": found["scores"][best].item(), "x": (left + right) / 2, "y": (top + bottom) / 2,
            "width": right - left, "height": bottom - top, "top": top, "bottom": bottom,
        }  # fmt: skip
        for measure, value in wanted.items():
            assert values[measure][number].item() == pytest.approx(value, abs=0.01), measure
        assert 1 <= values["count"][number] <= len(found["scores"])


# what the values mean


def test_dino_is_zero_for_the_base_image_and_grows_with_the_change(saved: Save) -> None:
    """On images of the shipped world."""
    sheet = torch.from_numpy(np.array(Image.open(SHIPPED).convert("RGB"))).permute(2, 0, 1).float()[None] / 255
    base, other = sheet[..., :64, :64], sheet[..., :64, 64:128]
    assert (base - other).abs().mean() > 0.05
    shares = torch.tensor([0.0, 0.1, 0.3, 0.6])[:, None, None, None]
    values = made(Dino, saved("dino")).score(base.lerp(other, shares), context(4, base.expand(4, -1, -1, -1)))
    assert values[0].item() == pytest.approx(0, abs=1e-5)
    assert (values.diff() > 0).all()
    assert values[-1] > 0.02


def test_depth_has_the_sign_of_the_nearer_point(saved: Save) -> None:
    def values(**params: Any) -> torch.Tensor:
        found: torch.Tensor = made(Depth, saved("depth"), **params).score(noise(3), context(3))
        return found

    found = values(**POINTS)
    torch.testing.assert_close(values(**POINTS, nearer="a"), found)
    torch.testing.assert_close(values(**POINTS, nearer="b"), -found)
    torch.testing.assert_close(values(a=POINTS["b"], b=POINTS["a"]), -found)
    assert values(a=POINTS["a"], b=POINTS["a"]).tolist() == [0, 0, 0]


def test_flat_images_have_no_depth(saved: Save) -> None:
    scorer = made(Depth, saved("depth"), **POINTS)
    with torch.no_grad():  # the last layer: the same depth everywhere
        scorer.net.model.head.conv3.weight.zero_()
    assert scorer.score(noise(2), context(2)).isnan().all()


def test_metric_depth_is_inverted(saved: Save) -> None:
    metric = made(Depth, saved("depth"), **POINTS)
    values = metric.score(noise(3), context(3))
    metric.net.model.config.depth_estimation_type = "metric"
    inverted = metric.score(noise(3), context(3))
    assert ((values > 0) != (inverted > 0)).all()


def test_an_empty_text_has_no_value(saved: Save) -> None:
    nothing = ScoreContext([Prompt(""), Prompt("a cat")], [0, 1])
    for scorer in (made(Clip, saved("clip")), made(PickScore, saved("clip"))):
        assert scorer.score(noise(2), nothing).isnan().tolist() == [True, False]
    unnamed = ScoreContext([Prompt("", {"subject": ""}), Prompt("a cat", {"subject": "a cat"})], [0, 1])
    assert made(Detect, saved("owlv2"), field="subject").score(noise(2), unnamed).isnan().tolist() == [True, False]


def test_without_base_images_dino_has_no_value(saved: Save) -> None:
    assert made(Dino, saved("dino")).score(noise(2), context(2)).isnan().all()


def test_where_nothing_is_found_there_is_no_place_but_a_count(saved: Save) -> None:
    given = {"text": "a cat", "threshold": 0.9999}
    place, count = (made(Detect, saved("owlv2"), measure=measure, **given) for measure in ("x", "count"))
    assert place.score(noise(2), context(2)).isnan().all()
    assert count.score(noise(2), context(2)).tolist() == [0, 0]
    assert (place.unit, count.unit) == ("x, of the image: a cat", "number: a cat")


def test_accepted_values(saved: Save) -> None:
    found = {
        measure: made(Detect, saved("owlv2"), text="a cat", measure=measure, **params).accepted
        for measure, params in {
            "confidence": {"threshold": 0.3}, "count": {"target": 2}, "x": {}, "y": {"target": 0.5, "tolerance": 0.25},
        }.items()
    }  # fmt: skip
    assert found == {"confidence": (0.3, 1), "count": (1.9, 2.1), "x": None, "y": (0.25, 0.75)}


# the horizon from depth


def ground(row: float, *, wall: float = 0.0, shift: float = 0.0, size: int = 100) -> np.ndarray[Any, Any]:
    """Inverse depth of level ground with a sky, or a wall of this inverse depth, and three objects on the ground."""
    y = (np.arange(size) + 0.5) / size
    near = np.maximum((y - row) * 2, wall)[:, None].repeat(size, 1) + shift
    for left, foot in ((5, 0.95), (40, row + 0.6 * (1 - row)), (70, row + 0.9 * (1 - row))):
        top, bottom = round(max(row - 0.2, 0) * size), round(foot * size)
        near[top:bottom, left : left + 20] = (foot - row) * 2 + shift
    return near


@pytest.mark.parametrize("row", [0.3, 0.43, 0.79])
@pytest.mark.parametrize("rough", [0.0, 0.02])
def test_the_horizon_is_where_level_ground_reaches_the_sky(row: float, rough: float) -> None:
    near = ground(row) + rough * np.random.default_rng(0).standard_normal((100, 100))
    assert horizon_row(near) == pytest.approx(row, abs=0.03)


def test_depth_up_to_a_scale_has_the_same_horizon() -> None:
    assert horizon_row(ground(0.4) * 37) == pytest.approx(horizon_row(ground(0.4)))
    assert horizon_row(ground(0.4, shift=0.04)) == pytest.approx(0.4, abs=0.02)


@pytest.mark.parametrize(
    "near",
    [
        ground(0.4, wall=0.5),
        ground(-0.5),
        ground(0.4)[::-1],
        np.ones((50, 50)),
        np.full((50, 50), np.nan),
        np.random.default_rng(0).random((60, 60)),
    ],
    ids=["a wall behind the ground", "the ground fills the image", "upside down", "flat", "not a number", "noise"],
)
def test_where_depth_shows_no_horizon_there_is_no_value(near: np.ndarray[Any, Any]) -> None:
    assert math.isnan(horizon_row(near))


def test_the_horizon_scorer_reads_the_depth_model(saved: Save) -> None:
    scorer = made(DepthHorizon, saved("depth"), target=0.4)
    assert scorer.score(noise(2), context(2)).shape == (2,)
    assert scorer.accepted == pytest.approx((0.35, 0.45))


# in an evaluation


def test_an_evaluation_measures_with_all_of_them(saved: Save) -> None:
    names = {
        "dino": ("dino", {"most": 0.5}), "depth": ("depth", POINTS), "depth_horizon": ("depth", {"target": 0.4}),
        "clip": ("siglip", {"field": "subject"}), "pickscore": ("clip", {}), "detect": ("owlv2", {"field": "subject"}),
    }  # fmt: skip
    spec = spec_from_dict({
        "name": "test", "question": {"template": "Is it dark?"},
        "scorers": [
            {"type": name, "model": saved(family), "device": "cpu", **params}
            for name, (family, params) in names.items()
        ],
        "prompts": {"template": "a cartoon of {subject}", "train": ["a car"], "eval": list(SUBJECTS)},
        "train": {"lora": {"rank": 2}}, "evaluation": {"seeds": 2},
    })  # fmt: skip
    evaluation, _ = evaluate(Engine(spec, build=stubs()))
    for measured in (evaluation.base, evaluation.trained):
        assert [score.name for score in measured.scores] == list(names)
        assert all(len(score.values) == 6 for score in measured.scores)
        finite = [score for score in measured.scores if not any(map(math.isnan, score.values))]
        assert {score.name for score in finite} >= {"dino", "depth", "clip", "pickscore", "detect"}
    assert evaluation.base.scores[0].on_target == 1.0  # base images are compared with themselves


# mistakes


def test_a_missing_model_is_reported_when_the_scorer_is_built(tmp_path: Path) -> None:
    for cls, params in ((Dino, {}), (Depth, POINTS), (Clip, {}), (PickScore, {}), (Detect, {"text": "a cat"})):
        with pytest.raises(PluginError, match="cannot load the model of the scorer") as caught:
            made(cls, str(tmp_path / "nothing"), **params)
        assert "no such folder" in caught.value.message
    broken = small.save("dino", tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    save_file(dict(list(weights.items())[2:]), broken / "model.safetensors", {"format": "pt"})
    with pytest.raises(PluginError, match="its files lack weights"):
        made(Dino, str(broken))


def test_pickled_weights_and_code_of_a_model_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # transformers would ask
    pickled, custom = (small.save("dino", tmp_path / name) for name in ("pickled", "custom"))
    torch.save(load_file(pickled / "model.safetensors"), pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    with pytest.raises(PluginError, match="cannot load the model of the scorer dino") as caught:
        made(Dino, str(pickled))
    assert "safetensors" in str(caught.value.hint)
    marker = tmp_path / "marker"
    (custom / "evil.py").write_text(f"open({str(marker)!r}, 'w')", encoding="utf-8")
    config = json.loads((custom / "config.json").read_text(encoding="utf-8"))
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil"}}
    (custom / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(PluginError, match="never runs code that comes with a model"):
        made(Dino, str(custom))
    assert not marker.exists()


@pytest.mark.parametrize(
    ("cls", "family", "params", "message"),
    [
        (Dino, "clip", {}, "is a clip model, expected a DINOv2 model"),
        (Clip, "dino", {}, "expected a CLIP or SigLIP model|cannot load"),
        (PickScore, "dino", {}, "expected a CLIP model trained on preferences|cannot load"),
        (Depth, "dino", POINTS, "cannot load the model of the scorer depth"),
        (Detect, "dino", {"text": "a cat"}, "cannot load the model of the scorer detect"),
    ],
)
def test_a_model_of_another_kind_is_refused(
    cls: type[Any], family: str, params: Mapping[str, Any], message: str, saved: Save
) -> None:
    with pytest.raises(PluginError, match=message):
        made(cls, saved(family), **params)


@pytest.mark.parametrize(
    ("cls", "params", "message"),
    [
        (Clip, {"text": "a cat", "field": "subject"}, "set either `text` or `field`"),
        (Detect, {}, "set either `text`, or `field`"),
        (Detect, {"text": "a", "measure": "confidence", "target": 1.0}, "has no `target`"),
        (Detect, {"text": "a", "measure": "left"}, "measure"),
        (Depth, {**POINTS, "a": [0.2, 1.5]}, "less than or equal to 1"),
        (Dino, {"device": "gpu"}, "device"),
        (Dino, {"batch": 0}, "batch"),
        (Dino, {"trust_remote_code": True}, "Extra inputs"),
    ],
)
def test_wrong_parameters_are_refused(cls: type[Any], params: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        registry.validated(cls.Params, params)


def test_a_prompt_without_the_field_is_reported(saved: Save) -> None:
    for scorer in (made(Clip, saved("clip"), field="animal"), made(Detect, saved("owlv2"), field="animal")):
        with pytest.raises(PluginError, match="has no field `animal`") as caught:
            scorer.score(noise(3), context(3))
        assert "its fields are subject" in str(caught.value.hint)


def test_the_revision_selects_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub cache that holds one revision, without network access."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--acme--dino"
    small.save("dino", repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "v2").write_text(commit, encoding="utf-8")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    for revision in ("v2", commit):
        made(Dino, "acme/dino", revision=revision)
    with pytest.raises(PluginError, match="cannot load the model of the scorer dino 'acme/dino'"):
        made(Dino, "acme/dino")
    for cls, params in ((Dino, {}), (Depth, POINTS), (Clip, {}), (PickScore, {}), (Detect, {"text": "a cat"})):
        with pytest.raises(PluginError, match="HF_HUB_OFFLINE forbids downloads"):
            made(cls, cls.Params.model_fields["model"].default, **params)
