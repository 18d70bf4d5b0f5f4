"""Small plugins for the conformance checks: a correct one of every kind, and copies with one mistake each.

`RIGHT` lists the correct plugins, which pass all checks. `WRONG` lists the copies, each with the finding that its check
must report.
"""

from __future__ import annotations

import zlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from peft.tuners.tuners_utils import BaseTunerLayer
from PIL import Image, ImageDraw
from pydantic import BaseModel, ConfigDict, Field, model_validator
from safetensors.torch import save_file
from torch import Tensor, nn

from dualproc.errors import PluginError
from dualproc.kit.adapters import lora_off
from dualproc.types import Answers, Question, Recipe, Sample


@dataclass(frozen=True)
class Wrong:
    """A plugin with one mistake, and the finding that reports it."""

    kind: str
    cls: type[Any]
    sentence: str
    also: str
    """A pattern of other findings that the mistake may cause."""
    params: Mapping[str, Any]


WRONG: list[Wrong] = []


def wrong(kind: str, sentence: str, *, also: str = "$^", **params: Any) -> Callable[[type[Any]], type[Any]]:
    """Add the class to `WRONG`: its check must report a finding that the regular expression `sentence` matches."""

    def keep(cls: type[Any]) -> type[Any]:
        WRONG.append(Wrong(kind, cls, sentence, also, params))
        return cls

    return keep


class Plugin:
    """Base of all plugins here; has no parameters."""

    api_version: ClassVar[int] = 1

    class Params(BaseModel, extra="forbid"):
        """No parameters."""

    def __init__(self, params: Any) -> None:
        self.params = params


