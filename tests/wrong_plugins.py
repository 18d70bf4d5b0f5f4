"""One small right plugin of every kind, and what is made from it by one mistake: `WRONG` has each with its sentence.

The right ones are `RIGHT`; they pass their checks, so that a wrong one can fail for its own mistake only.
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
    """A plugin with one mistake, and the sentence that tells it."""

    kind: str
    cls: type[Any]
    sentence: str
    also: str
    """Another sentence that the mistake may lead to."""
    params: Mapping[str, Any]


WRONG: list[Wrong] = []


def wrong(kind: str, sentence: str, *, also: str = "$^", **params: Any) -> Callable[[type[Any]], type[Any]]:
    """Keep the class in `WRONG`: its check is to find `sentence` (a part of it, a regular expression)."""

    def keep(cls: type[Any]) -> type[Any]:
        WRONG.append(Wrong(kind, cls, sentence, also, params))
        return cls

    return keep


class Plugin:
    """Without parameters."""

    api_version: ClassVar[int] = 1

    class Params(BaseModel, extra="forbid"):
        """Nothing to set."""

    def __init__(self, params: Any) -> None:
        self.params = params


class Stuck(torch.autograd.Function):
    """Gives what it gets; its backward pass raises."""

    @staticmethod
    def forward(_: Any, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(*_: Any) -> Any:
        raise RuntimeError("stuck")


def stuck(value: Tensor) -> Tensor:
    out: Tensor = Stuck.apply(value)
    return out


# scorers, and what all kinds have in common


class Redness(Plugin):
    """Share of the image's light that is red."""

    unit = "of the light"
    better = "target"

    class Params(BaseModel, extra="forbid"):
        """What counts as a hit."""

        target: float | None = Field(None, gt=0, description="Wanted share.")

    @property
    def accepted(self) -> tuple[float, float] | None:
        target = self.params.target
        return None if target is None else (target - 0.05, target + 0.05)

    def score(self, images: Tensor, context: Any) -> Tensor:
        return images[:, 0].mean((1, 2)) / images.sum(1).mean((1, 2)).clamp(min=1e-6)


@wrong("scorers", "its api_version is 0, but this dualproc needs 1")
class Old(Redness):
    """Of an earlier dualproc."""

    api_version = 0


@wrong("scorers", "NoMethod lacks score")
class NoMethod(Plugin):
    """Cannot score."""

    unit, better = "of the light", "higher"


@wrong("scorers", "Lenient.Params does not forbid extra keys")
class Lenient(Redness):
    """Takes any parameter."""

    class Params(Redness.Params, extra="ignore"):
        pass


@wrong("scorers", "the unknown parameter `no_such_parameter` is accepted")
class Swallows(Redness):
    """Drops what it does not know before pydantic can see it."""

    class Params(Redness.Params):
        @model_validator(mode="before")
        @classmethod
        def _known(cls, given: Mapping[str, Any]) -> dict[str, Any]:
            return {key: value for key, value in given.items() if key == "target"}


@wrong("scorers", "an unknown parameter raises KeyError")
class Strange(Redness):
    """Raises what pydantic lets through."""

    class Params(Redness.Params):
        @model_validator(mode="before")
        @classmethod
        def _known(cls, given: Mapping[str, Any]) -> Mapping[str, Any]:
            return {{"target": "target"}[key]: value for key, value in given.items()}


@wrong("scorers", "Unspeakable.Params has no JSON schema: PydanticInvalidForJsonSchema")
class Unspeakable(Redness):
    """Has a parameter that no spec can hold."""

    class Params(Redness.Params):
        model_config = ConfigDict(arbitrary_types_allowed=True)
        network: nn.Module | None = Field(None, description="A network.")


@wrong("scorers", "the parameter `share` has no description")
class Unexplained(Redness):
    """Has a parameter of which nobody knows what it means."""

    class Params(Redness.Params):
        share: float = 1.0


