"""Ensembles of judges: the mean of their answers, its gradient, and how a spec names several judges."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from spec_texts import PLAIN, load

from dualproc import Engine
from dualproc.engine.ensemble import Ensemble, build_judge
from dualproc.engine.reload import load_engine
from dualproc.errors import DualprocError, SpecError
from dualproc.protocols import Judge
from dualproc.resolve import check_plugins, installed_schema, read_checked
from dualproc.spec import MemberRef, PluginRef, TaskSpec, read_spec, spec_from_dict, to_yaml
from dualproc.types import Answers, Question

QUESTIONS = [
    [
        Question("Is this a drawing of a cat? Answer with Yes or No."),
        Question("Is the sky blue? Answer with Yes or No."),
    ]
] * 2
ASKED = [[Question("Is it a cat?")]]
TWO = PLAIN + "judge:\n  - {type: tiny}\n  - {type: tiny-referee, weight: 0.5}\n"


@pytest.fixture(scope="module")
def members() -> list[Judge]:
    return [build_judge([(1.0, PluginRef(type=name))]) for name in ("tiny", "tiny-referee")]


def two_images() -> torch.Tensor:
    rng = torch.Generator().manual_seed(0)
    return torch.rand(2, 3, 64, 64, generator=rng, requires_grad=True)


def scores(judge: Judge, images: torch.Tensor) -> torch.Tensor:
    return judge.answer_log_likelihoods(images, QUESTIONS).log_likelihoods


class Fixed:
    """A judge with a fixed answer."""

    def __init__(self, probability: float, tokens: list[int]) -> None:
        self.probability, self.tokens = probability, tokens

    def answer_log_likelihoods(self, images: torch.Tensor, questions: Any) -> Answers:
        p = torch.tensor([self.probability, 1 - self.probability]).expand(len(images), 1, 2)
        return Answers(p.log(), torch.tensor([self.tokens]))

    def generate(self, images: torch.Tensor, questions: Any, *, max_new_tokens: int = 32) -> list[str]:
        return [f"{self.probability}"] * len(images)


# the mean of the answers


@pytest.mark.parametrize("weights", [(1.0, 0.5), (2.0, 1.0), (1.0, 9.0)])
def test_its_probabilities_are_the_weighted_mean_of_the_members(
    members: list[Judge], weights: tuple[float, float]
) -> None:
    images = two_images()
    mixed = Ensemble(list(zip(weights, members, strict=True)))
    answers = mixed.answer_log_likelihoods(images, QUESTIONS)
    first, second = (scores(judge, images) for judge in members)
    share = weights[0] / sum(weights)
    assert answers.log_likelihoods.shape == (2, 2, 2)
    torch.testing.assert_close(answers.log_likelihoods.exp(), share * first.exp() + (1 - share) * second.exp())
    assert (answers.log_likelihoods.exp().sum(-1) <= 1 + 1e-5).all()
    assert not torch.allclose(first, second, atol=0.01)


def test_its_gradient_is_that_of_the_weighted_mean(members: list[Judge]) -> None:
    images = two_images()
    wanted = scores(Ensemble([(1.0, members[0]), (3.0, members[1])]), images)[0, 1, 0]
    (found,) = torch.autograd.grad(wanted, images)
    logs = [scores(judge, images)[0, 1, 0] for judge in members]
    gradients = [torch.autograd.grad(log, images)[0] for log in logs]
    parts = [share * log.exp() for share, log in zip((0.25, 0.75), logs, strict=True)]
    by_hand = sum(part / sum(parts) * gradient for part, gradient in zip(parts, gradients, strict=True))
    torch.testing.assert_close(found, by_hand)
    assert found[0].abs().sum() > 0
    assert found[1].abs().sum() == 0  # the other image has no gradient


def test_the_log_of_a_tiny_probability_is_accurate() -> None:
    mixed = Ensemble([(1.0, Fixed(1e-30, [1, 1])), (1.0, Fixed(1e-32, [1, 1]))])  # type: ignore[list-item]
    found = mixed.answer_log_likelihoods(torch.zeros(1, 3, 4, 4), ASKED).log_likelihoods[0, 0, 0].item()
    assert found == pytest.approx(math.log((1e-30 + 1e-32) / 2), rel=1e-5)


def test_a_list_with_one_judge_is_that_judge() -> None:
    alone, listed = (build_judge(spec_from_dict(base() | {"judge": judge}).judges) for judge in (
        {"type": "tiny"}, [{"type": "tiny", "weight": 7}]
    ))  # fmt: skip
    assert type(alone) is type(listed)
    images = two_images()
    assert torch.equal(scores(alone, images), scores(listed, images))


def test_token_counts_are_the_largest_and_words_come_from_the_largest_weight() -> None:
    mixed = Ensemble([(1.0, Fixed(0.2, [1, 3])), (2.0, Fixed(0.8, [2, 1]))])  # type: ignore[list-item]
    images = torch.zeros(3, 3, 4, 4)
    assert mixed.answer_log_likelihoods(images, ASKED).token_counts.tolist() == [[2, 3]]
    assert mixed.generate(images, ["?"] * 3) == ["0.8"] * 3


@pytest.mark.parametrize("weights", [[], [0.0], [1.0, 0.0], [1.0, -1.0], [float("nan")], [float("inf"), 1.0]])
def test_invalid_weights_are_rejected(weights: list[float]) -> None:
    with pytest.raises(DualprocError, match="weights above 0"):
        Ensemble([(weight, Fixed(0.5, [1, 1])) for weight in weights])  # type: ignore[misc]


# in a spec


def base() -> dict[str, Any]:
    return {"name": "both", "prompts": {"train": ["a cat"], "eval": ["a dog"]}, "question": {"template": "Is it?"}}


def test_a_spec_can_name_several_judges_and_referees(tmp_path: Path) -> None:
    text = TWO + "referee: [{type: tiny-referee, weight: 2}, {type: tiny}]\n"
    spec = load(tmp_path, text).require()
    assert [(weight, ref.type, ref.params) for weight, ref in spec.judges] == [
        (1, "tiny", {}),
        (0.5, "tiny-referee", {}),
    ]
    assert [(weight, ref.type) for weight, ref in spec.referees] == [(2, "tiny-referee"), (1, "tiny")]
    places = [(place.path, place.kind) for place in spec.plugins() if place.kind == "judges"]
    assert places == [(f"{key}.{index}", "judges") for key in ("judge", "referee") for index in (0, 1)]
    check_plugins(spec)
    shown = tmp_path / "shown.yaml"
    shown.write_text(to_yaml(spec))
    assert read_spec(shown).require() == spec


def test_a_single_judge_is_written_without_a_list(tmp_path: Path) -> None:
    spec = load(tmp_path, PLAIN).require()
    assert spec.judges == ((1.0, PluginRef(type="tiny")),)
    assert spec.referees == ()
    assert "judge:\n  type: tiny\n" in to_yaml(spec)
    assert spec_from_dict(base() | {"judge": (MemberRef(type="tiny", weight=2),)}).judges[0][0] == 2


@pytest.mark.parametrize(
    ("old", "new", "place", "message"),
    [
        ("weight: 0.5", "weight: 0", (7, 34), "expected a number above 0"),
        ("weight: 0.5", "weight: 1001", (7, 34), "expected a number of at most 1000"),
        ("weight: 0.5", "weight: much", (7, 34), "expected a number, found the string 'much'"),
        ("weight: 0.5", "wieght: 0.5", (7, 26), "unknown key `wieght`"),
        ("type: tiny-referee", "type: tiny-refere", (7, 12), "no judge plugin is called 'tiny-refere'"),
        ("{type: tiny-referee, weight: 0.5}", "{weight: 0.5}", (7, 5), "`type` is missing"),
        ("{type: tiny-referee, weight: 0.5}", "tiny-referee", (7, 5), "expected a mapping"),
    ],
)
def test_mistakes_in_an_ensemble_have_their_place(
    tmp_path: Path, old: str, new: str, place: tuple[int, int], message: str
) -> None:
    assert old in TWO
    file = tmp_path / "spec.yaml"
    file.write_text(TWO.replace(old, new))
    with pytest.raises(SpecError) as caught:
        read_checked(file).require()
    (problem,) = caught.value.problems
    assert (problem.line, problem.column) == place
    assert message in problem.message


@pytest.mark.parametrize("judge", ["[]", "{type: tiny, weight: 2}"])
def test_an_empty_list_and_a_weight_of_a_single_judge_are_mistakes(tmp_path: Path, judge: str) -> None:
    file = tmp_path / "spec.yaml"
    file.write_text(f"{PLAIN}judge: {judge}\n")
    with pytest.raises(SpecError) as caught:
        read_checked(file)
    (problem,) = caught.value.problems
    assert problem.path.startswith("judge")


@pytest.mark.parametrize(
    ("judge", "valid"),
    [
        ([{"type": "tiny"}, {"type": "transformers", "model": "x", "weight": 2}], True),
        ({"type": "tiny"}, True),
        ([], False),
        ([{"type": "tiny", "weight": 0}], False),
        ([{"type": "transformers", "modle": "x"}], False),
        ({"type": "tiny", "weight": 2}, False),
    ],
)
def test_the_schema_accepts_valid_ensembles_only(judge: Any, valid: bool) -> None:
    import jsonschema

    validator = jsonschema.Draft202012Validator(installed_schema()[0])
    assert validator.is_valid(base() | {"judge": judge, "referee": judge}) is valid


# in a fit


def test_a_fit_is_trained_and_monitored_by_ensembles(tmp_path: Path) -> None:
    both = [{"type": "tiny", "weight": 3}, {"type": "tiny-referee"}]
    data = base() | {
        "prompts": {"template": "a cartoon of {subject}", "train": ["a cat"], "eval": ["a dog"]},
        "question": {"template": "Is this a drawing of {subject}?"},
        "judge": both,
        "referee": both,
        "train": {"steps": 1, "batch": 1, "lora": {"rank": 2}, "watch": {"every": 1, "images": 1}},
        "evaluation": {"seeds": 2},
    }
    spec: TaskSpec = spec_from_dict(data)
    engine = Engine(spec)
    assert isinstance(engine.judge, Ensemble)
    assert isinstance(engine.judge, Judge)
    result = engine.fit(tmp_path / "run")
    measured = result.evaluation.trained
    assert measured.referee == pytest.approx(measured.judge)
    assert 0 < measured.judge[0] < 1
    card = (tmp_path / "run" / "README.md").read_text()
    assert "weight: 3.0" in card
    assert "type: tiny-referee" in card
    assert load_engine(tmp_path / "run")[1].spec == spec
