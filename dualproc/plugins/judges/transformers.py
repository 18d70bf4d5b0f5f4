"""Any transformers vision-language model as a judge."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from dualproc.errors import PluginError
from dualproc.kit.blocks import compile_blocks
from dualproc.kit.devices import pick_device
from dualproc.kit.model_params import ModelParams
from dualproc.kit.offload import offload
from dualproc.kit.patching import replaced
from dualproc.kit.weights import freeze, warn_about_unknown_words
from dualproc.types import Answers, Question

from ._loading import TensorImageProcessor, checkpoint, load
from ._reading import (
    Row,
    cut,
    encoded_once,
    extended,
    image_features,
    joined,
    last_positions,
    mask,
    per_token,
    shared_length,
)

if TYPE_CHECKING:
    from torch import Tensor

TOLERANCE = 0.05
"""Largest difference, in the model's normalised pixel units, between an image passed in 8 bits and as a tensor."""
CAUSAL_TOLERANCE = {"float32": 1e-3, "bfloat16": 0.2, "float16": 0.05}
"""Largest change of the next token's probabilities by the cache, as a share of their change from one question to
another, by `dtype`. Rounding gives about 1e-6, 0.04 and 0.006; in a model that is not causal, it is about 3."""
OF_ALL_TOKENS = {"cross_attention_mask"}
"""Inputs of which a model (Mllama) selects its tokens' part itself. On a GPU, one that is too short would make
transformers 5.17 read beyond its end, after which CUDA refuses all further work of the process."""