@wrong("scorers", "no parameter may be called `type`")
class Taken(Redness):
    """Has a parameter that a spec cannot set."""

    class Params(Redness.Params):
        type: str = Field("red", description="Which colour.")


@wrong("scorers", "Silent has no docstring")
class Silent(Redness):
    pass


@wrong("scorers", r"Moody\(params\) raised OSError: no weights on this planet")
class Moody(Redness):
    """Cannot be built."""

    def __init__(self, params: Any) -> None:
        raise OSError("no weights on this planet")


@wrong("scorers", r"the parameters \{'target': -1\} of this check are not valid: .*greater than 0", target=-1)
class WronglyChecked(Redness):
    """Right, but for the parameters that its check is given."""


@wrong("scorers", r"score is called as score\(images, context\), but is score\(images")
class TooFewArguments(Redness):
    """Does not take what the engine passes."""

    def score(self, images: Tensor) -> Tensor:  # type: ignore[override]
        return super().score(images, None)


@wrong("scorers", r"score gives float32 \[3, 1\] for 3 images; wanted is float \[3\]")
class Column(Redness):
    """One column instead of one number per image."""

    def score(self, images: Tensor, context: Any) -> Tensor:
        return super().score(images, context)[:, None]


@wrong("scorers", r"score gives int64 \[3\]")
class Whole(Redness):
    """Whole numbers, which cannot be nan."""

    def score(self, images: Tensor, context: Any) -> Tensor:
        return (super().score(images, context) * 100).long()


@wrong("scorers", "score is infinite for an image")
class Infinite(Redness):
    """Divides by zero."""

    def score(self, images: Tensor, context: Any) -> Tensor:
        return super().score(images, context) / 0


@wrong("scorers", r"score is nan for all \d images; give the check images that it can measure")
class Blind(Redness):
    """Never sees anything."""

    def score(self, images: Tensor, context: Any) -> Tensor:
        return super().score(images, context) * float("nan")


@wrong("scorers", "the same images, scored again, get other values: they differ by up to")
class Wavering(Redness):
    """Takes a sample of the pixels."""

    def score(self, images: Tensor, context: Any) -> Tensor:
        return super().score(images, context) + torch.rand(())


@wrong("scorers", "image 0 gets another value alone than in a batch of")
class Relative(Redness):
    """Measures an image by the others of its batch."""

    def score(self, images: Tensor, context: Any) -> Tensor:
        values = super().score(images, context)
        return values / values.mean()


@wrong("scorers", "score changes the images that it is given")
class Painter(Redness):
    """Works on the images themselves."""

    def score(self, images: Tensor, context: Any) -> Tensor:
        images.mul_(0.5)
        return super().score(images, context)


@wrong("scorers", r"score of images \[2, 3, 96, 128\] raised ValueError: 64 x 64 pixels only")
class OneSize(Redness):
    """Knows the images of one generator only."""

    def score(self, images: Tensor, context: Any) -> Tensor:
        if images.shape[-2:] != (64, 64):
            raise ValueError("64 x 64 pixels only")
        return super().score(images, context)


@wrong("scorers", "score without base_images raised TypeError")
class Dependent(Redness):
    """Takes it for granted that there is a base."""

    def score(self, images: Tensor, context: Any) -> Tensor:
        return (images - context.base_images).abs().mean((1, 2, 3))


@wrong("scorers", "better is 'more'; wanted is one of higher, lower, target")
class More(Redness):
    """Says in its own words what is better."""

    better = "more"


@wrong("scorers", "unit is ''")
class Unitless(Redness):
    """Says nothing of its unit."""

    unit = ""


@wrong("scorers", r"accepted is \(0.55, 0.45\); wanted is None or two finite numbers", target=0.5)
class Reversed(Redness):
    """Accepts from high to low."""

    @property
    def accepted(self) -> Any:
        return (0.55, 0.45)


@wrong("scorers", "the target 0.5 is not accepted: accepted is from 0.6 to 0.7", target=0.5)
class BesideItself(Redness):
    """Does not accept what it wants."""

    @property
    def accepted(self) -> Any:
        return (0.6, 0.7)


