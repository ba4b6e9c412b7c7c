"""The router's policy: total, deterministic, and never to a target that is forbidden or dead."""

from __future__ import annotations

import dataclasses
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2d_ray.errors import Forbidden, RequestError, Unavailable, UnknownModel
from s2d_ray.policy.routing import Auto, Choice, PlanRule, Question, Rules, TargetState, choose

NAMES = ("large", "medium", "small")
MODELS = (*NAMES, *Auto, "prod", "nowhere")


def state(cost: float = 1.0, tokens_per_s: float = 50.0, **more: object) -> TargetState:
    fields = {
        "is_alive": True,
        "max_context": 2_048,
        "cost": cost,
        "slots": 8,
        "prefill_tokens_per_s": 1_000.0,
        "decode_tokens_per_s": tokens_per_s,
        **more,
    }
    return TargetState(**fields)  # type: ignore[arg-type]


TARGETS = {"large": state(10.0, 20.0), "medium": state(3.0, 50.0), "small": state(1.0, 100.0)}

states = st.builds(
    state,
    st.sampled_from([1.0, 3.0, 10.0]),
    st.floats(0.5, 200.0),
    is_alive=st.booleans(),
    max_context=st.sampled_from([64, 2_048]),
    outstanding_tokens=st.integers(0, 10**6),
)
questions = st.builds(
    Question,
    st.sampled_from(MODELS),
    st.integers(1, 4_000),
    st.integers(1, 4_000),
    st.text(max_size=4),
    st.one_of(st.none(), st.frozensets(st.sampled_from(NAMES))),
    st.sampled_from([None, "chat", "code"]),
)
plan_rules = st.builds(
    PlanRule,
    st.integers(0, 3),
    st.sampled_from([None, *NAMES]),
    st.sampled_from([None, "chat"]),
    st.floats(0.0, 1e6),
)
rules_of_all_kinds = st.builds(
    Rules,
    st.fixed_dictionaries(
        {"prod": st.dictionaries(st.sampled_from([*NAMES, "gone"]), st.floats(0.0, 9.0))}
    ),
    st.floats(0.0, 100.0),
    st.lists(plan_rules, max_size=4),
)


def outcome(
    question: Question, targets: dict[str, TargetState], rules: Rules[int]
) -> Choice[int] | str:
    try:
        return choose(question, targets, rules)
    except RequestError as error:
        return f"{type(error).__name__}: {error.message}"


@settings(deadline=None)
@given(questions, st.dictionaries(st.sampled_from(NAMES), states), rules_of_all_kinds)
def test_every_request_gets_the_same_choice_or_a_named_error(
    question: Question, targets: dict[str, TargetState], rules: Rules[int]
) -> None:
    first = outcome(question, targets, rules)
    backwards = dict(reversed(targets.items()))
    assert outcome(question, backwards, rules) == first


@settings(deadline=None)
@given(questions, st.dictionaries(st.sampled_from(NAMES), states), rules_of_all_kinds)
def test_no_choice_is_forbidden_and_none_of_the_services_own_is_dead_or_too_small(
    question: Question, targets: dict[str, TargetState], rules: Rules[int]
) -> None:
    chosen = outcome(question, targets, rules)
    if isinstance(chosen, str):
        return
    assert question.allowed is None or chosen.target in question.allowed
    assert chosen.reason
    if question.model in targets:
        assert chosen.target == question.model
    else:
        room = targets[chosen.target].max_context
        assert targets[chosen.target].is_alive
        among = rules.splits["prod"] if question.model == "prod" else dict.fromkeys(targets, 1.0)
        usable = [
            target
            for name, target in targets.items()
            if among.get(name, 0.0) > 0 and target.is_alive
            if question.allowed is None or name in question.allowed
        ]
        longest = max(target.max_context for target in usable)
        assert question.prompt_tokens < room or room == longest


@settings(deadline=None)
@given(questions, st.dictionaries(st.sampled_from(NAMES), states), rules_of_all_kinds)
def test_only_what_cannot_be_served_is_refused(
    question: Question, targets: dict[str, TargetState], rules: Rules[int]
) -> None:
    """`auto` finds a target whenever one is allowed and alive."""
    usable = [
        name
        for name, target in targets.items()
        if (question.allowed is None or name in question.allowed) and target.is_alive
    ]
    asked = dataclasses.replace(question, model=Auto.BEST)
    assert isinstance(outcome(asked, targets, rules), Choice) == bool(usable)


def ask(model: str, prompt_tokens: int = 100, output_tokens: int = 100, **more: object) -> str:
    question = Question(model, prompt_tokens, output_tokens, **more)  # type: ignore[arg-type]
    return choose(question, TARGETS, Rules[int]()).target


def test_auto_takes_the_best_in_time_fast_the_first_and_cheap_the_cheapest() -> None:
    assert ask("auto") == "large"
    assert ask("auto", output_tokens=500) == "medium"
    assert ask("auto", output_tokens=10_000) == "small"
    assert ask("auto:fast") == "small"
    assert ask("auto:cheap") == "small"
    assert ask("auto:cheap", allowed=frozenset({"medium", "large"})) == "medium"


