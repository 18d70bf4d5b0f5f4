"""Any transformers vision-language model as a judge."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from dualproc.errors import PluginError
from dualproc.kit.devices import Device, pick_device
from dualproc.kit.offload import offload, whole_or_quantized
from dualproc.kit.weights import warn_of_unknown
from dualproc.types import Answers, Question

from ._loading import Shown, checkpoint, load
from ._reading import Row, cut, encoded_once, extended, joined, last_places, per_token, shared_length

if TYPE_CHECKING:
    from torch import Tensor

TOLERANCE = 0.05
"""Largest difference, in the model's normalised pixel units, between an image given as 8 bits and as a tensor."""
READING_TOLERANCE = {"float32": 1e-3, "bfloat16": 0.05, "float16": 0.02}
"""Largest difference between reading on and reading anew, as a share of how far the log-likelihoods spread."""


class TransformersJudge:
    """Any transformers vision-language model, unmodified, fed through its own processor and chat template."""

    api_version: ClassVar[int] = 1

    class Params(BaseModel):
        """What to load, and how to save memory."""

        model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

        model: str = Field(description="Model id of a hub, or a folder written by `save_pretrained`.")
        dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="Precision of the weights.")
        device: Device = "auto"
        images: dict[str, Any] = Field(
            default_factory=dict,
            description="More arguments for the image processor, such as do_image_splitting: false.",
        )
        template: str | None = Field(None, description="Chat template (Jinja), where the model has none of its own.")
        quantize: Literal["8bit", "4bit"] | None = Field(
            None, description="Keep the weights in 8 or 4 bits (needs bitsandbytes)."
        )
        checkpointing: bool = Field(
            False, description="Less memory, more time: activations are computed again in the backward pass."
        )
        offload: bool = Field(
            False,
            description="Keep the weights in main memory, each on the device while in use; with `checkpointing`, not"
            " with `quantize`.",
        )
        _weights = model_validator(mode="after")(whole_or_quantized)

    def __init__(self, params: Params) -> None:
        self.params = params
        self.device = pick_device(params.device)
        self.model, self.processor = load(params, self.device)
        self.model.requires_grad_(False).eval()
        self.tokenizer = self.processor.tokenizer
        self.tokenizer.padding_side = "left"  # so that every prompt ends where its answer begins
        self._tokens = lru_cache(maxsize=4096)(self._read_tokens)
        self._heed = lru_cache(maxsize=4096)(partial(warn_of_unknown, f"the judge {params.model!r}", self.tokenizer))
        self._answer_ids = lru_cache(maxsize=4096)(self._find_answer_ids)
        if params.offload:
            offload(self.model, self.device)
        if params.checkpointing:
            checkpoint(self.model)
        self._check_processor()
        self._after = self._token_after()
        self.reads_on = not params.checkpointing and self._reads_on_exactly()

    def answer_log_likelihoods(self, images: Tensor, questions: Sequence[Sequence[Question]]) -> Answers:
        """Log-likelihood [B, Q, K] of every candidate of `questions[b][q]`, by `images` [B, 3, H, W] in [0, 1].

        The images are encoded once, whatever is asked about them, and only the logits that score an answer are
        computed. Where the model can read on from what it has read (`reads_on`), all that the questions have in common
        (the image above all) is read once too, and so is a question for all its candidates.
        """
        import torch

        for text in {question.text for row in questions for question in row}:
            self._heed((text,))
        columns = list(zip(*questions, strict=True))
        answers = [[self._answer_ids(column[0].text, text) for text in column[0].candidates] for column in columns]
        # A row is a question with all but the last token of an answer: what follows each token scores the answer's.
        rows = [(q, stem) for q, ids in enumerate(answers) for stem in dict.fromkeys(one[:-1] for one in ids)]
        texts = [
            [extended(self._tokens(question.text, *images.shape[-2:]), stem, self._after) for question in columns[q]]
            for q, stem in rows
        ]
        read = self._read_on if self.reads_on and len(rows) > 1 else self._read_anew
        after = dict(
            zip(rows, read(self._image_inputs(images), texts, [1 + len(stem) for _, stem in rows]), strict=True)
        )
        scores = [
            torch.stack([after[q, one[:-1]][:, range(len(one)), one].sum(1) for one in ids], dim=1)
            for q, ids in enumerate(answers)
        ]
        counts = [[len(one) for one in ids] for ids in answers]
        return Answers(torch.stack(scores, dim=1).to(images.device), torch.tensor(counts, device=images.device))

    def generate(self, images: Tensor, questions: Sequence[str], *, max_new_tokens: int = 32) -> list[str]:
        """Answer one question per image in words, greedily."""
        import torch

        with torch.no_grad():
            inputs = self._inputs(images, [self._prompt(text) for text in questions])
            out = self.model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
        texts = self.tokenizer.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return [text.strip() for text in texts]

    def _read_anew(
        self, image_inputs: dict[str, Tensor], texts: list[list[Row]], counts: list[int]
    ) -> Iterator[Tensor]:
        """Row after row, each from its start: [B, count, V] log P(next token) after the last `count` tokens.

        `texts[r][b]` is row r about image b.
        """
        with encoded_once(self.model):
            for row, count in zip(texts, counts, strict=True):
                places, own = last_places(row, [count] * len(row))
                inputs = {**image_inputs, **joined(row, self._after)}
                logits = self.model(**inputs, use_cache=False, logits_to_keep=places.to(self.device)).logits
                yield logits[[[b] for b in range(len(row))], own].float().log_softmax(-1)

    def _read_on(self, image_inputs: dict[str, Tensor], texts: list[list[Row]], counts: list[int]) -> Iterator[Tensor]:
        """As `_read_anew`, but what all rows begin with is read once an image; the rest goes on from the cache."""
        rows = [row for of_image in zip(*texts, strict=True) for row in of_image]
        every = counts * len(texts[0])
        shared = shared_length(rows, every)
        start = joined([cut(row, 0, shared) for row in texts[0]], self._after)
        cache = self.model(**image_inputs, **start, use_cache=True, logits_to_keep=1).past_key_values
        cache.batch_repeat_interleave(len(texts))
        rest = [cut(row, shared) for row in rows]
        places, own = last_places(rest, every)
        logits = self.model(
            **joined(rest, self._after), past_key_values=cache, use_cache=True, logits_to_keep=places.to(self.device)
        ).logits
        for r in range(len(texts)):
            mine = range(r, len(rows), len(texts))
            yield logits[[[row] for row in mine], [own[row] for row in mine]].float().log_softmax(-1)

    def _inputs(self, images: Tensor, prompts: list[str]) -> dict[str, Tensor]:
        """The processor's tensors; `pixel_values` are differentiable in the images.

        The processor is given blank images, for some take no tensors, and its image processor is given ours.
        """
        import torch
        from PIL import Image

        text: dict[str, Any] = {"padding": True}
        first = self.tokenizer.bos_token
        if first is not None and prompts[0].startswith(first):
            text["add_special_tokens"] = False  # the chat template wrote them already
        blank = Image.new("RGB", (images.shape[-1], images.shape[-2]))
        real = self.processor.image_processor
        self.processor.image_processor = Shown(real, images)
        try:
            out = self.processor(
                images=[[blank] for _ in prompts],
                text=prompts,
                return_tensors="pt",
                text_kwargs=text,
                images_kwargs={"do_rescale": False, **self.params.images},
            ).to(self.device)
        finally:
            self.processor.image_processor = real
        return {k: v.to(self.model.dtype) if torch.is_floating_point(v) else v for k, v in out.items() if k != "labels"}

    def _image_inputs(self, images: Tensor) -> dict[str, Tensor]:
        """What the model needs of the images alone."""
        inputs = self._inputs(images, [self._prompt("")] * len(images))
        of_text = {*per_token(inputs), "attention_mask"}
        return {name: value for name, value in inputs.items() if name not in of_text}

    def _read_tokens(self, text: str, height: int, width: int) -> Row:
        """The tokens of a question about an image of this size."""
        import torch

        return per_token(self._inputs(torch.zeros(1, 3, height, width), [self._prompt(text)]))

    def _token_after(self) -> Row:
        """What the model says of a token that comes after a prompt, besides its id."""
        from transformers.utils import ModelOutput

        prompt = self._tokens("", 64, 64)
        longer = self.model._update_model_kwargs_for_generation(ModelOutput(), dict(prompt), is_encoder_decoder=False)
        return {name: longer[name][:, -1:] for name in prompt}

    def _prompt(self, text: str) -> str:
        content = [{"type": "image"}, {"type": "text", "text": text}]
        prompt: str = self.processor.apply_chat_template(
            [{"role": "user", "content": content}], chat_template=self.params.template, add_generation_prompt=True
        )
        return prompt

    def _find_answer_ids(self, question: str, answer: str) -> tuple[int, ...]:
        """The tokens that `answer` adds to the prompt, found by tokenizing both: no family splits words alike.

        It comes after a space, unless the prompt ends in one, in a new line, or in a special token.
        """
        last = int(self._tokens(question, 64, 64)["input_ids"][0, -1])
        prompt, end = self._prompt(question), self.tokenizer.decode([last])
        prompt = prompt if prompt.endswith(end) else prompt + end  # some processors end it themselves
        spaced = prompt if end.isspace() or last in self.tokenizer.all_special_ids else prompt + " "
        before = self.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        ids = self.tokenizer(spaced + answer, add_special_tokens=False)["input_ids"]
        added = ids[len(before) :]
        if ids[: len(before)] != before or not added or self.tokenizer.unk_token_id in added:
            raise PluginError(f"the judge {self.params.model!r} has no tokens of its own for the answer {answer!r}")
        return tuple(added)

    def _reads_on_exactly(self) -> bool:
        """Whether reading on gives what reading anew does.

        It does not where the tokens of a question and of the image see each other (PaliGemma), or where the question
        stands before the image: then nothing is gained by trying.
        """
        import torch

        image_inputs = self._image_inputs(_noise()[None])
        texts = [[self._tokens(text, 64, 64)] for text in ("Is it?", "Is this the image that was asked for?")]
        with torch.no_grad():
            anew = torch.cat(list(self._read_anew(image_inputs, texts, [1, 1])))
            try:
                on = torch.cat(list(self._read_on(image_inputs, texts, [1, 1])))
            except Exception:  # whatever a stranger's model raises, it can be asked one by one
                return False
        return bool((on - anew).abs().max() <= READING_TOLERANCE[self.params.dtype] * anew.std())

    def _check_processor(self) -> None:
        """Refuse one that lets no gradient through, or treats a tensor otherwise than the same image in 8 bits."""
        import torch
        from PIL import Image

        tensor, prompt = _noise(), [self._prompt("")]
        image = Image.fromarray((tensor * 255).round().byte().permute(1, 2, 0).numpy())
        plain = self.processor(images=[[image]], text=prompt, return_tensors="pt", images_kwargs=self.params.images)
        with torch.enable_grad():
            ours = self._inputs(tensor.requires_grad_()[None], prompt)["pixel_values"].float().cpu()
            total = ours.sum()
        off = (plain["pixel_values"].float() - ours.detach()).abs().max().item()
        if off > TOLERANCE:
            raise PluginError(
                f"the processor of {self.params.model!r} ({type(self.processor).__name__}) gives other pixels for a "
                f"tensor than for the same 8-bit image: they differ by up to {off:.3g} (allowed: {TOLERANCE})",
                hint="its gradient would be of another image than the one people see; use another judge",
            )
        if not (total.requires_grad and torch.autograd.grad(total, tensor)[0].any()):
            raise PluginError(
                f"the processor of {self.params.model!r} ({type(self.processor).__name__}) lets no gradient through to "
                "the image, so that nothing would be learnt",
                hint="its image processor detaches or rounds what it is shown; use another judge",
            )


def _noise() -> Tensor:
    """A smooth random image [3, 64, 64] of 8-bit values in [0, 1], the same each time.

    Its values are middle ones: where a bicubic filter overshoots beyond white, 8 bits clip and a tensor does not.
    """
    import torch
    import torch.nn.functional as F

    coarse = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    smooth = F.interpolate(coarse, size=(64, 64), mode="bicubic").clamp(0, 1)[0]
    return ((0.25 + 0.5 * smooth) * 255).round() / 255