class Stuck(torch.autograd.Function):
    """The identity function, with a backward pass that raises."""

    @staticmethod
    def forward(_: Any, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(*_: Any) -> Any:
        raise RuntimeError("stuck")


def stuck(value: Tensor) -> Tensor:
    out: Tensor = Stuck.apply(value)
    return out


# scorers, and mistakes that all kinds can make


class Redness(Plugin):
    """The red share of the image's light."""

    unit = "of the light"
    better = "target"

    class Params(BaseModel, extra="forbid"):
        """The target."""

        target: float | None = Field(None, gt=0, description="Target share.")

    @property
    def accepted(self) -> tuple[float, float] | None:
        target = self.params.target
        return None if target is None else (target - 0.05, target + 0.05)

    def score(self, images: Tensor, context: Any) -> Tensor:
        return images[:, 0].mean((1, 2)) / images.sum(1).mean((1, 2)).clamp(min=1e-6)


@wrong("scorers", "its api_version is 0, but this version of dualproc needs 1")
class Old(Redness):
    """Written for an earlier version of dualproc."""

    api_version = 0


@wrong("scorers", "NoMethod lacks score")
class NoMethod(Plugin):
    """Has no `score`."""

    unit, better = "of the light", "higher"


@wrong("scorers", "Lenient.Params does not forbid extra keys")
class Lenient(Redness):
    """Accepts any parameter."""

    class Params(Redness.Params, extra="ignore"):
        pass


@wrong("scorers", "Params accepts the unknown parameter `no_such_parameter`")
class Swallows(Redness):
    """Drops unknown parameters before pydantic checks them."""

    class Params(Redness.Params):
        @model_validator(mode="before")
        @classmethod
        def _known(cls, given: Mapping[str, Any]) -> dict[str, Any]:
            return {key: value for key, value in given.items() if key == "target"}


@wrong("scorers", "an unknown parameter raises KeyError")
class Strange(Redness):
    """Raises an exception that pydantic does not catch."""

    class Params(Redness.Params):
        @model_validator(mode="before")
        @classmethod
        def _known(cls, given: Mapping[str, Any]) -> Mapping[str, Any]:
            return {{"target": "target"}[key]: value for key, value in given.items()}


@wrong("scorers", "Unspeakable.Params has no JSON schema: PydanticInvalidForJsonSchema")
class Unspeakable(Redness):
    """Has a parameter of a type that a spec cannot contain."""

    class Params(Redness.Params):
        model_config = ConfigDict(arbitrary_types_allowed=True)
        network: nn.Module | None = Field(None, description="A network.")


@wrong("scorers", "the parameter `share` has no description")
class Unexplained(Redness):
    """Has a parameter without a description."""

    class Params(Redness.Params):
        share: float = 1.0


@wrong("scorers", "the parameter `type` has a reserved name")
class Taken(Redness):
    """Has a parameter named `type`, a key that specs use themselves."""

    class Params(Redness.Params):
        type: str = Field("red", description="A colour.")


@wrong("scorers", "Silent has no docstring")
class Silent(Redness):
    pass


@wrong("scorers", r"Moody\(params\) raised OSError: no weights")
class Moody(Redness):
    """Raises an exception when it is built."""

    def __init__(self, params: Any) -> None:
        raise OSError("no weights")


@wrong("scorers", r"the parameters \{'target': -1\} of this check are not valid: .*greater than 0", target=-1)
class WronglyChecked(Redness):
    """Correct, but its check gets invalid parameters."""


@wrong("scorers", r"the engine calls score\(images, context\), but the plugin has score\(images")
class TooFewArguments(Redness):
    """Does not accept all arguments that the engine passes."""

    def score(self, images: Tensor) -> Tensor:  # type: ignore[override]
        return super().score(images, None)


@wrong("scorers", r"score returns float32 \[3, 1\] for 3 images; expected float \[3\]")
class Column(Redness):
    """Returns a column instead of one number per image."""

    def score(self, images: Tensor, context: Any) -> Tensor:
        return super().score(images, context)[:, None]


@wrong("scorers", r"score returns int64 \[3\]")
class Whole(Redness):
    """Returns integers, which cannot be nan."""

    def score(self, images: Tensor, context: Any) -> Tensor:
        return (super().score(images, context) * 100).long()


@wrong("scorers", "score returns an infinite value")
class Infinite(Redness):
    """Divides by zero."""

    def score(self, images: Tensor, context: Any) -> Tensor:
        return super().score(images, context) / 0


@wrong("scorers", r"score returns nan for all \d images; pass the check images that it can measure")
class Blind(Redness):
    """Never measures anything."""

    def score(self, images: Tensor, context: Any) -> Tensor:
        return super().score(images, context) * float("nan")


@wrong("scorers", "score is not reproducible for the same images: they differ by up to")
class Wavering(Redness):
    """Adds a random number, as a scorer that samples pixels would."""

    def score(self, images: Tensor, context: Any) -> Tensor:
        return super().score(images, context) + torch.rand(())


@wrong("scorers", "image 0 gets different values alone and in a batch of")
class Relative(Redness):
    """Makes the value of an image depend on the other images of its batch."""

    def score(self, images: Tensor, context: Any) -> Tensor:
        values = super().score(images, context)
        return values / values.mean()


@wrong("scorers", "score changes its images in place")
class Painter(Redness):
    """Changes the images in place."""

    def score(self, images: Tensor, context: Any) -> Tensor:
        images.mul_(0.5)
        return super().score(images, context)


@wrong("scorers", r"score of images \[2, 3, 96, 128\] raised ValueError: 64 x 64 pixels only")
class OneSize(Redness):
    """Accepts only one image size."""

    def score(self, images: Tensor, context: Any) -> Tensor:
        if images.shape[-2:] != (64, 64):
            raise ValueError("64 x 64 pixels only")
        return super().score(images, context)


@wrong("scorers", "score without base_images raised TypeError")
class Dependent(Redness):
    """Requires base images."""

    def score(self, images: Tensor, context: Any) -> Tensor:
        return (images - context.base_images).abs().mean((1, 2, 3))


@wrong("scorers", "better is 'more'; expected one of higher, lower, target")
class More(Redness):
    """Has an invalid `better`."""

    better = "more"


@wrong("scorers", "unit is ''")
class Unitless(Redness):
    """Has an empty unit."""

    unit = ""


@wrong("scorers", r"accepted is \(0.55, 0.45\); expected None or two finite numbers", target=0.5)
class Reversed(Redness):
    """Accepts a range whose bounds are in the wrong order."""

    @property
    def accepted(self) -> Any:
        return (0.55, 0.45)


@wrong("scorers", "the target 0.5 is outside `accepted`, which is 0.6 to 0.7", target=0.5)
class BesideItself(Redness):
    """Does not accept its own target."""

    @property
    def accepted(self) -> Any:
        return (0.6, 0.7)


@wrong("scorers", "the report finds no `params.target`")
class Forgetful(Redness):
    """Does not store its parameters."""

    accepted = None

    def __init__(self, params: Any) -> None:
        pass


@wrong("scorers", "better is 'target', but there is no target: add a parameter `target`")
class Aimless(Redness):
    """Has neither a target nor an accepted range, although `better` is `target`."""

    accepted = None
    Params = Plugin.Params  # type: ignore[assignment]


# rewards


class LogLikelihood(Plugin):
    """Log-likelihood of the wanted answers, mean over the questions."""

    def __call__(self, answers: Answers, wanted: Sequence[int]) -> Tensor:
        return answers.log_likelihoods[:, range(len(wanted)), list(wanted)].mean(1)


@wrong("rewards", r"the reward of log-likelihoods float32 \[3, 2, 2\] is float32 \[\]; expected float \[3\]")
class OneForAll(LogLikelihood):
    """Returns one number for the whole batch."""

    def __call__(self, answers: Answers, wanted: Sequence[int]) -> Tensor:
        return super().__call__(answers, wanted).mean()


@wrong("rewards", r"the reward does not rise with P\(wanted answer\).*: 3 at P = 0.05 and 0.693 at P = 0.5 and 0.105")
class Loss(LogLikelihood):
    """Falls where it should rise."""

    def __call__(self, answers: Answers, wanted: Sequence[int]) -> Tensor:
        return -super().__call__(answers, wanted)


@wrong("rewards", "does not rise")
class AlwaysTheFirst(LogLikelihood):
    """Ignores which answer is wanted."""

    def __call__(self, answers: Answers, wanted: Sequence[int]) -> Tensor:
        return super().__call__(answers, [0] * len(wanted))


@wrong("rewards", "the reward is not differentiable with respect to the log-likelihoods")
class Detached(LogLikelihood):
    """Cuts the gradient."""

    def __call__(self, answers: Answers, wanted: Sequence[int]) -> Tensor:
        return super().__call__(replace(answers, log_likelihoods=answers.log_likelihoods.detach()), wanted)


@wrong("rewards", "the backward pass raised RuntimeError: stuck")
class StuckReward(LogLikelihood):
    """Has a custom backward pass that raises."""

    def __call__(self, answers: Answers, wanted: Sequence[int]) -> Tensor:
        return stuck(super().__call__(answers, wanted))


@wrong("rewards", "the gradient of the reward is 0 if the judge is uncertain", also="does not rise")
class Willful(LogLikelihood):
    """Is differentiable only with respect to an unrelated tensor."""

    def __call__(self, answers: Answers, wanted: Sequence[int]) -> Tensor:
        return torch.ones(len(answers.log_likelihoods), requires_grad=True) * 1


@wrong("rewards", "the reward is not finite if the judge is certain")
class Odds(LogLikelihood):
    """Returns log-odds, which are infinite at P = 1."""

    def __call__(self, answers: Answers, wanted: Sequence[int]) -> Tensor:
        scores = answers.log_likelihoods[:, range(len(wanted)), list(wanted)]
        return (scores - (1 - scores.exp()).log()).mean(1)


@wrong(
    "rewards",
    "the reward of one image depends on the answers about another image",
    also="different rewards alone and in",
)
class Ranked(LogLikelihood):
    """Makes the value of an image depend on the other images of its batch."""

    def __call__(self, answers: Answers, wanted: Sequence[int]) -> Tensor:
        values = super().__call__(answers, wanted)
        return values - values.mean()


@wrong("rewards", "the reward is not reproducible for the same answers: they differ by up to")
class Noisy(LogLikelihood):
    """Adds noise."""

    def __call__(self, answers: Answers, wanted: Sequence[int]) -> Tensor:
        return super().__call__(answers, wanted) + 0.01 * torch.rand(())


@wrong("rewards", "the reward changes the log-likelihoods in place")
class Sharpened(LogLikelihood):
    """Changes the judge's answers in place."""

    def __call__(self, answers: Answers, wanted: Sequence[int]) -> Tensor:
        value = super().__call__(answers, wanted)
        answers.log_likelihoods.data.clamp_(min=-1.0)
        return value


# visual prompts


class Bar(Plugin):
    """A red bar across the image."""

    color: ClassVar[tuple[int, int, int, int]] = (255, 0, 0, 255)

    def draw(self, canvas: Image.Image) -> None:
        ImageDraw.Draw(canvas).rectangle(self.box(canvas.width, canvas.height), fill=self.color)

    def box(self, width: int, height: int) -> tuple[float, float, float, float]:
        return (0.25 * width, 0.5 * height, 0.75 * width - 1, 0.625 * height - 1)


@wrong("visual_prompts", "draw returns Image; expected None, and a drawing on the given canvas")
class Copied(Bar):
    """Draws on a copy of the canvas."""

    def draw(self, canvas: Image.Image) -> Any:
        other = canvas.copy()
        super().draw(other)
        return other


@wrong("visual_prompts", "draw leaves a canvas of 512 x 512 fully transparent")
class Invisible(Bar):
    """Draws in a transparent colour."""

    color = (255, 0, 0, 0)


@wrong(
    "visual_prompts",
    r"on a canvas of twice 512 x 512: it covers 1.562% instead of 6.250% of it",
    also="twice 768 x 512",
)
class InPixels(Bar):
    """Uses positions in pixels instead of shares of the canvas."""

    def box(self, width: int, height: int) -> tuple[float, float, float, float]:
        return super().box(512, 512)


@wrong("visual_prompts", r"on a canvas of twice .*: it covers 0\.\d+% instead of")
class Hairline(Bar):
    """Draws a line of one pixel on a canvas of any size."""

    def box(self, width: int, height: int) -> tuple[float, float, float, float]:
        return (0.25 * width, 0.5 * height, 0.75 * width - 1, 0.5 * height)


@wrong("visual_prompts", r"draw is not reproducible: the second time, \d.*% of the pixels differ")
class Wandering(Bar):
    """Changes its size from call to call."""

    drawn = 0

    def box(self, width: int, height: int) -> tuple[float, float, float, float]:
        left, top, right, bottom = super().box(width, height)
        Wandering.drawn += 1
        return (left, top, right + Wandering.drawn % 2, bottom)


@wrong("visual_prompts", "draw erases other layers, on .*% of the canvas where it draws nothing itself")
class Greedy(Bar):
    """Clears the canvas before it draws."""

    def draw(self, canvas: Image.Image) -> None:
        canvas.paste((0, 0, 0, 0), (0, 0, *canvas.size))
        super().draw(canvas)


class Stamp(Bar):
    """Has a `path`; only checks that the file exists."""

    class Params(BaseModel, extra="forbid"):
        """The file."""

        path: str = Field(description="The image's file.")

    def __init__(self, params: Any) -> None:
        super().__init__(params)
        if not Path(params.path).exists():
            raise PluginError(f"no such file: {params.path}", hint="name an existing file")


@wrong(
    "visual_prompts",
    "a `path` that does not exist raises FileNotFoundError: .*; expected a PluginError",
    path=__file__,
)
class Raw(Stamp):
    """Raises the operating system's error, which the user would see with a traceback."""

    def __init__(self, params: Any) -> None:
        self.size = Path(params.path).stat().st_size


# generators


def randn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def words(texts: Sequence[str], size: int) -> Tensor:
    """A pseudo-random vector for each text: [B, size]."""
    return torch.stack([randn(zlib.crc32(text.encode()), size) for text in texts])


class Sketcher(Plugin):
    """An untrained flow model with 48 latent values, which draws images of 16 x 16 pixels in one sampling step."""

    lora_targets: Sequence[str] = ("up", "down")

    def __init__(self, params: Any) -> None:
        super().__init__(params)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            layers = OrderedDict(up=nn.Linear(56, 64), bend=nn.Tanh(), down=nn.Linear(64, 48))
            self.adapter_module: Any = nn.Sequential(layers).requires_grad_(False)

    def prepare(self, prompts: Sequence[str]) -> None:
        pass

    def noise(self, seeds: Sequence[int]) -> Tensor:
        return torch.stack([randn(seed, 3, 4, 4) for seed in seeds])

    def velocity(self, latents: Tensor, prompts: Sequence[str]) -> Tensor:
        given = torch.cat([latents.flatten(1), words(prompts, 8)], dim=1)
        out: Tensor = self.adapter_module(given)
        return out.view_as(latents)

    def decode(self, latents: Tensor) -> Tensor:
        return F.interpolate(latents, scale_factor=4).sigmoid()

    def sample(self, prompts: Sequence[str], seeds: Sequence[int], *, grad: bool = False, base: bool = False) -> Sample:
        with torch.set_grad_enabled(grad), lora_off(self.adapter_module, base):
            noise = self.noise(seeds)
            latents = noise - self.velocity(noise, prompts)
            return Sample(self.decode(latents), latents)

    def denoise(
        self, latents: Tensor, noise_level: float, prompts: Sequence[str], seeds: Sequence[int], *, base: bool = True
    ) -> Tensor:
        with torch.no_grad(), lora_off(self.adapter_module, base):
            noise = self.noise([seed + 1 for seed in seeds])
            noised = (1 - noise_level) * latents + noise_level * noise
            return noised - noise_level * self.velocity(noised, prompts)

    def save_lora(self, folder: Path, layers: Mapping[str, Tensor]) -> None:
        save_file(
            {f"transformer.{name}": value for name, value in layers.items()},
            folder / "pytorch_lora_weights.safetensors",
        )

    def recipe(self) -> Recipe:
        return Recipe("sketcher", "float32", {"num_inference_steps": 1})

    def pipeline(self) -> Any:
        return self


@wrong("generators", r"sample returns images float32 \[2, 16, 16, 3\] for 2 prompts; expected float \[B, 3, H, W\]")
class ChannelsLast(Sketcher):
    """Returns images with channels last."""

    def decode(self, latents: Tensor) -> Tensor:
        return super().decode(latents).permute(0, 2, 3, 1)


@wrong("generators", r"the pixels of images range from -0\.\d+ to 0\.\d+; expected \[0, 1\]")
class Signed(Sketcher):
    """Returns images in [-1, 1]."""

    def decode(self, latents: Tensor) -> Tensor:
        return 2 * super().decode(latents) - 1


@wrong("generators", "lora_targets that match no linear layer of Sequential: upp; its linear layers are up, down")
class Misspelt(Sketcher):
    """Names one layer that exists and one that does not."""

    lora_targets = ("upp", "down")


@wrong("generators", "sample is not reproducible for the same prompts and seeds: they differ by up to")
class Unseeded(Sketcher):
    """Adds random numbers that do not depend on the seeds."""

    def sample(self, prompts: Sequence[str], seeds: Sequence[int], **switches: bool) -> Sample:
        sample = super().sample(prompts, seeds, **switches)
        return replace(sample, images=0.7 * sample.images + 0.3 * torch.rand(sample.images.shape))


@wrong(
    "generators", "a prompt and seed give different images alone and in a batch of 2", also="different latents alone"
)
class OneSeed(Sketcher):
    """Draws the noise of a whole batch from the first seed."""

    def noise(self, seeds: Sequence[int]) -> Tensor:
        return randn(seeds[0], len(seeds), 3, 4, 4)


@wrong("generators", "the seeds 3 and 4294967303 give the same image of 'a cartoon of a cat'")
class Monotonous(Sketcher):
    """Always starts from the same noise."""

    def noise(self, seeds: Sequence[int]) -> Tensor:
        return super().noise([0] * len(seeds))


@wrong("generators", "the prompts 'a cartoon of a cat' and 'a dog' give exactly the same image for one seed")
class Deaf(Sketcher):
    """Ignores the prompts."""

    def velocity(self, latents: Tensor, prompts: Sequence[str]) -> Tensor:
        return super().velocity(latents, [""] * len(prompts))


@wrong("generators", r"weights of the generator are not frozen \(Sequential.up.weight")
class Thawed(Sketcher):
    """Does not freeze one of its own weights, but keeps the gradient away from it."""

    def __init__(self, params: Any) -> None:
        super().__init__(params)
        self.adapter_module.up.weight.requires_grad_()

    def velocity(self, latents: Tensor, prompts: Sequence[str]) -> Tensor:
        weight = self.own()
        weight.requires_grad_(False)
        out = super().velocity(latents, prompts)
        weight.requires_grad_()
        return out

    def own(self) -> nn.Parameter:
        up = self.adapter_module.up
        weight: nn.Parameter = up.base_layer.weight if isinstance(up, BaseTunerLayer) else up.weight
        return weight


@wrong(
    "generators",
    r"reaches weights outside the LoRA \(Linear.weight\)",
    also="keeps an autograd graph, although the LoRA is off",
)
class TrainsItsDecoder(Sketcher):
    """Trains a part of its decoder, which it unfreezes only while it draws."""

    def __init__(self, params: Any) -> None:
        super().__init__(params)
        self.colours = nn.Linear(1, 1, bias=False).requires_grad_(False)
        nn.init.ones_(self.colours.weight)

    def decode(self, latents: Tensor) -> Tensor:
        self.colours.weight.requires_grad_()
        out = super().decode(self.colours(latents[..., None])[..., 0])
        if torch.is_grad_enabled():
            return out
        self.colours.weight.requires_grad_(False)
        return out


@wrong(
    "generators",
    r"frozen weights of the generator have changed during the check \(Sequential.up.bias, Sequential.down.bias\)",
)
class Drifting(Sketcher):
    """Changes its own biases a little whenever it samples with gradient."""

    def sample(self, prompts: Sequence[str], seeds: Sequence[int], *, grad: bool = False, base: bool = False) -> Sample:
        if grad:
            for name, weight in self.adapter_module.named_parameters():
                if name.endswith("bias"):
                    weight.data += 1e-7
        return super().sample(prompts, seeds, grad=grad, base=base)


@wrong("generators", r"sample\(grad=False\) keeps the autograd graph")
class Hoarder(Sketcher):
    """Keeps the autograd graph even without `grad`."""

    def sample(self, prompts: Sequence[str], seeds: Sequence[int], *, grad: bool = False, base: bool = False) -> Sample:
        return super().sample(prompts, seeds, grad=True, base=base)


@wrong("generators", r"sample\(grad=True\) leaves gradients switched off globally")
class Switch(Sketcher):
    """Does not restore the gradient mode."""

    def sample(self, prompts: Sequence[str], seeds: Sequence[int], *, grad: bool = False, base: bool = False) -> Sample:
        sample = super().sample(prompts, seeds, grad=grad, base=base)
        if grad:
            torch.set_grad_enabled(False)
        return sample


@wrong("generators", r"images of sample\(grad=True\) are not differentiable with respect to the LoRA's weights")
class CutOff(Sketcher):
    """Decodes without a gradient."""

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        return super().decode(latents)


@wrong("generators", "the backward pass raised RuntimeError: stuck")
class StuckDecoder(Sketcher):
    """Has a custom backward pass that raises."""

    def decode(self, latents: Tensor) -> Tensor:
        return stuck(super().decode(latents))


@wrong("generators", r"latents of sample\(grad=True\) are not differentiable with respect to the LoRA's weights")
class LatentsCutOff(Sketcher):
    """Detaches the latents, so that an anchor has no gradient."""

    def sample(self, prompts: Sequence[str], seeds: Sequence[int], *, grad: bool = False, base: bool = False) -> Sample:
        sample = super().sample(prompts, seeds, grad=grad, base=base)
        return replace(sample, latents=sample.latents.detach())


@wrong(
    "generators",
    r"sample\(base=True\) draws other images than the generator without a LoRA",
    also="LoRA is off",
)
class NeverTheBase(Sketcher):
    """Leaves the LoRA on for base images."""

    def sample(self, prompts: Sequence[str], seeds: Sequence[int], *, grad: bool = False, base: bool = False) -> Sample:
        return super().sample(prompts, seeds, grad=grad)


@wrong("generators", "the LoRA does not change the images")
class AlwaysTheBase(Sketcher):
    """Turns the LoRA on only when a gradient is requested."""

    def sample(self, prompts: Sequence[str], seeds: Sequence[int], *, grad: bool = False, base: bool = False) -> Sample:
        return super().sample(prompts, seeds, grad=grad, base=base or not grad)


@wrong("generators", r"denoise at noise level 0.02 is not nearer to the latents .* than at 0.7")
class SingleNoiseLevel(Sketcher):
    """Ignores the noise level."""

    def denoise(self, latents: Tensor, noise_level: float, *of: Any, base: bool = True) -> Tensor:
        return super().denoise(latents, 0.3, *of, base=base)


@wrong("generators", "denoise does not switch the LoRA off by default: they differ by up to")
class DenoisesTrained(Sketcher):
    """Denoises with the LoRA on by default, although anchors need the base."""

    def denoise(
        self, latents: Tensor, noise_level: float, prompts: Sequence[str], seeds: Sequence[int], *, base: bool = False
    ) -> Tensor:
        return super().denoise(latents, noise_level, prompts, seeds, base=base)


@wrong("generators", "denoise changes its latents in place")
class InPlace(Sketcher):
    """Changes the latents in place."""

    def denoise(self, latents: Tensor, *of: Any, base: bool = True) -> Tensor:
        out = super().denoise(latents, *of, base=base)
        latents.mul_(1.01)
        return out


@wrong("generators", "save_lora does not write pytorch_lora_weights.safetensors; its folder has lora.safetensors")
class OtherName(Sketcher):
    """Writes a file with a wrong name."""

    def save_lora(self, folder: Path, layers: Mapping[str, Tensor]) -> None:
        super().save_lora(folder, layers)
        (folder / "pytorch_lora_weights.safetensors").rename(folder / "lora.safetensors")


@wrong("generators", "save_lora writes weights that differ from its `layers` by up to")
class TwiceAsStrong(Sketcher):
    """Multiplies the weights by a scale that is already folded in."""

    def save_lora(self, folder: Path, layers: Mapping[str, Tensor]) -> None:
        super().save_lora(folder, {name: 2 * value for name, value in layers.items()})


@wrong(
    "generators",
    r"the file that save_lora writes cannot be loaded: pytorch_lora_weights.safetensors is not a LoRA of this",
)
class HalfSaved(Sketcher):
    """Saves only some of the layers."""

    def save_lora(self, folder: Path, layers: Mapping[str, Tensor]) -> None:
        super().save_lora(folder, {name: value for name, value in layers.items() if "down" in name})


@wrong("generators", r"recipe\(\).dtype is 'fp32'; expected one of float32, bfloat16, float16")
class Shorthand(Sketcher):
    """Uses another name for its precision."""

    def recipe(self) -> Recipe:
        return replace(super().recipe(), dtype="fp32")


@wrong("generators", r"the parameter `height` is number; expected integer or null, because dualproc reads `height` as")
class Metric(Sketcher):
    """Has a parameter `height` that is not in pixels."""

    class Params(BaseModel, extra="forbid"):
        """The size."""

        height: float = Field(0.2, gt=0, description="Height of the print in metres.")


# anchors


class Leash(Plugin):
    """Mean squared distance between the latents and what the base denoises them to, from a random noise level."""

    def penalty(
        self, sample: Sample, generator: Any, prompts: Sequence[str], seeds: Sequence[int], rng: torch.Generator
    ) -> Tensor:
        level = 0.2 + 0.2 * torch.rand((), generator=rng).item()
        target = generator.denoise(sample.latents.detach(), level, prompts, seeds)
        return (sample.latents - target).square().flatten(1).mean(1)


@wrong("anchors", r"penalty returns float32 \[\] for a sample of 2 images; expected float \[2\]")
class MeanLeash(Leash):
    """Returns one number for the whole batch."""

    def penalty(self, *given: Any) -> Tensor:
        return super().penalty(*given).mean()


@wrong("anchors", r"penalty returns \[-\d.*; expected finite numbers >= 0")
class Pull(Leash):
    """Returns a negative penalty."""

    def penalty(self, *given: Any) -> Tensor:
        return -super().penalty(*given)


@wrong("anchors", "penalty is not differentiable with respect to the sample")
class Loose(Leash):
    """Has no gradient."""

    def penalty(self, sample: Sample, *given: Any) -> Tensor:
        return super().penalty(replace(sample, latents=sample.latents.detach()), *given)


@wrong("anchors", "the gradient of penalty with respect to the sample is 0, so it cannot train the generator")
class Lifeless(Leash):
    """Has a gradient that is always 0."""

    def penalty(self, sample: Sample, *given: Any) -> Tensor:
        return super().penalty(replace(sample, latents=sample.latents.detach()), *given) + 0 * sample.latents.sum()


@wrong("anchors", "the backward pass raised RuntimeError: stuck")
class StuckLeash(Leash):
    """Has a custom backward pass that raises."""

    def penalty(self, *given: Any) -> Tensor:
        return stuck(super().penalty(*given))


@wrong("anchors", "the penalty of one image depends on another image of the batch")
class Herd(Leash):
    """Makes the penalty of an image depend on the other images of its batch."""

    def penalty(self, sample: Sample, *given: Any) -> Tensor:
        return super().penalty(sample, *given) + sample.latents.mean().square()


@wrong("anchors", "penalty backpropagates into the generator, not only into the sample")
class Mirror(Leash):
    """Compares with a new sample of the generator, and trains the generator through that sample."""

    def penalty(self, sample: Sample, generator: Any, prompts: Sequence[str], seeds: Sequence[int], rng: Any) -> Tensor:
        drawn = generator.sample(prompts, seeds, grad=True)
        return (sample.latents - drawn.latents).square().flatten(1).mean(1)


@wrong("anchors", "penalty is not reproducible for the same sample and `rng`")
class Restless(Leash):
    """Draws its noise level from the global random generator."""

    def penalty(self, sample: Sample, generator: Any, prompts: Sequence[str], seeds: Sequence[int], rng: Any) -> Tensor:
        return super().penalty(sample, generator, prompts, seeds, torch.default_generator)


@wrong("anchors", "penalty changes its sample in place")
class Tug(Leash):
    """Changes the latents in place."""

    def penalty(self, sample: Sample, *given: Any) -> Tensor:
        value = super().penalty(sample, *given)
        sample.latents.data.mul_(0.9)
        return value


# judges


class Oracle(Plugin):
    """A small random network that reads a coarse image and the question, and scores 64 possible answers."""

    def __init__(self, params: Any) -> None:
        super().__init__(params)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.net = nn.Sequential(nn.Linear(48 + 16, 64), nn.Tanh(), nn.Linear(64, 64)).requires_grad_(False)

    def answer_log_likelihoods(self, images: Tensor, questions: Sequence[Sequence[Question]]) -> Answers:
        columns = list(zip(*questions, strict=True))
        scores = [
            self.read(images, [question.text for question in column])[:, self.places(column[0].candidates)]
            for column in columns
        ]
        return Answers(torch.stack(scores, dim=1), torch.ones(len(columns), len(columns[0][0].candidates)).long())

    def read(self, images: Tensor, texts: Sequence[str]) -> Tensor:
        """log P(answer): [B, 64]."""
        seen = self.see(images).flatten(1)
        out: Tensor = self.net(torch.cat([seen, words(texts, 16)], dim=1))
        return out.log_softmax(-1)

    def see(self, images: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(images, 4)

    def places(self, candidates: Sequence[str]) -> list[int]:
        return [zlib.crc32(text.encode()) % 64 for text in candidates]

    def generate(self, images: Tensor, questions: Sequence[str], *, max_new_tokens: int = 32) -> list[str]:
        return [f"word {place}" for place in self.read(images, questions).argmax(-1).tolist()]


@wrong("judges", r"log_likelihoods are float32 \[2, 1, 2\] for 2 images, 2 questions and 2 candidates")
class OneQuestion(Oracle):
    """Answers only the first question."""

    def answer_log_likelihoods(self, images: Tensor, questions: Any) -> Answers:
        return super().answer_log_likelihoods(images, [row[:1] for row in questions])


@wrong(
    "judges",
    r"token_counts are int64 \[2\]; expected integers \[2, 2\]",
    also=r"\[1\]; expected integers \[1, 2\]",
)
class MiscountedTokens(Oracle):
    """Counts the tokens of one candidate only."""

    def answer_log_likelihoods(self, images: Tensor, questions: Any) -> Answers:
        answers = super().answer_log_likelihoods(images, questions)
        return replace(answers, token_counts=answers.token_counts[:, 0])


@wrong("judges", r"log_likelihoods are up to 0\.\d+; expected at most 0")
class Probabilities(Oracle):
    """Returns P instead of log P."""

    def answer_log_likelihoods(self, images: Tensor, questions: Any) -> Answers:
        answers = super().answer_log_likelihoods(images, questions)
        return replace(answers, log_likelihoods=answers.log_likelihoods.exp())


@wrong("judges", r"the probabilities of Yes, No sum to 1\.\d+; expected at most 1")
class Halved(Oracle):
    """Returns a mean over tokens instead of the sum, which is not the log-probability of the whole answer."""

    def answer_log_likelihoods(self, images: Tensor, questions: Any) -> Answers:
        answers = super().answer_log_likelihoods(images, questions)
        return replace(answers, log_likelihoods=answers.log_likelihoods / 10)


@wrong("judges", "the scores of candidates depend on their order")
class Sorted(Oracle):
    """Returns the scores in a different order than the candidates."""

    def places(self, candidates: Sequence[str]) -> list[int]:
        return super().places(sorted(candidates))


@wrong("judges", "two questions have exactly the same scores, .*: the judge ignores the text")
class Unread(Oracle):
    """Ignores the question."""

    def read(self, images: Tensor, texts: Sequence[str]) -> Tensor:
        return super().read(images, [""] * len(texts))


@wrong("judges", "log_likelihoods are not differentiable with respect to the images")
class Graphless(Oracle):
    """Answers without a gradient."""

    @torch.no_grad()
    def answer_log_likelihoods(self, images: Tensor, questions: Any) -> Answers:
        return super().answer_log_likelihoods(images, questions)


@wrong(
    "judges", r"no gradient of log_likelihoods reaches the pixels of images \[2, 3, 64, 64\]", also=r"\[2, 3, 48, 80\]"
)
class EightBit(Oracle):
    """Rounds the images to 8 bits, which has a gradient of 0."""

    def see(self, images: Tensor) -> Tensor:
        return super().see((images * 255).round() / 255)


@wrong("judges", "the backward pass raised RuntimeError: stuck")
class StuckOracle(Oracle):
    """Has a custom backward pass that raises."""

    def see(self, images: Tensor) -> Tensor:
        return stuck(super().see(images))


@wrong("judges", "weights of the judge are not frozen", also="a gradient reaches the judge's weights")
class Learning(Oracle):
    """Does not freeze its weights."""

    def __init__(self, params: Any) -> None:
        super().__init__(params)
        self.net.requires_grad_()


@wrong("judges", r"frozen weights of the judge have changed during the check \(Sequential.2.bias\)")
class Tired(Oracle):
    """Changes its weights with every question."""

    def read(self, images: Tensor, texts: Sequence[str]) -> Tensor:
        self.net[2].bias.data.add_(1e-7)
        return super().read(images, texts)


@wrong("judges", "answer_log_likelihoods is not reproducible for the same questions: they differ by up to")
class Dropout(Oracle):
    """Is not in evaluation mode."""

    def see(self, images: Tensor) -> Tensor:
        return F.dropout(super().see(images), 0.1)


@wrong("judges", "image 0 has different scores alone and in a batch of 2", also="image 1 has|pixels of another")
class Comparing(Oracle):
    """Subtracts the mean image of the batch."""

    def see(self, images: Tensor) -> Tensor:
        seen = super().see(images)
        return seen - seen.mean(0)


@wrong("judges", "questions have different scores when asked one by one and together: they differ by up to")
class Chatty(Oracle):
    """Makes the answer to a question depend on the number of questions."""

    def answer_log_likelihoods(self, images: Tensor, questions: Any) -> Answers:
        heard = [[replace(one, text=f"{len(row)} {one.text}") for one in row] for row in questions]
        return super().answer_log_likelihoods(images, heard)


@wrong("judges", "answer_log_likelihoods changes its images in place", also="generate changes its images")
class Eraser(Oracle):
    """Normalises the images in place."""

    def see(self, images: Tensor) -> Tensor:
        images.data.sub_(0.001)
        return super().see(images + 0.001)


@wrong("judges", r"answer_log_likelihoods of images \[2, 3, 48, 80\] raised RuntimeError")
class Square(Oracle):
    """Accepts images of one shape only."""

    def see(self, images: Tensor) -> Tensor:
        return super().see(images.view(len(images), 3, 64, 64))


@wrong("judges", "generate returns str 'word .*' for 2 images; expected a list of 2 texts")
class OneWord(Oracle):
    """Returns one answer for all images."""

    def generate(self, images: Tensor, questions: Sequence[str], *, max_new_tokens: int = 32) -> Any:
        return super().generate(images, questions)[0]


@wrong(
    "judges",
    "the parameter `offload` is string or null; expected boolean, because dualproc reads `offload` as a memory",
)
class OffloadsToDisk(Oracle):
    """Has a parameter `offload` that names a folder."""

    class Params(BaseModel, extra="forbid"):
        """Where the weights are."""

        offload: str | None = Field(None, description="A folder for the weights.")


RIGHT: Sequence[tuple[str, type[Any], Mapping[str, Any]]] = (
    ("scorers", Redness, {}),
    ("scorers", Redness, {"target": 0.5}),
    ("rewards", LogLikelihood, {}),
    ("visual_prompts", Bar, {}),
    ("visual_prompts", Stamp, {"path": __file__}),
    ("generators", Sketcher, {}),
    ("anchors", Leash, {}),
    ("judges", Oracle, {}),
)
