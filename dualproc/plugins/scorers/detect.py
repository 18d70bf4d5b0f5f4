"""The detection scorer: is the subject there, how many of it, and where, by a pretrained detector."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from dualproc.kit.pretrained import Pretrained, PretrainedParams, texts_of
from dualproc.types import ScoreContext

if TYPE_CHECKING:
    from torch import Tensor
    from typing_extensions import Self

SAME = 0.5
"""Two boxes whose intersection is more than this share of their union are the same object."""

Measure = Literal["confidence", "count", "x", "y", "top", "bottom", "width", "height"]


class Detect:
    """Whether an image shows something, how often and where, by a pretrained detector (OWLv2, Grounding DINO).

    `confidence` is the detector's highest score for the text, in [0, 1]; other values describe the boxes whose score is
    above `threshold`: their number, or the centre (x, y), edges (top, bottom) or size (width, height) of the one with
    the highest score, as fractions of the image. Boxes of the same object count once. Where nothing is found, place and
    size have no value. Scores are not probabilities, and their scale depends on the model: check `threshold` with
    `dp score` on a few images. Not yet measured with the pretrained weights.
    """

    api_version: ClassVar[int] = 1
    better: ClassVar[Literal["higher", "lower", "target"]] = "target"

    class Params(PretrainedParams):
        """What is looked for, what is measured, and which values are on target."""

        model: str = Field(
            "google/owlv2-base-patch16-ensemble",
            description="Hub id of an OWLv2 or Grounding DINO model (IDEA-Research/grounding-dino-tiny), or a folder"
            " written by `save_pretrained`.",
        )
        text: str | None = Field(None, min_length=1, description="What is looked for, such as `a cat`.")
        field: str | None = Field(
            None, description="Instead of `text`: the prompt field that names it, such as `subject`."
        )
        measure: Measure = Field(
            "confidence",
            description="`confidence` that it is there, `count`, or place and size: `x`, `y` (centre), `top`, `bottom`,"
            " `width`, `height` as fractions of the image.",
        )
        threshold: float = Field(0.2, gt=0, lt=1, description="Smallest score of a box that counts.")
        target: float | None = Field(
            None, ge=0, description="Target value. For `confidence` if unset: `threshold` to 1 is on target."
        )
        tolerance: float = Field(
            0.1, ge=0, description="Largest distance to the target that is on target; below 1 for a count."
        )

        @model_validator(mode="after")
        def _complete(self) -> Self:
            if (self.text is None) == (self.field is None):
                raise ValueError("set either `text`, or `field` (the prompt field that names what is looked for)")
            if self.measure == "confidence" and self.target is not None:
                raise ValueError("`measure: confidence` has no `target`: `threshold` to 1 is on target")
            return self

    def __init__(self, params: Params) -> None:
        self.params = params
        target, tolerance = params.target, params.tolerance
        self.accepted = None if target is None else (target - tolerance, target + tolerance)
        if params.measure == "confidence":
            self.accepted = (params.threshold, 1.0)
        self.net = Pretrained(
            params, what="the model of the scorer detect", kind="an OWLv2 or Grounding DINO model",
            model="AutoModelForZeroShotObjectDetection",
        )  # fmt: skip

    @property
    def unit(self) -> str:
        """The unit, with what is looked for: a spec may have several of these scorers."""
        place = f"{self.params.measure}, of the image"
        kind = {"confidence": "confidence", "count": "number"}.get(self.params.measure, place)
        return f"{kind}: {self.params.text or self.params.field}"

    def score(self, images: Tensor, context: ScoreContext) -> Tensor:
        """[B] measurements of `images` [B, 3, H, W] in [0, 1]; nan for place and size where nothing is found.

        nan also if the text is empty. Raises PluginError if a prompt lacks the field `field`.
        """
        texts = texts_of("detect", context.prompts, self.params.text, self.params.field)

        # OWLv2 pads each text by itself, to the length that it was trained with; Grounding DINO to the longest one.
        padding = "max_length" if self.net.model.config.model_type.startswith("owl") else True

        def values(rows: slice) -> Tensor:
            asked = {"text": [[text] for text in texts[rows]], "padding": padding, "truncation": True}
            inputs = self.net.inputs(images[rows], **asked)
            return images.new_tensor(self._measured(self.net.model(**inputs), *images.shape[-2:]))

        found = self.net.measure(len(images), values)
        found[[not text.strip() for text in texts]] = math.nan
        return found.to(images)

    def _measured(self, outputs: Any, height: int, width: int) -> list[float]:
        """One number per image of this height and width in pixels, from the model's outputs."""
        from torchvision.ops import nms

        outputs.logits, outputs.pred_boxes = outputs.logits.float(), outputs.pred_boxes.float()
        if self.params.measure == "confidence":
            best: list[float] = outputs.logits.sigmoid().flatten(1).amax(1).tolist()
            return best
        # The processor knows which image the boxes refer to: OWLv2 pads it to a square.
        found = self.net.processor.post_process_grounded_object_detection(
            outputs, threshold=self.params.threshold, target_sizes=[(height, width)] * len(outputs.logits)
        )
        kept = [nms(each["boxes"], each["scores"], SAME) for each in found]  # best first
        if self.params.measure == "count":
            return [float(len(rows)) for rows in kept]
        boxes = [each["boxes"][rows[0]].tolist() if len(rows) else None for each, rows in zip(found, kept, strict=True)]
        return [math.nan if box is None else _place(self.params.measure, box, height, width) for box in boxes]


def _place(measure: Measure, box: list[float], height: int, width: int) -> float:
    """One number about a box [left, top, right, bottom] in pixels, as a fraction of the image's height or width."""
    left, right = (min(max(edge / width, 0.0), 1.0) for edge in (box[0], box[2]))
    top, bottom = (min(max(edge / height, 0.0), 1.0) for edge in (box[1], box[3]))
    return {
        "x": (left + right) / 2, "y": (top + bottom) / 2, "top": top, "bottom": bottom,
        "width": right - left, "height": bottom - top,
    }[measure]  # fmt: skip