@wrong("scorers", r"it has no `params.target`, where the report looks for it")
class Forgetful(Redness):
    """Does not keep its parameters."""

    accepted = None

    def __init__(self, params: Any) -> None:
        pass


@wrong("scorers", "better is 'target', but there is neither a parameter `target` nor an `accepted`")
class Aimless(Redness):
    """Has a target that nobody knows."""

    accepted = None
    Params = Plugin.Params  # type: ignore[assignment]


# rewards


class LogLikelihood(Plugin):
    """Log-likelihood of the wanted answers."""

    def __call__(self, answers: Answers, wanted: Sequence[int]) -> Tensor:
        return answers.log_likelihoods[:, range(len(wanted)), list(wanted)].mean(1)


@wrong("rewards", r"the reward of log-likelihoods float32 \[3, 2, 2\] is float32 \[\]; wanted is float \[3\]")
class OneForAll(LogLikelihood):
    """One number for the whole batch."""

    def __call__(self, answers: Answers, wanted: Sequence[int]) -> Tensor:
        return super().__call__(answers, wanted).mean()


@wrong("rewards", r"the reward does not rise with P\(wanted answer\).*: 3 at P = 0.05 and 0.693 at P = 0.5 and 0.105")
class Loss(LogLikelihood):
    """Is lower where it should be higher."""

    def __call__(self, answers: Answers, wanted: Sequence[int]) -> Tensor:
        return -super().__call__(answers, wanted)


@wrong("rewards", "does not rise")
class AlwaysTheFirst(LogLikelihood):
    """Does not look which answer is wanted."""

    def __call__(self, answers: Answers, wanted: Sequence[int]) -> Tensor:
        return super().__call__(answers, [0] * len(wanted))


@wrong("rewards", "the reward is not differentiable in the log-likelihoods")
class Detached(LogLikelihood):
    """Cuts the gradient off."""

    def __call__(self, answers: Answers, wanted: Sequence[int]) -> Tensor:
        return super().__call__(replace(answers, log_likelihoods=answers.log_likelihoods.detach()), wanted)


@wrong("rewards", "the backward pass raised RuntimeError: stuck")
class StuckReward(LogLikelihood):
    """Has a backward pass of its own, and a mistake there."""

    def __call__(self, answers: Answers, wanted: Sequence[int]) -> Tensor:
        return stuck(super().__call__(answers, wanted))


@wrong("rewards", "the gradient in the log-likelihoods is 0", also="does not rise")
class Willful(LogLikelihood):
    """Is differentiable, in something else."""

    def __call__(self, answers: Answers, wanted: Sequence[int]) -> Tensor:
        return torch.ones(len(answers.log_likelihoods), requires_grad=True) * 1


@wrong("rewards", r"the reward is not finite where the judge is sure")
class Odds(LogLikelihood):
    """Log-odds that are infinite at P = 1."""

    def __call__(self, answers: Answers, wanted: Sequence[int]) -> Tensor:
        scores = answers.log_likelihoods[:, range(len(wanted)), list(wanted)]
        return (scores - (1 - scores.exp()).log()).mean(1)


@wrong(
    "rewards", "the reward of one image has a gradient in the answers about another", also="another reward alone than"
)
class Ranked(LogLikelihood):
    """Measures an image by the others of its batch."""

    def __call__(self, answers: Answers, wanted: Sequence[int]) -> Tensor:
        values = super().__call__(answers, wanted)
        return values - values.mean()


@wrong("rewards", "the same answers, rewarded again, get other rewards: they differ by up to")
class Noisy(LogLikelihood):
    """Adds a little noise."""

    def __call__(self, answers: Answers, wanted: Sequence[int]) -> Tensor:
        return super().__call__(answers, wanted) + 0.01 * torch.rand(())


@wrong("rewards", "the reward changes the log-likelihoods that it is given")
class Sharpened(LogLikelihood):
    """Works on the judge's answers themselves."""

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