def test_a_loaded_target_is_left_for_one_that_answers_sooner() -> None:
    busy = {**TARGETS, "small": state(1.0, 100.0, outstanding_tokens=10_000)}
    assert choose(Question("auto:fast", 10, 100), busy, Rules[int]()).target == "medium"


def test_a_conversation_stays_where_its_cache_is_and_others_spread() -> None:
    equal = {name: state() for name in NAMES}
    turns: Counter[str] = Counter()
    for number in range(300):
        targets = {
            choose(Question("auto:fast", length, 50, f"c{number}"), equal, Rules[int]()).target
            for length in (10, 200, 1_000)
        }
        assert len(targets) == 1
        turns.update(targets)
    assert min(turns[name] for name in NAMES) > 60


def test_a_split_follows_its_weights_and_a_dead_target_moves_only_its_own() -> None:
    rules = Rules[int](splits={"prod": {"large": 9.0, "small": 1.0}})
    chats = [Question("prod", 10, 10, f"c{number}") for number in range(1_000)]
    before = [choose(chat, TARGETS, rules).target for chat in chats]
    assert before.count("small") == pytest.approx(100, abs=30)
    rules = Rules[int](splits={"prod": {"large": 9.0, "small": 1.0, "medium": 5.0}})
    dead = {**TARGETS, "medium": dataclasses.replace(TARGETS["medium"], is_alive=False)}
    assert [choose(chat, dead, rules).target for chat in chats] == before
    with_it = [choose(chat, TARGETS, rules).target for chat in chats]
    moved = {now for then, now in zip(before, with_it, strict=True) if then != now}
    assert moved == {"medium"}


def test_a_weight_of_zero_sends_nothing() -> None:
    rules = Rules[int](splits={"prod": {"large": 1.0, "small": 0.0}})
    chats = [Question("prod", 10, 10, f"c{number}") for number in range(200)]
    assert {choose(chat, TARGETS, rules).target for chat in chats} == {"large"}


def test_the_plan_is_that_of_the_first_row_that_fits() -> None:
    rules = Rules(
        plans=(
            PlanRule("calm", target="small", max_load=1.0),
            PlanRule("code", task="code"),
            PlanRule("rest", target="small"),
        )
    )
    busy = {**TARGETS, "small": state(1.0, 100.0, outstanding_tokens=10_000)}
    assert choose(Question("small", 1, 1), TARGETS, rules).plan == "calm"
    assert choose(Question("small", 1, 1), busy, rules).plan == "rest"
    assert choose(Question("large", 1, 1, task="code"), TARGETS, rules).plan == "code"
    assert choose(Question("large", 1, 1), TARGETS, rules).plan is None


def test_a_learned_plan_serves_where_no_row_fits_and_a_class_is_known() -> None:
    """The reason names the class whose plan it is."""

    def learned(target: str, task: str) -> tuple[str, str] | None:
        return ("chat", "learned") if target == "small" else None

    rules = Rules(plans=(PlanRule("code", task="code"),), learned=learned)
    found = choose(Question("small", 1, 1, looks_like="poetry"), TARGETS, rules)
    assert (found.plan, found.reason) == ("learned", "named; plan file, chat")
    by_row = Question("small", 1, 1, task="code", looks_like="code")
    assert choose(by_row, TARGETS, rules).reason == "named; plan 1"
    assert choose(Question("small", 1, 1), TARGETS, rules).plan is None
    assert choose(Question("large", 1, 1, looks_like="chat"), TARGETS, rules).plan is None


@pytest.mark.parametrize(
    ("question", "error"),
    [
        (Question("nowhere", 1, 1), UnknownModel),
        (Question("large", 1, 1, allowed=frozenset({"small"})), Forbidden),
        (Question("auto", 1, 1, allowed=frozenset()), Forbidden),
    ],
)
def test_what_cannot_be_served_is_named(question: Question, error: type[RequestError]) -> None:
    with pytest.raises(RequestError) as caught:
        choose(question, TARGETS, Rules[int]())
    assert type(caught.value) is error


def test_what_seems_too_long_for_all_goes_where_most_room_is() -> None:
    """Prompts are estimated here; the target counts, and refuses by itself."""
    wide = {**TARGETS, "medium": state(3.0, 50.0, max_context=4_096)}
    assert choose(Question("auto:fast", 5_000, 1), wide, Rules[int]()).target == "medium"


def test_with_all_targets_dead_it_is_worth_another_try() -> None:
    dead = {name: dataclasses.replace(target, is_alive=False) for name, target in TARGETS.items()}
    with pytest.raises(Unavailable):
        choose(Question("auto", 1, 1), dead, Rules[int]())
    assert choose(Question("small", 1, 1), dead, Rules[int]()).target == "small"
