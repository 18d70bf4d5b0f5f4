"""The scorers by CLIP models: similarity to a text, and human preference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from dualproc.kit.pretrained import Pretrained, PretrainedParams, texts_of
from dualproc.types import ScoreContext

if TYPE_CHECKING:
    from torch import Tensor
    from typing_extensions import Self


class Clip:
    """Similarity of the image to its prompt or to another text, by a pretrained CLIP or SigLIP model.

    The cosine of the angle between the features of image and text. It is small even where they match (around 0.3), so
    only differences between images mean something. With `against` or `against_field`, the value is the similarity to
    the text minus the largest one to the other texts: above 0, the text describes the image better than they do. Not
    yet measured with the pretrained weights.
    """

    api_version: ClassVar[int] = 1
    unit: ClassVar[str] = "cosine similarity"
    better: ClassVar[Literal["higher", "lower", "target"]] = "higher"

    class Params(PretrainedParams):
        """The text, and which values are on target."""

        model: str = Field(
            "openai/clip-vit-large-patch14",
            description="Hub id of a CLIP or SigLIP model, or a folder written by `save_pretrained`.",
        )
        text: str | None = Field(None, min_length=1, description="Text to compare with; the image's prompt if unset.")
        field: str | None = Field(
            None, description="Instead of `text`: the prompt field that holds the text of each image."
        )
        against: tuple[str, ...] = Field((), max_length=100, description="Texts that should describe the image less.")
        against_field: str | None = Field(
            None, description="The prompt field that holds one more such text for each image."
        )
        least: float | None = Field(None, ge=-2, le=2, description="Smallest value that is on target.")

        @model_validator(mode="after")
        def _one_text(self) -> Self:
            if self.text is not None and self.field is not None:
                raise ValueError("set either `text` or `field`, or neither to compare with the prompt")
            return self

    def __init__(self, params: Params) -> None:
        self.params = params
        self.accepted = None if params.least is None else (params.least, 2.0)
        self.net = _load("clip", params, "a CLIP or SigLIP model")

    def score(self, images: Tensor, context: ScoreContext) -> Tensor:
        """[B] similarities of `images` [B, 3, H, W] in [0, 1], from -1 to 1; with `against`, differences from -2 to 2.

        nan if the text is empty. Raises PluginError if a prompt lacks the field `field`.
        """
        import torch

        texts = texts_of("clip", context.prompts, self.params.text, self.params.field)
        seen = _image_features(self.net, images)
        found = (seen * _text_features(self.net, texts)).sum(1)
        others = []
        if self.params.against:
            others.append(seen @ _text_features(self.net, self.params.against).T)
        if self.params.against_field:
            texts = texts_of("clip", context.prompts, None, self.params.against_field)
            others.append((seen * _text_features(self.net, texts)).sum(1, keepdim=True))
        if others:
            found = found - torch.cat(others, 1).amax(1)
        return found.to(images)


class PickScore:
    """Human preference for the image, given its prompt: PickScore, a CLIP model trained on people's choices.

    The scaled cosine of image and prompt, around 20. Differences between images of one prompt count: a difference of
    1 means that people choose the better image in 73 of 100 cases, according to the model. Use it to notice images
    that break while the judge's score rises. Not yet measured here with the pretrained weights.

    Source: Kirstain et al., Pick-a-Pic (NeurIPS 2023).
    """

    api_version: ClassVar[int] = 1
    unit: ClassVar[str] = "PickScore"
    better: ClassVar[Literal["higher", "lower", "target"]] = "higher"

    class Params(PretrainedParams):
        """Which preference model, and how it computes."""

        model: str = Field(
            "yuvalkirstain/PickScore_v1",
            description="Hub id of a CLIP model trained on preferences, or a folder written by `save_pretrained`.",
        )

    def __init__(self, params: Params) -> None:
        self.params = params
        self.net = _load("pickscore", params, "a CLIP model trained on preferences")

    def score(self, images: Tensor, context: ScoreContext) -> Tensor:
        """[B] preferences for `images` [B, 3, H, W] in [0, 1]; nan if the prompt is empty."""
        texts = [prompt.text for prompt in context.prompts]
        cosines = (_image_features(self.net, images) * _text_features(self.net, texts)).sum(1)
        scale: float = self.net.model.logit_scale.float().exp().item()
        return (scale * cosines).to(images)


def _load(name: str, params: PretrainedParams, kind: str) -> Pretrained:
    net = Pretrained(params, what=f"the model of the scorer {name}", kind=kind, model="AutoModel")
    default = f"the default is {type(params).model_fields['model'].default}"
    net.require(hasattr(net.model, "get_text_features"), scorer=name, kind=kind, hint=default)
    return net


def _image_features(net: Pretrained, images: Tensor) -> Tensor:
    """[B, C] of length 1, for `images` [B, 3, H, W]."""
    from torch.nn.functional import normalize

    def values(rows: slice) -> Tensor:
        return normalize(net.model.get_image_features(**net.inputs(images[rows])).pooler_output.float(), dim=-1)

    return net.measure(len(images), values)


def _text_features(net: Pretrained, texts: Sequence[str]) -> Tensor:
    """[T, C] of length 1; nan for empty texts. Longer texts than the model reads are cut."""
    from torch.nn.functional import normalize

    distinct = list(dict.fromkeys(texts))

    def values(rows: slice) -> Tensor:
        # Padded to the full length, as SigLIP was trained; CLIP's features do not depend on it.
        inputs = net.inputs(text=distinct[rows], padding="max_length", truncation=True)
        return normalize(net.model.get_text_features(**inputs).pooler_output.float(), dim=-1)

    features = net.measure(len(distinct), values)
    features[[not text.strip() for text in distinct]] = math.nan
    return features[[distinct.index(text) for text in texts]]