@wrong("visual_prompts", "draw returns Image, which nobody takes; it has to draw on the canvas in place")
class Copied(Bar):
    """Draws on a copy."""

    def draw(self, canvas: Image.Image) -> Any:
        other = canvas.copy()
        super().draw(other)
        return other


@wrong("visual_prompts", "draw leaves the canvas of 512 x 512 fully transparent")
class Invisible(Bar):
    """Draws with a transparent colour."""

    color = (255, 0, 0, 0)


@wrong(
    "visual_prompts",
    r"on a canvas of twice 512 x 512: it covers 1.562% of it instead of 6.250%",
    also="twice 768 x 512",
)
class InPixels(Bar):
    """Places that are pixels."""

    def box(self, width: int, height: int) -> tuple[float, float, float, float]:
        return super().box(512, 512)


@wrong("visual_prompts", r"on a canvas of twice .*: it covers 0\.\d+% of it instead of")
class Hairline(Bar):
    """A width that is one pixel on any canvas."""

    def box(self, width: int, height: int) -> tuple[float, float, float, float]:
        return (0.25 * width, 0.5 * height, 0.75 * width - 1, 0.5 * height)


@wrong("visual_prompts", r"draw gives another drawing the second time: \d.*% of the pixels differ")
class Wandering(Bar):
    """Shifts itself by a little."""

    drawn = 0

    def box(self, width: int, height: int) -> tuple[float, float, float, float]:
        left, top, right, bottom = super().box(width, height)
        Wandering.drawn += 1
        return (left, top, right + Wandering.drawn % 2, bottom)


@wrong("visual_prompts", "draw erases what other layers drew, on .*% of the canvas where it draws nothing itself")
class Greedy(Bar):
    """Wipes the canvas first."""

    def draw(self, canvas: Image.Image) -> None:
        canvas.paste((0, 0, 0, 0), (0, 0, *canvas.size))
        super().draw(canvas)


class Stamp(Bar):
    """An image from a file, of which only the existence counts."""

    class Params(BaseModel, extra="forbid"):
        """Which image."""

        path: str = Field(description="The image's file.")

    def __init__(self, params: Any) -> None:
        super().__init__(params)
        if not Path(params.path).exists():
            raise PluginError(f"there is no file {params.path}", hint="name one that there is")


@wrong(
    "visual_prompts",
    "for a `path` where no file is, it raises FileNotFoundError instead of a PluginError",
    path=__file__,
)
class Raw(Stamp):
    """Lets the system's error through, which the user would see with a traceback."""

    def __init__(self, params: Any) -> None:
        self.size = Path(params.path).stat().st_size


# generators


def randn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def words(texts: Sequence[str], size: int) -> Tensor:
    """[B, size]: a vector for each text."""
    return torch.stack([randn(zlib.crc32(text.encode()), size) for text in texts])


class Sketcher(Plugin):
    """A flow model of 48 numbers, trained nothing yet, that paints images of 16 x 16 pixels in one step."""

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


@wrong("generators", r"sample gives images float32 \[2, 16, 16, 3\] for 2 prompts; wanted is float \[B, 3, H, W\]")
class ChannelsLast(Sketcher):
    """Images as they are saved."""

    def decode(self, latents: Tensor) -> Tensor:
        return super().decode(latents).permute(0, 2, 3, 1)


@wrong("generators", r"images are from -0\.\d+ to 0\.\d+; wanted is \[0, 1\]")
class Signed(Sketcher):
    """Images from -1 to 1."""

    def decode(self, latents: Tensor) -> Tensor:
        return 2 * super().decode(latents) - 1


@wrong("generators", "lora_targets name no linear layer of Sequential: upp; its layers are up, down")
class Misspelt(Sketcher):
    """Names a layer that it does not have, beside one that it has."""

    lora_targets = ("upp", "down")


