"""Any transformers vision-language model as a judge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from dualproc.errors import PluginError
from dualproc.types import Answers, Question

if TYPE_CHECKING:
    import torch
    from torch import Tensor

TOLERANCE = 0.1
"""Largest difference, in the model's normalised pixel units, between a picture given as 8 bits and as a tensor."""


class TransformersJudge:
    """Any transformers vision-language model, unmodified, fed through its own processor and chat template."""

    api_version: ClassVar[int] = 1

    class Params(BaseModel):
        """What to load."""

        model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

        model: str = Field(description="Model id of a hub, or a folder written by `save_pretrained`.")
        dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="Precision of the weights.")
        device: str = Field("auto", description="`auto` (a GPU if there is one), `cpu`, `cuda`, `cuda:1`, `mps`.")
        images: dict[str, Any] = Field(
            default_factory=dict,
            description="More arguments for the image processor, such as do_image_splitting: false.",
        )

    def __init__(self, params: Params) -> None:
        import torch

        self.params = params
        self.device = torch.device(_pick_device(params.device))
        self.model, self.processor = _load(params.model, getattr(torch, params.dtype))
        self.model.to(self.device).requires_grad_(False).eval()
        self.tokenizer = self.processor.tokenizer
        self.tokenizer.padding_side = "left"  # so that every prompt ends where its answer begins
        self._check_processor()

    def answer_log_likelihoods(self, images: Tensor, questions: Sequence[Sequence[Question]]) -> Answers:
        """Log-likelihood [B, Q, K] of every candidate of `questions[b][q]`, by `images` [B, 3, H, W] in [0, 1]."""
        import torch

        columns = [self._score(images, list(column)) for column in zip(*questions, strict=True)]
        return Answers(
            log_likelihoods=torch.stack([scores for scores, _ in columns], dim=1),
            token_counts=torch.tensor([counts for _, counts in columns], device=images.device),
        )

    def generate(self, images: Tensor, questions: Sequence[str], *, max_new_tokens: int = 32) -> list[str]:
        """Answer one question a picture in words, greedily."""
        import torch

        with torch.no_grad():
            inputs = self._inputs(images, [self._prompt(text) for text in questions])
            out = self.model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
        texts = self.tokenizer.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return [text.strip() for text in texts]

    def _score(self, images: Tensor, questions: list[Question]) -> tuple[Tensor, list[int]]:
        """One question a picture: log-likelihoods [B, K] and the candidates' token counts."""
        import torch

        prompts = [self._prompt(question.text) for question in questions]
        inputs = self._inputs(images, prompts)
        answers = [self._answer_ids(prompts[0], candidate) for candidate in questions[0].candidates]
        # What all candidates share is scored once: where they differ in one token only, one forward serves all.
        shared = self._log_probabilities(inputs, [])[:, -1]
        scores = []
        for ids in answers:
            score = shared[:, ids[0]]
            if len(ids) > 1:
                later = self._log_probabilities(inputs, ids[:-1])[:, 1:]
                score = score + later[:, range(len(ids) - 1), ids[1:]].sum(1)
            scores.append(score)
        return torch.stack(scores, dim=1).to(images.device), [len(ids) for ids in answers]

    def _log_probabilities(self, inputs: dict[str, Tensor], ids: list[int]) -> Tensor:
        """[B, 1 + len(ids), V]: log P(next token) after the prompt and after each of the further `ids`."""
        extended = _extend(inputs, ids) if ids else inputs
        logits: Tensor = self.model(**extended, logits_to_keep=1 + len(ids), use_cache=False).logits
        return logits[:, -1 - len(ids) :].float().log_softmax(-1)

    def _inputs(self, images: Tensor, prompts: list[str]) -> dict[str, Tensor]:
        """The processor's tensors; `pixel_values` are differentiable in the images."""
        import torch

        text: dict[str, Any] = {"padding": True}
        first = self.tokenizer.bos_token
        if first is not None and prompts[0].startswith(first):
            text["add_special_tokens"] = False  # the chat template wrote them already
        out = self.processor(
            images=list(images),
            text=prompts,
            return_tensors="pt",
            text_kwargs=text,
            images_kwargs={"do_rescale": False, **self.params.images},
        ).to(self.device)
        return {k: v.to(self.model.dtype) if torch.is_floating_point(v) else v for k, v in out.items()}

    def _prompt(self, text: str) -> str:
        content = [{"type": "image"}, {"type": "text", "text": text}]
        prompt: str = self.processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True
        )
        return prompt

    def _answer_ids(self, prompt: str, answer: str) -> list[int]:
        """The tokens that `answer` adds to the prompt, found by tokenizing both: no family splits words alike."""
        joint = prompt if prompt[-1].isspace() else prompt + " "
        before = self.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        ids = self.tokenizer(joint + answer, add_special_tokens=False)["input_ids"]
        added = ids[len(before) :]
        if ids[: len(before)] != before or not added or self.tokenizer.unk_token_id in added:
            raise PluginError(f"the judge {self.params.model!r} has no tokens of its own for the answer {answer!r}")
        return list(added)

    def _check_processor(self) -> None:
        """Refuse a processor that treats a tensor in [0, 1] otherwise than the same picture in 8 bits."""
        import torch
        from PIL import Image

        pixels = torch.randint(0, 256, (48, 48, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
        picture = Image.fromarray(pixels.numpy()).resize((64, 64), Image.Resampling.BICUBIC)
        tensor = (
            torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(64, 64, 3).permute(2, 0, 1) / 255
        )
        prompt = [self._prompt("")]
        plain = self.processor(images=[picture], text=prompt, return_tensors="pt", images_kwargs=self.params.images)
        ours = self._inputs(tensor[None], prompt)["pixel_values"].float().cpu()
        off = (plain["pixel_values"].float() - ours).abs().max().item()
        if off > TOLERANCE:
            raise PluginError(
                f"the processor of {self.params.model!r} ({type(self.processor).__name__}) gives other pixels for a "
                f"tensor than for the same 8-bit picture: they differ by up to {off:.3g} (allowed: {TOLERANCE})",
                hint="its gradient would be of another picture than the one people see; use another judge",
            )


def _extend(inputs: dict[str, Tensor], ids: list[int]) -> dict[str, Tensor]:
    """The inputs with `ids` after every prompt: tensors of a number a token get ones (mask) or zeros (token types)."""
    import torch

    prompt = inputs["input_ids"]
    out = dict(inputs)
    for name, value in inputs.items():
        if value.shape == prompt.shape:
            tail = torch.full(
                (len(prompt), len(ids)), int(name == "attention_mask"), dtype=value.dtype, device=value.device
            )
            out[name] = torch.cat([value, tail], dim=1)
    out["input_ids"][:, -len(ids) :] = torch.tensor(ids, device=prompt.device)
    return out


def _load(model: str, dtype: torch.dtype) -> tuple[Any, Any]:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    try:
        processor = AutoProcessor.from_pretrained(model)
        return AutoModelForImageTextToText.from_pretrained(model, dtype=dtype), processor
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise PluginError(
            f"cannot load the judge {model!r}: {reason}",
            hint="give the model id of a vision-language model that can be reached, or a folder that holds one",
        ) from error


def _pick_device(wanted: str) -> str:
    import torch

    return wanted if wanted != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
