"""The random choices of a training step: prompts, start noise, and how the judge sees the images."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stub_plugins import BrightnessJudge, stubs

from dualproc import Engine, TaskSpec
from dualproc.engine.draws import Draw, draw
from dualproc.errors import SpecError
from dualproc.plugins.generators.diffusers import DiffusersGenerator
from dualproc.plugins.generators.presets import TINY
from dualproc.spec import QuestionSpec, spec_from_dict
from dualproc.types import Answers, Prompt

SUBJECTS = ["a cat", "a dog", "a tree", "a pig", "a car"]
LINE = {"type": "line", "from": [0.1, 0.9], "to": [0.9, 0.9], "width": 0.3}
BRIGHT = {"template": "Is {subject} bright?"}


def make_spec(question: Any = None, **train: Any) -> TaskSpec:
    return spec_from_dict(
        {
            "name": "test",
            "prompts": {"template": "a cartoon of {subject}", "train": SUBJECTS, "eval": ["an owl"]},
            "question": question or BRIGHT,
            "visual_prompt": {"jitter": {"y": [-0.1, 0.0]}, "layers": [LINE]},
            "anchor": {"type": "base_image", "weight": 0.5},
            "train": {"batch": 4, "lora": {"rank": 2}, **train},
        }
    )


def drawn(spec: TaskSpec, step: int = 0) -> Draw:
    return draw(spec, spec.prompts.train_prompts(), step, random.Random(f"{spec.train.seed}/{step}"))


def test_options_that_are_off_leave_the_other_choices_as_they_are() -> None:
    """A fit with two views has the prompts, seeds and first shifts of one with a single look."""
    one, two = drawn(make_spec()), drawn(make_spec(views={"count": 2, "noise": 0.1}))
    assert (one.prompts, one.seeds, one.anchors) == (two.prompts, two.seeds, two.anchors)
    assert one.views[0].shifts == two.views[0].shifts != two.views[1].shifts


@settings(max_examples=30, deadline=None)
@given(batch=st.integers(1, 7), seed=st.integers(0, 99))
def test_stratified_prompts_do_not_come_again_before_all_others(batch: int, seed: int) -> None:
    spec = make_spec(batch=batch, seed=seed, stratified=True)
    texts = [text for step in range(10) for text in drawn(spec, step).texts]
    for start in range(0, len(texts) - len(SUBJECTS) + 1, len(SUBJECTS)):
        assert len(set(texts[start : start + len(SUBJECTS)])) == len(SUBJECTS)
    counts = Counter(texts)
    assert max(counts.values()) - min(counts.get(text, 0) for text in counts) <= 1


def test_antithetic_seeds_are_pairs_and_the_first_of_each_is_as_without() -> None:
    plain, pairs = drawn(make_spec()), drawn(make_spec(antithetic=True))
    assert pairs.seeds == [plain.seeds[0], ~plain.seeds[0], plain.seeds[2], ~plain.seeds[2]]
    assert len(drawn(make_spec(batch=3, antithetic=True)).seeds) == 3


def test_negative_seed_starts_from_the_noise_of_its_counterpart_times_minus_one() -> None:
    generator = DiffusersGenerator(DiffusersGenerator.Params(**TINY.params))
    starts = []
    hook = generator.adapter_module.register_forward_pre_hook(
        lambda _module, _args, kwargs: starts.append(kwargs["hidden_states"].clone()), with_kwargs=True
    )
    generator.sample(["a cartoon of a cat"] * 3, [7, ~7, 8])
    first, mirrored, other = starts[0]
    assert torch.equal(mirrored, -first)
    assert not torch.equal(other.abs(), first.abs())
    hook.remove()
    alone = generator.sample(["a cartoon of a cat"], [~7]).latents
    together = generator.sample(["a cartoon of a cat"] * 2, [8, ~7]).latents
    torch.testing.assert_close(alone[0], together[1], rtol=1e-3, atol=1e-4)
    again = generator.denoise(alone, 0.3, ["a cartoon of a cat"], [~7])
    assert again.shape == alone.shape
    assert again.isfinite().all()


# --- views ------------------------------------------------------------------------------------------------------


class Listening(BrightnessJudge):
    """Keeps what it is shown and asked."""

    def __init__(self) -> None:
        self.seen: list[torch.Tensor] = []
        self.asked: list[list[str]] = []

    def answer_log_likelihoods(self, images: torch.Tensor, questions: Any) -> Answers:
        self.seen.append(images.detach())
        self.asked.append([question.text for each in questions for question in each])
        return super().answer_log_likelihoods(images, questions)


def stepped(spec: TaskSpec) -> tuple[Listening, Any]:
    judge = Listening()
    engine = Engine(spec, build=stubs(judges=judge))
    judge.seen.clear(), judge.asked.clear()
    return judge, engine.step()


def test_the_judge_sees_every_image_as_often_as_asked_each_time_with_another_jitter() -> None:
    judge, record = stepped(make_spec(views={"count": 3}))
    (seen,) = judge.seen
    assert seen.shape[0] == 12
    assert not torch.equal(seen[:4], seen[4:8])  # the line is elsewhere
    assert record.p_answer == pytest.approx(seen.mean((1, 2, 3)).mean().item(), rel=1e-5)


def test_noise_of_the_views_has_the_size_asked_for_and_is_beneath_the_visual_prompt() -> None:
    (plain,), (noisy,) = (stepped(make_spec(views={"noise": size}))[0].seen for size in (0.0, 0.1))
    change = noisy - plain
    assert change[:, :, :8].std().item() == pytest.approx(0.1, rel=0.1)
    red = (plain[:, 0] == 1) & (plain[:, 1] == 0)
    assert red.any()
    assert change.abs().amax(1)[red].max() == 0


def test_paraphrases_are_asked_in_training_only() -> None:
    question = BRIGHT | {"paraphrases": ["Is it bright around {subject}?", "Is there light?"]}
    judge, _ = stepped(make_spec(question, batch=8, views={"count": 4}))
    (asked,) = judge.asked
    assert {text.split("?")[0].replace(subject, "X") for text in asked for subject in SUBJECTS if subject in text} >= {
        "Is X bright", "Is it bright around X",
    }  # fmt: skip
    assert any(text.startswith("Is there light?") for text in asked)
    asked_in_evaluations = QuestionSpec.model_validate(question).for_prompt(Prompt("x", {"subject": "a cat"}))
    assert asked_in_evaluations.text == "Is a cat bright? Answer with Yes or No."


def test_judge_is_asked_before_training_whether_it_can_answer_every_wording() -> None:
    class Checking(Listening):
        def check_questions(self, questions: Any) -> None:
            self.asked.append([question.text for question in questions])

    judge = Checking()
    Engine(make_spec(BRIGHT | {"paraphrases": ["Is there light?"]}), build=stubs(judges=judge))
    (asked,) = judge.asked
    assert [text.partition("?")[0] for text in asked] == ["Is a cat bright", "Is there light"]


@pytest.mark.parametrize(
    ("question", "preserve", "message"),
    [
        (BRIGHT | {"paraphrases": ["Is {subjct} bright?"]}, None, r"question\.paraphrases\.0.*\{subjct\}"),
        (BRIGHT | {"paraphrases": ["Is {subject bright?", " "]}, None, r"paraphrases\.1"),
        (BRIGHT | {"paraphrases": ["Is {subject} light?", BRIGHT["template"]]}, None, r"paraphrases\.1.*twice"),
        (BRIGHT | {"paraphrases": ["Is it {subject}?"] * 2}, None, r"paraphrases\.1.*twice"),
        (BRIGHT, BRIGHT | {"paraphrases": ["Is {subject} light?"]}, r"preserve\.paraphrases.*only the evaluation"),
    ],
)
def test_mistakes_in_paraphrases_are_reported_at_their_place(question: Any, preserve: Any, message: str) -> None:
    data = {"name": "x", "prompts": {"train": ["a cat"], "eval": ["a dog"]}, "question": question}
    with pytest.raises(SpecError, match=message):
        spec_from_dict(data | ({"preserve": preserve} if preserve else {}))


def test_learning_rate_rises_and_falls() -> None:
    train = make_spec(steps=10, lr=0.1, lr_warmup=4, lr_decay=0.2).train
    rates = [train.lr_at(step) for step in range(10)]
    assert rates[:4] == pytest.approx([0.025, 0.05, 0.075, 0.1])
    assert rates[4:9] == pytest.approx([0.1] * 5)
    assert rates[9] == pytest.approx(0.05)