@wrong("generators", "the same prompts and seeds give other images: they differ by up to")
class Unseeded(Sketcher):
    """Does not use the seeds."""

    def sample(self, prompts: Sequence[str], seeds: Sequence[int], **switches: bool) -> Sample:
        sample = super().sample(prompts, seeds, **switches)
        return replace(sample, images=0.7 * sample.images + 0.3 * torch.rand(sample.images.shape))


@wrong("generators", "a prompt and seed give another image alone than in a batch of 2", also="other latents alone than")
class OneSeed(Sketcher):
    """Draws the noise of a whole batch from its first seed."""

    def noise(self, seeds: Sequence[int]) -> Tensor:
        return randn(seeds[0], len(seeds), 3, 4, 4)


@wrong("generators", "the seeds 3 and 4294967303 give the same image of 'a cartoon of a cat'")
class Monotonous(Sketcher):
    """Always begins with the same noise."""

    def noise(self, seeds: Sequence[int]) -> Tensor:
        return super().noise([0] * len(seeds))


@wrong("generators", "the prompts 'a cartoon of a cat' and 'a dog' give exactly the same image from one seed")
class Deaf(Sketcher):
    """Does not read the prompts."""

    def velocity(self, latents: Tensor, prompts: Sequence[str]) -> Tensor:
        return super().velocity(latents, [""] * len(prompts))


@wrong("generators", r"weights of the generator are not frozen \(Sequential.up.weight")
class Thawed(Sketcher):
    """Forgets to freeze its own weights, which then get a gradient, too."""

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
    r"reaches other weights than the LoRA's \(Linear.weight\)",
    also="has a graph, although the LoRA is off",
)
class TrainsItsDecoder(Sketcher):
    """Lets a part learn that it unfreezes only when it draws."""

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
    r"have changed, although only the LoRA was trained \(Sequential.up.bias, Sequential.down.bias\)",
)
class Drifting(Sketcher):
    """Changes its own weights a little whenever something is learnt."""

    def sample(self, prompts: Sequence[str], seeds: Sequence[int], *, grad: bool = False, base: bool = False) -> Sample:
        if grad:
            for name, weight in self.adapter_module.named_parameters():
                if name.endswith("bias"):
                    weight.data += 1e-7
        return super().sample(prompts, seeds, grad=grad, base=base)


@wrong("generators", "sample keeps a graph without being asked to")
class Hoarder(Sketcher):
    """Keeps the graph whether it is asked to or not."""

    def sample(self, prompts: Sequence[str], seeds: Sequence[int], *, grad: bool = False, base: bool = False) -> Sample:
        return super().sample(prompts, seeds, grad=True, base=base)


@wrong("generators", r"sample\(grad=True\) leaves gradients switched off for everything")
class Switch(Sketcher):
    """Does not put back what it switches."""

    def sample(self, prompts: Sequence[str], seeds: Sequence[int], *, grad: bool = False, base: bool = False) -> Sample:
        sample = super().sample(prompts, seeds, grad=grad, base=base)
        if grad:
            torch.set_grad_enabled(False)
        return sample


@wrong("generators", r"images of sample\(grad=True\) are not differentiable in the LoRA's weights")
class CutOff(Sketcher):
    """Decodes without gradient."""

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        return super().decode(latents)


@wrong("generators", "the backward pass raised RuntimeError: stuck")
class StuckDecoder(Sketcher):
    """Has a backward pass of its own, and a mistake there."""

    def decode(self, latents: Tensor) -> Tensor:
        return stuck(super().decode(latents))


@wrong("generators", r"latents of sample\(grad=True\) are not differentiable in the LoRA's weights")
class LatentsCutOff(Sketcher):
    """Detaches the latents, which an anchor could then not hold."""

    def sample(self, prompts: Sequence[str], seeds: Sequence[int], *, grad: bool = False, base: bool = False) -> Sample:
        sample = super().sample(prompts, seeds, grad=grad, base=base)
        return replace(sample, latents=sample.latents.detach())