class TransformersJudge:
    """Any transformers vision-language model, unmodified, with its own processor and chat template."""

    api_version: ClassVar[int] = 1

    class Params(ModelParams):
        """The model to load, and how to save memory."""

        images: dict[str, Any] = Field(
            default_factory=dict,
            description="Further arguments of the image processor, such as do_image_splitting: false.",
        )
        template: str | None = Field(
            None, description="Chat template (Jinja) to use instead of the model's; needed if it has none."
        )
        chat: dict[str, Any] = Field(
            default_factory=dict,
            description="Further arguments of the chat template, such as enable_thinking: false. A judge that thinks"
            " first must not: the probability of an answer is read where the reply begins.",
        )

    def __init__(self, params: Params) -> None:
        import torch
        from PIL.Image import Resampling

        self.params = params
        self.device = pick_device(params.device)
        self.model, self.processor = load(params, self.device)
        freeze(self.model)
        self.tokenizer = self.processor.tokenizer
        self.tokenizer.padding_side = "left"  # `generate` continues each row at its end
        lanczos = getattr(self.processor.image_processor, "resample", None) == Resampling.LANCZOS
        self._processes_on = torch.device("cpu") if lanczos else self.device  # a GPU would filter bicubically
        self._by_image_processor: tuple[str, ...] = ()
        """The tensors that the image processor alone makes; none if it does not make all of them."""
        self._rows: dict[tuple[str, int, int], Row] = {}
        self._ids: dict[tuple[str, str], tuple[int, ...]] = {}
        self._warn_once = lru_cache(maxsize=4096)(
            partial(warn_about_unknown_words, f"the judge {params.model!r}", self.tokenizer)
        )
        if params.offload:
            offload(self.model, self.device)
        if params.compile:
            compile_blocks(self.model, dynamic=True)  # prompts have many lengths
        if params.checkpointing:
            checkpoint(self.model)
        self._find_image_tensors()
        self._check_processor()
        self._next_token = self._token_after_prompt()
        self.is_causal = self._find_causal()
        """Whether no token of a prompt attends to later ones, so that the tokens before it can be cached."""
        self.uses_cache = self.is_causal and not params.checkpointing
        """Whether rows share a key-value cache of their common prefix."""

    @property
    def reading(self) -> str:
        """How several questions about an image are read, and why not with a cache: for the line of `dp run`."""
        if self.uses_cache:
            return "reads questions with a cache"
        reason = "checkpointing" if self.is_causal else "a cache would change its answers"
        return f"reads each question from its start ({reason})"

    def answer_log_likelihoods(self, images: Tensor, questions: Sequence[Sequence[Question]]) -> Answers:
        """Log-likelihoods [B, Q, K] of the candidates of `questions[b][q]`, for `images` [B, 3, H, W] in [0, 1].

        Each image is encoded once for all its questions, and only the logits that score an answer are computed. With
        `uses_cache`, the tokens that all questions share (above all, those of the image) are also read only once.

        Raises:
            PluginError: as `check_questions`.
        """
        import torch

        for text in {question.text for row in questions for question in row}:
            self._warn_once((text,))
        columns = list(zip(*questions, strict=True))
        answers = [self._candidate_ids(column[0]) for column in columns]
        # A row is a question and all but the last token of an answer: the logits after each token score the next one.
        rows = [
            (q, stem)
            for q, candidates in enumerate(answers)
            for stem in dict.fromkeys(ids[:-1] for wordings in candidates for ids in wordings)
        ]
        texts = [
            [
                extended(self._question_tokens(question.text, *images.shape[-2:]), stem, self._next_token)
                for question in columns[q]
            ]
            for q, stem in rows
        ]
        read = self._read_cached if self.uses_cache and len(rows) > 1 else self._read_uncached
        after = dict(
            zip(rows, read(self._image_inputs(images), texts, [1 + len(stem) for _, stem in rows]), strict=True)
        )

        def score(q: int, wordings: list[tuple[int, ...]]) -> Tensor:
            each = [after[q, ids[:-1]][:, range(len(ids)), ids].sum(1) for ids in wordings]
            return each[0] if len(each) == 1 else torch.stack(each).logsumexp(0)

        scores = [
            torch.stack([score(q, wordings) for wordings in candidates], dim=1) for q, candidates in enumerate(answers)
        ]
        counts = [[len(wordings[0]) for wordings in candidates] for candidates in answers]
        return Answers(torch.stack(scores, dim=1).to(images.device), torch.tensor(counts, device=images.device))

    def image_features(self, images: Tensor) -> Tensor:
        """[B, N, D]: the N tokens that the language model reads of each of `images` [B, 3, H, W] in [0, 1].

        Differentiable with respect to the images.

        Raises:
            PluginError: if the model family encodes its images in another way (Mllama).
        """
        rows = [self._question_tokens("", *images.shape[-2:])] * len(images)
        found = image_features(self.model, {**self._image_inputs(images), **self._batch(rows)})
        if found is None:
            raise PluginError(
                f"the judge {self.params.model!r} ({type(self.model).__name__}) gives no image features",
                hint="use another judge, or another anchor than base_features",
            )
        return found.reshape(len(images), -1, found.shape[-1]).to(images.device)

    def check_questions(self, questions: Sequence[Question]) -> None:
        """Raise PluginError if the tokenizer cannot represent a candidate, or two candidates are the same tokens."""
        for question in questions:
            self._candidate_ids(question)

    def generate(self, images: Tensor, questions: Sequence[str], *, max_new_tokens: int = 32) -> list[str]:
        """Answer one question per image in words, greedily."""
        import torch

        with torch.no_grad():
            inputs = self._inputs(images, [self._prompt(text) for text in questions])
            out = self.model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
        texts = self.tokenizer.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return [text.strip() for text in texts]

    def _read_uncached(
        self, image_inputs: dict[str, Tensor], texts: list[list[Row]], counts: list[int]
    ) -> Iterator[Tensor]:
        """For each row r, [B, count, V]: log P(next token) after each of its last `counts[r]` tokens.

        `texts[r][b]` is row r about image b. Each row is read from its start.
        """
        with encoded_once(self.model):
            for row, count in zip(texts, counts, strict=True):
                positions, own = last_positions(row, [count] * len(row))
                inputs = {**image_inputs, **self._batch(row)}
                logits = self.model(**inputs, use_cache=False, logits_to_keep=positions.to(self.device)).logits
                yield logits[[[b] for b in range(len(row))], own].float().log_softmax(-1)

    def _read_cached(
        self, image_inputs: dict[str, Tensor], texts: list[list[Row]], counts: list[int]
    ) -> Iterator[Tensor]:
        """Like `_read_uncached`, but the common prefix of all rows is read once per image and cached."""
        rows = [row for of_image in zip(*texts, strict=True) for row in of_image]
        all_counts = counts * len(texts[0])
        shared = shared_length(rows, all_counts)
        start = self._batch([cut(row, 0, shared) for row in texts[0]])
        cache = self.model(**image_inputs, **start, use_cache=True, logits_to_keep=1).past_key_values
        cache.batch_repeat_interleave(len(texts))
        rest = [cut(row, shared) for row in rows]
        positions, own = last_positions(rest, all_counts)
        whole = self._batch(rows)
        logits = self.model(
            **{**self._batch(rest), **{name: whole[name] for name in OF_ALL_TOKENS & whole.keys()}},
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=positions.to(self.device),
        ).logits
        for r in range(len(texts)):
            mine = range(r, len(rows), len(texts))
            yield logits[[[row] for row in mine], [own[row] for row in mine]].float().log_softmax(-1)

    def _inputs(self, images: Tensor, prompts: list[str]) -> dict[str, Tensor]:
        """The processor's tensors; `pixel_values` are differentiable with respect to the images.

        The processor gets blank images, because some accept no tensors; its image processor gets our tensors.
        """
        from PIL import Image

        text: dict[str, Any] = {"padding": True}
        first = self.tokenizer.bos_token
        if first is not None and prompts[0].startswith(first):
            text["add_special_tokens"] = False  # the chat template has added them
        blank = Image.new("RGB", (images.shape[-1], images.shape[-2]))
        tensors = TensorImageProcessor(self.processor.image_processor, images.to(self._processes_on))
        with replaced(self.processor, "image_processor", tensors):
            out = self.processor(
                images=[[blank] for _ in prompts],
                text=prompts,
                return_tensors="pt",
                text_kwargs=text,
                images_kwargs={"do_rescale": False, **self.params.images},
            ).to(self.device)
        self._process = tensors.again
        return {name: self._cast(value) for name, value in out.items() if name != "labels"}

    def _cast(self, value: Tensor) -> Tensor:
        return value.to(self.model.dtype) if value.is_floating_point() else value

    def _image_inputs(self, images: Tensor) -> dict[str, Tensor]:
        """The processor's tensors that depend only on the images."""
        if self._by_image_processor:
            out = self._process(images.to(self._processes_on))
            return {name: self._cast(out[name].to(self.device)) for name in self._by_image_processor}
        inputs = self._inputs(images, [self._prompt("")] * len(images))
        of_text = {*per_token(inputs), "attention_mask"}
        return {name: value for name, value in inputs.items() if name not in of_text}

    def _question_tokens(self, text: str, height: int, width: int) -> Row:
        """The tokens of a question about an image of this size, the image tokens included; on the CPU."""
        import torch

        key = (text, height, width)
        if key not in self._rows:
            row = per_token(self._inputs(torch.zeros(1, 3, height, width), [self._prompt(text)]))
            self._rows[key] = {name: value.cpu() for name, value in row.items()}
        return self._rows[key]

    def _batch(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        """All rows as one batch, on the judge's device."""
        batch = dict(joined(rows, self._next_token))
        if not self.is_causal:
            batch["attention_mask"] = mask(rows)
        return {name: value.to(self.device) for name, value in batch.items()}

    def _token_after_prompt(self) -> Row:
        """One token after a prompt, as the model extends its inputs in `generate`; its id is not meaningful."""
        from transformers.utils import ModelOutput

        prompt = self._question_tokens("", 64, 64)
        longer = self.model._update_model_kwargs_for_generation(ModelOutput(), dict(prompt), is_encoder_decoder=False)
        return {name: longer[name][:, -1:] for name in prompt}

    def _prompt(self, text: str) -> str:
        content = [{"type": "image"}, {"type": "text", "text": text}]
        prompt: str = self.processor.apply_chat_template(
            [{"role": "user", "content": content}],
            chat_template=self.params.template,
            add_generation_prompt=True,
            **self.params.chat,
        )
        return prompt

    def _candidate_ids(self, question: Question) -> list[list[tuple[int, ...]]]:
        """For each candidate, the tokens of its wordings, without those whose probability another one contains.

        Raises PluginError as `check_questions`.
        """
        found: list[list[tuple[int, ...]]] = []
        names: dict[tuple[int, ...], str] = {}
        for texts in question.wordings:
            wordings = {self._answer_ids(question.text, text): text for text in reversed(texts)}
            for ids, text in wordings.items():
                if ids in names:
                    raise PluginError(
                        f"the judge {self.params.model!r} reads the candidates {names[ids]!r} and {text!r} as the same "
                        "tokens, so their scores are always equal and nothing can be trained",
                        hint=f"remove one, or write them as one answer: `answer: [{names[ids]}, {text}]`",
                    )
            names |= dict.fromkeys(wordings, texts[0])
            # P(Yes) is that of all answers that begin with Yes, such as "Yes it is".
            found.append([ids for ids in wordings if not any(ids != one == ids[: len(one)] for one in wordings)][::-1])
        return found

    def _answer_ids(self, question: str, answer: str) -> tuple[int, ...]:
        """The tokens that `answer` adds to the prompt, found by tokenizing the prompt with and without it.

        The answer follows a space, unless the prompt ends in white space or a special token.
        """
        if (question, answer) in self._ids:
            return self._ids[question, answer]
        last = int(self._question_tokens(question, 64, 64)["input_ids"][0, -1])
        prompt, end = self._prompt(question), self.tokenizer.decode([last])
        prompt = prompt if prompt.endswith(end) else prompt + end  # some processors add the end themselves
        spaced = prompt if end.isspace() or last in self.tokenizer.all_special_ids else prompt + " "
        before = self.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        ids = self.tokenizer(spaced + answer, add_special_tokens=False)["input_ids"]
        added = ids[len(before) :]
        if ids[: len(before)] != before or not added or self.tokenizer.unk_token_id in added:
            raise PluginError(
                f"the tokenizer of the judge {self.params.model!r} cannot represent the answer {answer!r}",
                hint="choose another wording for the answer",
            )
        self._ids[question, answer] = tuple(added)
        return self._ids[question, answer]

    def _find_causal(self) -> bool:
        """Whether the model gives the same answers with a cache of the common prefix of two questions as without.

        It does not if the tokens of question and image attend to each other (PaliGemma). Also False if it cannot
        continue from a cache, or the question comes before the image, so that there is no prefix worth caching.
        """
        import torch

        self.is_causal = True  # while it is tried: the prompts have no padding

        image_inputs = self._image_inputs(_noise()[None])
        texts = [[self._question_tokens(text, 64, 64)] for text in ("Is it?", "Is this the image that was asked for?")]
        with torch.no_grad():
            uncached = torch.cat(list(self._read_uncached(image_inputs, texts, [1, 1])))
            try:
                cached = torch.cat(list(self._read_cached(image_inputs, texts, [1, 1])))
            except Exception:  # a third-party model may raise anything here, and still works without the cache
                return False
        by_cache = (cached.exp() - uncached.exp()).abs().sum(-1).max()
        by_question = (uncached[0].exp() - uncached[1].exp()).abs().sum()
        return bool(by_cache <= CAUSAL_TOLERANCE[self.params.dtype] * by_question)

    def _find_image_tensors(self) -> None:
        """Find out whether the image processor alone gives the same tensors as the whole processor.

        It does in most families, and then no step has to format and tokenize a prompt for its images.
        """
        import torch

        image = _noise()[None].to(self.device)
        whole = self._image_inputs(image)
        alone = self._process(image.to(self._processes_on))
        if all(
            name in alone and torch.equal(self._cast(alone[name].to(self.device)), value)
            for name, value in whole.items()
        ):
            self._by_image_processor = tuple(whole)

    def _check_processor(self) -> None:
        """Raises PluginError if the processor cuts the gradient, or treats a tensor unlike the same image in 8 bits."""
        import torch
        from PIL import Image

        tensor, prompt = _noise(), [self._prompt("")]
        image = Image.fromarray((tensor * 255).round().byte().permute(1, 2, 0).numpy())
        plain = self.processor(images=[[image]], text=prompt, return_tensors="pt", images_kwargs=self.params.images)
        tensor = tensor.to(self.device).requires_grad_()  # filters may differ between devices
        with torch.enable_grad():
            ours = self._image_inputs(tensor[None])["pixel_values"].float().cpu()
            total = ours.sum()
        off = (plain["pixel_values"].float() - ours.detach()).abs().max().item()
        if off > TOLERANCE:
            raise PluginError(
                f"the processor of {self.params.model!r} ({type(self.processor).__name__}) gives different pixels for "
                f"a tensor and for the same 8-bit image: they differ by up to {off:.3g} (allowed: {TOLERANCE})",
                hint="its gradient would belong to another image than the one people see; use another judge",
            )
        if not (total.requires_grad and torch.autograd.grad(total, tensor)[0].any()):
            raise PluginError(
                f"the processor of {self.params.model!r} ({type(self.processor).__name__}) cuts the gradient to the "
                "image, so it cannot train a generator",
                hint="its image processor detaches or rounds the images; use another judge",
            )


def _noise() -> Tensor:
    """A smooth random image [3, 64, 64] with 8-bit values in [0.25, 0.75], the same each time.

    It has no extreme values: if a bicubic filter overshoots, 8-bit images are clipped and tensors are not.
    """
    import torch
    import torch.nn.functional as F

    coarse = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    smooth = F.interpolate(coarse, size=(64, 64), mode="bicubic").clamp(0, 1)[0]
    return ((0.25 + 0.5 * smooth) * 255).round() / 255