@wrong(
    "generators",
    r"sample\(base=True\) draws other images than the generator did before it had a LoRA",
    also="LoRA is off",
)
class NeverTheBase(Sketcher):
    """Leaves the LoRA on."""

    def sample(self, prompts: Sequence[str], seeds: Sequence[int], *, grad: bool = False, base: bool = False) -> Sample:
        return super().sample(prompts, seeds, grad=grad)


@wrong("generators", r"the LoRA changes no image")
class AlwaysTheBase(Sketcher):
    """Leaves the LoRA off, but for the gradient."""

    def sample(self, prompts: Sequence[str], seeds: Sequence[int], *, grad: bool = False, base: bool = False) -> Sample:
        return super().sample(prompts, seeds, grad=grad, base=base or not grad)


@wrong("generators", r"denoise comes no nearer to the latents from noise level 0.02 .* than from 0.7")
class SingleNoiseLevel(Sketcher):
    """Does not look at the noise level."""

    def denoise(self, latents: Tensor, noise_level: float, *of: Any, base: bool = True) -> Tensor:
        return super().denoise(latents, 0.3, *of, base=base)


@wrong("generators", "denoise does not leave the LoRA out by default: they differ by up to")
class DenoisesTrained(Sketcher):
    """Has the LoRA on where the anchor wants the base."""

    def denoise(
        self, latents: Tensor, noise_level: float, prompts: Sequence[str], seeds: Sequence[int], *, base: bool = False
    ) -> Tensor:
        return super().denoise(latents, noise_level, prompts, seeds, base=base)


@wrong("generators", "denoise changes the latents that it is given")
class InPlace(Sketcher):
    """Re-noises the latents themselves."""

    def denoise(self, latents: Tensor, *of: Any, base: bool = True) -> Tensor:
        out = super().denoise(latents, *of, base=base)
        latents.mul_(1.01)
        return out


@wrong("generators", "save_lora writes no pytorch_lora_weights.safetensors; in its folder there is lora.safetensors")
class OtherName(Sketcher):
    """Writes a file that nobody looks for."""

    def save_lora(self, folder: Path, layers: Mapping[str, Tensor]) -> None:
        super().save_lora(folder, layers)
        (folder / "pytorch_lora_weights.safetensors").rename(folder / "lora.safetensors")


@wrong("generators", "what save_lora writes are other weights than it was given: they differ by up to")
class TwiceAsStrong(Sketcher):
    """Folds a scale in that is folded in already."""

    def save_lora(self, folder: Path, layers: Mapping[str, Tensor]) -> None:
        super().save_lora(folder, {name: 2 * value for name, value in layers.items()})


@wrong(
    "generators", r"what save_lora writes cannot be read back: pytorch_lora_weights.safetensors is not a LoRA of this"
)
class HalfSaved(Sketcher):
    """Loses layers."""

    def save_lora(self, folder: Path, layers: Mapping[str, Tensor]) -> None:
        super().save_lora(folder, {name: value for name, value in layers.items() if "down" in name})


@wrong("generators", r"recipe\(\).dtype is 'fp32'; wanted is one of float32, bfloat16, float16")
class Shorthand(Sketcher):
    """Names its precision in its own way."""

    def recipe(self) -> Recipe:
        return replace(super().recipe(), dtype="fp32")


# anchors


class Leash(Plugin):
    """Squared distance of the latents to what the base makes of them, re-noised to a level of its choice."""

    def penalty(
        self, sample: Sample, generator: Any, prompts: Sequence[str], seeds: Sequence[int], rng: torch.Generator
    ) -> Tensor:
        level = 0.2 + 0.2 * torch.rand((), generator=rng).item()
        target = generator.denoise(sample.latents.detach(), level, prompts, seeds)
        return (sample.latents - target).square().flatten(1).mean(1)


@wrong("anchors", r"penalty gives float32 \[\] for a sample of 2 images; wanted is float \[2\]")
class MeanLeash(Leash):
    """One number for the whole batch."""

    def penalty(self, *given: Any) -> Tensor:
        return super().penalty(*given).mean()


@wrong("anchors", r"penalty is \[-\d.*; wanted are finite numbers from 0")
class Pull(Leash):
    """Rewards where it should punish."""

    def penalty(self, *given: Any) -> Tensor:
        return -super().penalty(*given)


@wrong("anchors", "penalty is not differentiable in the sample")
class Loose(Leash):
    """Holds nothing."""

    def penalty(self, sample: Sample, *given: Any) -> Tensor:
        return super().penalty(replace(sample, latents=sample.latents.detach()), *given)


@wrong("anchors", "the gradient of penalty in the sample is 0: nothing would hold the generator")
class Lifeless(Leash):
    """Differentiable, without any slope."""

    def penalty(self, sample: Sample, *given: Any) -> Tensor:
        return super().penalty(replace(sample, latents=sample.latents.detach()), *given) + 0 * sample.latents.sum()


@wrong("anchors", "the backward pass raised RuntimeError: stuck")
class StuckLeash(Leash):
    """Has a backward pass of its own, and a mistake there."""

    def penalty(self, *given: Any) -> Tensor:
        return stuck(super().penalty(*given))


@wrong("anchors", "the penalty of one image has a gradient in another")
class Herd(Leash):
    """Keeps the images of a batch together."""

    def penalty(self, sample: Sample, *given: Any) -> Tensor:
        return super().penalty(sample, *given) + sample.latents.mean().square()


@wrong("anchors", "penalty has a gradient in the generator's own computation, not only in the sample")
class Mirror(Leash):
    """Compares with what the generator itself draws, and trains it through that."""

    def penalty(self, sample: Sample, generator: Any, prompts: Sequence[str], seeds: Sequence[int], rng: Any) -> Tensor:
        drawn = generator.sample(prompts, seeds, grad=True)
        return (sample.latents - drawn.latents).square().flatten(1).mean(1)


@wrong("anchors", "penalty of the same sample and the same `rng` is another the second time")
class Restless(Leash):
    """Draws its noise level from the global random numbers."""

    def penalty(self, sample: Sample, generator: Any, prompts: Sequence[str], seeds: Sequence[int], rng: Any) -> Tensor:
        return super().penalty(sample, generator, prompts, seeds, torch.default_generator)


@wrong("anchors", "penalty changes the sample that it is given")
class Tug(Leash):
    """Works on the latents themselves."""

    def penalty(self, sample: Sample, *given: Any) -> Tensor:
        value = super().penalty(sample, *given)
        sample.latents.data.mul_(0.9)
        return value


# judges


class Oracle(Plugin):
    """A small random network over coarse images and the words of the question, with 64 answers to choose from."""

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
        """[B, 64]: log P(answer)."""
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
    """Forgets the other questions."""

    def answer_log_likelihoods(self, images: Tensor, questions: Any) -> Answers:
        return super().answer_log_likelihoods(images, [row[:1] for row in questions])


@wrong(
    "judges",
    r"token_counts are int64 \[2\]; wanted are whole numbers \[2, 2\]",
    also=r"\[1\]; wanted are whole numbers \[1, 2\]",
)
class MiscountedTokens(Oracle):
    """Counts the tokens of one candidate only."""

    def answer_log_likelihoods(self, images: Tensor, questions: Any) -> Answers:
        answers = super().answer_log_likelihoods(images, questions)
        return replace(answers, token_counts=answers.token_counts[:, 0])


@wrong("judges", r"log_likelihoods are up to 0\.\d+; the log of a probability is at most 0")
class Probabilities(Oracle):
    """P instead of log P."""

    def answer_log_likelihoods(self, images: Tensor, questions: Any) -> Answers:
        answers = super().answer_log_likelihoods(images, questions)
        return replace(answers, log_likelihoods=answers.log_likelihoods.exp())


@wrong("judges", r"the probabilities of Yes, No add up to 1\.\d+; P\(candidate \| image, question\) is a share")
class Halved(Oracle):
    """The mean over two tokens instead of the sum, and so no probability of the whole answer."""

    def answer_log_likelihoods(self, images: Tensor, questions: Any) -> Answers:
        answers = super().answer_log_likelihoods(images, questions)
        return replace(answers, log_likelihoods=answers.log_likelihoods / 10)


@wrong("judges", "with the candidates in another order they have other scores")
class Sorted(Oracle):
    """Puts the candidates in an order of its own."""

    def places(self, candidates: Sequence[str]) -> list[int]:
        return super().places(sorted(candidates))


@wrong("judges", "two questions have exactly the same scores, .*: the text is not read")
class Unread(Oracle):
    """Does not read the question."""

    def read(self, images: Tensor, texts: Sequence[str]) -> Tensor:
        return super().read(images, [""] * len(texts))


@wrong("judges", "log_likelihoods are not differentiable in the images")
class Graphless(Oracle):
    """Asked without gradient."""

    @torch.no_grad()
    def answer_log_likelihoods(self, images: Tensor, questions: Any) -> Answers:
        return super().answer_log_likelihoods(images, questions)


@wrong(
    "judges", r"no gradient of log_likelihoods reaches the pixels of images \[2, 3, 64, 64\]", also=r"\[2, 3, 48, 80\]"
)
class EightBit(Oracle):
    """Rounds the images to 8 bits, which has no slope."""

    def see(self, images: Tensor) -> Tensor:
        return super().see((images * 255).round() / 255)


@wrong("judges", "the backward pass raised RuntimeError: stuck")
class StuckOracle(Oracle):
    """Has a backward pass of its own, and a mistake there."""

    def see(self, images: Tensor) -> Tensor:
        return stuck(super().see(images))


@wrong("judges", "weights of the judge are not frozen", also="a gradient reaches the judge's own weights")
class Learning(Oracle):
    """Forgets to freeze its weights."""

    def __init__(self, params: Any) -> None:
        super().__init__(params)
        self.net.requires_grad_()


@wrong("judges", r"weights of the judge have changed while it was asked \(Sequential.2.bias\)")
class Tired(Oracle):
    """Changes with every question."""

    def read(self, images: Tensor, texts: Sequence[str]) -> Tensor:
        self.net[2].bias.data.add_(1e-7)
        return super().read(images, texts)


@wrong("judges", "the same questions, asked again, have other scores: they differ by up to")
class Dropout(Oracle):
    """Is not put into evaluation mode."""

    def see(self, images: Tensor) -> Tensor:
        return F.dropout(super().see(images), 0.1)


@wrong("judges", "image 0 has other scores alone than in a batch of 2", also="image 1 has|pixels of another")
class Comparing(Oracle):
    """Normalises the images of a batch together."""

    def see(self, images: Tensor) -> Tensor:
        seen = super().see(images)
        return seen - seen.mean(0)


@wrong("judges", "questions asked one by one have other scores than asked together: they differ by up to")
class Chatty(Oracle):
    """Lets every question hear how many there are."""

    def answer_log_likelihoods(self, images: Tensor, questions: Any) -> Answers:
        heard = [[replace(one, text=f"{len(row)} {one.text}") for one in row] for row in questions]
        return super().answer_log_likelihoods(images, heard)


@wrong("judges", "answer_log_likelihoods changes the images that it is given", also="generate changes the images")
class Eraser(Oracle):
    """Normalises the images themselves."""

    def see(self, images: Tensor) -> Tensor:
        images.data.sub_(0.001)
        return super().see(images + 0.001)


@wrong("judges", r"answer_log_likelihoods of images \[2, 3, 48, 80\] raised RuntimeError")
class Square(Oracle):
    """Takes images of one shape only."""

    def see(self, images: Tensor) -> Tensor:
        return super().see(images.view(len(images), 3, 64, 64))


@wrong("judges", "generate gives str 'word .*' for 2 images; wanted is a list of 2 texts")
class OneWord(Oracle):
    """One answer for all images."""

    def generate(self, images: Tensor, questions: Sequence[str], *, max_new_tokens: int = 32) -> Any:
        return super().generate(images, questions)[0]


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
