"""`s2d bench spec`: questions, figures, the file of answers, and whole runs on tiny models."""

from __future__ import annotations

import contextlib
import json
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from s2d_ray.bench import spec
from s2d_ray.bench.cli import bench_app
from s2d_ray.bench.figures import Written
from s2d_ray.bench.questions import CATEGORIES, GROUPS, Question, choose, read_questions, shortest
from s2d_ray.bench.rig import Parts
from s2d_ray.bench.spec import Interviewer, Settings, quickly
from s2d_ray.bench.spec_answers import ANSWERS, AnswerFile
from s2d_ray.bench.spec_figures import Answer, Answered, plan_figures, target_figures
from s2d_ray.bench.spec_plans import choose_plans, plan_names
from s2d_ray.bench.spec_report import report
from s2d_ray.bench.stock import Stock, twin
from s2d_ray.config import AppConfig
from s2d_ray.core.threads import OneThread
from s2d_ray.errors import ConfigError, DataError, S2DError
from s2d_ray.job_folder import SETTINGS
from s2d_ray.models import draft_files
from s2d_ray.models.attention import IMPLEMENTATION
from s2d_ray.models.lineage import hash_of_weights
from tests.plan_files import plan_file
from tests.tiny import EOS, VOCAB_SIZE, tiny_checkpoint, tiny_decoder, tiny_text, whole_draft

EXITS = (2, 6)
OURS = ["cascade", "sorted", "exit-2", "exit-6", "tier-0"]
PEERS = ["prompt-lookup", "assisted"]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Peers compute on this thread; a second one is no help to tiny products."""
    with OneThread():
        yield


def line(number: int = 81, category: str = "writing", **other: Any) -> str:
    return json.dumps({"question_id": number, "category": category, "turns": ["Why?"], **other})


def question_file(folder: Path, *lines: str) -> Path:
    path = folder / "questions.jsonl"
    path.write_text("".join(f"{each}\n" for each in lines))
    return path


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["{"], "questions.jsonl:1: Expecting property name"),
        (["[]"], "questions.jsonl:1: not a JSON object"),
        ([line(), line(True)], "questions.jsonl:2: question_id must be a whole number"),
        ([line(), line()], "questions.jsonl:2: question_id 81 is there twice"),
        ([line(category="poems")], "questions.jsonl:1: category 'poems' is none of writing, "),
        ([line(category=["qa"])], "questions.jsonl:1: category ['qa'] is none of writing, "),
        ([line(turns=[])], "questions.jsonl:1: turns must be a list of texts"),
        ([line(turns=["a", 1])], "questions.jsonl:1: turns must be a list of texts"),
        ([" "], "has no questions; the file is not shipped; take "),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, lines: list[str], message: str) -> None:
    with pytest.raises(DataError) as caught:
        read_questions(question_file(tmp_path, *lines))
    assert message in caught.value.message


def test_a_missing_file_says_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot be read: .*github.com/hemingkx/Spec-Bench"):
        read_questions(tmp_path / "none.jsonl")


def questions(per_category: int) -> list[Question]:
    """In the file's order: category after category."""
    return [
        Question(100 * place + number, name, ("a?", "b?") if of == "multi-turn" else ("a?",))
        for place, (name, of) in enumerate(CATEGORIES.items())
        for number in range(per_category)
    ]


def test_the_eight_categories_of_mt_bench_are_one_group() -> None:
    assert GROUPS == (
        "multi-turn",
        "translation",
        "summarization",
        "qa",
        "math_reasoning",
        "rag",
    )
    assert [name for name, of in CATEGORIES.items() if of == "multi-turn"] == [
        *("writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities")
    ]


def test_a_choice_takes_groups_in_turn_and_within_a_group_its_categories() -> None:
    """So each beginning of a run has seen all groups, and a few questions are of many kinds."""
    chosen = choose(questions(3), 5, first_turns=False)
    assert [each.group for each in chosen[:6]] == list(GROUPS)
    conversations = [each.category for each in chosen if each.group == "multi-turn"]
    assert conversations == ["writing", "roleplay", "reasoning", "math", "coding"]
    assert len(chosen) == 5 + 5 * 3  # no group has more than it has
    assert {len(each.turns) for each in chosen} == {1, 2}


def test_a_smaller_limit_chooses_a_part_and_none_chooses_all() -> None:
    every = choose(questions(3), None, first_turns=True)
    assert sorted(each.question_id for each in every) == [q.question_id for q in questions(3)]
    assert {len(each.turns) for each in every} == {1}
    few, more = ({q.question_id for q in choose(questions(3), n, True)} for n in (2, 3))
    assert few < more


def test_quick_takes_the_shortest_of_each_group() -> None:
    long, short = Question(1, "qa", ("why is that so?",)), Question(2, "qa", ("why?",))
    assert choose(shortest([long, short]), 1, True) == [short]


def answered(number: int, group: str, **answers: Answer) -> Answered:
    return Answered("tiny", number, group, "c0ffee", answers)


def answer(tokens: int, seconds: float, **counts: Any) -> Answer:
    return Answer((tuple(range(tokens)),), seconds, **counts)


SOME = [
    answered(1, "qa", plain=answer(10, 10.0), cascade=answer(10, 5.0, rounds=4, accepted=5)),
    answered(2, "qa", plain=answer(30, 10.0), cascade=answer(30, 5.0, rounds=20, accepted=9)),
    answered(3, "rag", plain=answer(8, 2.0), cascade=answer(8, 4.0, rounds=7, accepted=0)),
]


def test_a_speedup_is_the_mean_speed_over_the_mean_speed_of_plain() -> None:
    """Not the mean of ratios, nor all tokens over all seconds."""
    found = plan_figures(SOME, "cascade")
    assert found["speedup"]["groups"] == {"qa": 2.0, "rag": 0.5}
    assert found["speedup"]["overall"] == pytest.approx((2 + 6 + 2) / (1 + 3 + 4), abs=1e-4)
    assert found["spread"] == {"median": 2.0, "ends": [0.5, 2.0]}


def test_the_accepted_length_is_over_all_decode_steps() -> None:
    found = plan_figures(SOME, "cascade")
    assert found["mean_accepted_length"] == pytest.approx(1 + 14 / 31, abs=1e-4)
    assert found["mean_accepted_lengths"]["rag"] == 1.0
    assert plan_figures(SOME, "plain")["mean_accepted_length"] == 1.0


def test_one_other_id_is_not_identical() -> None:
    assert plan_figures(SOME, "cascade")["identical"]
    liar = replace(SOME[0].answers["cascade"], turns=((9,) * 10,))
    told = [replace(SOME[0], answers={**SOME[0].answers, "cascade": liar}), *SOME[1:]]
    found = plan_figures(told, "cascade")
    assert (found["identical"], found["identical_questions"]) == (False, 2)


def test_shares_are_of_all_accepted_guesses_and_all_draft_steps() -> None:
    counts = [({0: 1, 4: 2}, {4: 10}), ({4: 1}, {8: 10}), ({}, {})]
    told = [
        answered(
            number, "qa", plain=answer(1, 1.0), sorted=answer(1, 1.0, accepted_by=by, steps=steps)
        )
        for number, (by, steps) in enumerate(counts)
    ]
    found = plan_figures(told, "sorted")
    assert found["accepted_by"] == {"0": 0.25, "4": 0.75}
    assert found["draft_steps"] == {"4": 0.5, "8": 0.5}
    assert plan_figures(told, "plain")["accepted_by"] == {}


def test_a_peer_may_write_other_ids_but_a_plan_of_ours_may_not(tmp_path: Path) -> None:
    other = answer(10, 1.0)
    told = [
        answered(1, "qa", plain=answer(9, 1.0), **{"tier-0": other, "assisted": other}),
    ]
    table, text, wrong = report(told, ["tiny"], ["plain", "tier-0", "assisted"], {}, tmp_path)
    assert wrong == ["tiny tier-0"]
    assert "| tier-0 | 1.11 | 1.11 | 1.11–1.11 | 1.00 | 0/1 |" in table
    plans = json.loads(text)["targets"]["tiny"]["plans"]
    assert [one["identical"] for one in plans.values()] == [False, False]


def test_answers_come_back_as_they_were(tmp_path: Path) -> None:
    """With numbers for keys and tuples of ids."""
    file = AnswerFile(tmp_path, {"seed": 1})
    counts = {"rounds": 3, "drafted": 5, "accepted": 2, "accepted_by": {0: 2}, "steps": {4: 9}}
    given = [*SOME, answered(9, "rag", plain=answer(3, 0.5, **counts))]
    for each in given:
        file.append(each)
    assert AnswerFile(tmp_path, {"seed": 1}).held == given


def test_half_a_line_is_cut_off_and_the_run_goes_on(tmp_path: Path) -> None:
    file = AnswerFile(tmp_path, {})
    file.append(SOME[0])
    path = tmp_path / ANSWERS
    whole = path.read_text()
    path.write_text(whole + whole[:20])
    again = AnswerFile(tmp_path, {})
    assert again.held == SOME[:1]
    again.append(SOME[1])
    assert AnswerFile(tmp_path, {}).held == SOME[:2]
    path.write_text(whole[:20])
    assert AnswerFile(tmp_path, {}).held == []


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    AnswerFile(tmp_path, {}).append(SOME[0])
    with (tmp_path / ANSWERS).open("a") as file:
        file.write('{"target": "tiny"}\n')
    with pytest.raises(DataError, match=r"answers.jsonl:2: is damaged"):
        AnswerFile(tmp_path, {})


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    AnswerFile(tmp_path, {"seed": 1, "plans": ["plain"]})
    message = r"was begun with plans \['plain'\], not \['plain', 'tier-0'\]; name another folder"
    with pytest.raises(DataError, match=message):
        AnswerFile(tmp_path, {"seed": 1, "plans": ("plain", "tier-0")})
    (tmp_path / SETTINGS).write_text("[]")
    with pytest.raises(DataError, match="run.json: cannot be read"):
        AnswerFile(tmp_path, {"seed": 1})


def test_plans_keep_their_order_and_plain_is_always_there() -> None:
    assert plan_names(EXITS, has_file=False) == ["plain", *OURS, *PEERS]
    assert plan_names(EXITS, has_file=True) == ["plain", "planned", *OURS, *PEERS]
    assert choose_plans(EXITS, (), has_file=False) == plan_names(EXITS, has_file=False)
    wanted = ["assisted", "exit-6"]
    assert choose_plans(EXITS, wanted, has_file=True) == ["plain", "exit-6", "assisted"]
    with pytest.raises(ConfigError, match="--plans: 'exit-4' is none of plain, cascade"):
        choose_plans(EXITS, ["exit-4"], has_file=False)
    with pytest.raises(ConfigError, match="--plans: 'planned' needs a plan file; name it in"):
        choose_plans(EXITS, ["planned"], has_file=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints: a target, a smaller model of its family, and a draft that is all of the target.

    So the deepest exit is always right.
    """
    made = tmp_path_factory.mktemp("spec")
    model = tiny_checkpoint(made / "target")
    tiny_checkpoint(made / "small", layers=3, seed=1)
    whole_draft(made / "draft", model, EXITS)
    lines = [
        line(100 * place + number, name, turns=[f"{name} {number}?"] * (1 + (place < 8)))
        for place, name in enumerate(CATEGORIES)
        for number in range(2)
    ]
    question_file(made, *lines)
    return made


@pytest.fixture(scope="module")
def config(folder: Path) -> AppConfig:
    model = str(folder / "target")
    return AppConfig.model_validate(
        {
            "targets": {
                "tiny": {"model": model, "num_threads": 1},
                "tiny-int8": {"model": model, "precision": "int8", "num_threads": 1},
            },
            "draft": {"checkpoint": str(folder / "draft"), "num_threads": 1},
            "plan": {"exit_thresholds": [0.9], "max_proposal": 3},
        }
    )


@pytest.fixture
def settings(config: AppConfig, folder: Path, tmp_path: Path) -> Settings:
    return Settings(
        config, folder / "questions.jsonl", tmp_path, max_new_tokens=5, limit_per_group=2
    )


def last_line(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return found


def test_a_run_gives_every_figure_for_every_plan(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two questions of each group, all turns; the texts are identical."""
    assert spec.run(replace(settings, targets=("tiny",))) == 0
    found = last_line(capsys)
    target = found["targets"]["tiny"]
    assert target["questions"] == dict.fromkeys(GROUPS, 2)
    assert list(target["plans"]) == [*OURS, *PEERS]
    for plan, one in target["plans"].items():
        assert one["speedup"].keys() == {"overall", "groups"}
        assert one["speedup"]["groups"].keys() == set(GROUPS)
        assert one["identical"], plan
        assert 1 <= one["mean_accepted_length"] <= 4
    plans = target["plans"]
    assert set(plans["exit-2"]["draft_steps"]) == {"2"}
    assert set(plans["exit-6"]["draft_steps"]) == {"6"}
    assert plans["tier-0"]["draft_steps"] == {}
    assert plans["exit-6"]["mean_accepted_length"] > plans["exit-2"]["mean_accepted_length"]
    names = {path.name for path in settings.out.iterdir()}
    pictures = {"speed-tiny.png", "accepted-tiny.png"}
    assert names == {ANSWERS, SETTINGS, "report.md", "report.json"} | pictures
    assert json.loads((settings.out / "report.json").read_text()) == found
    assert "## tiny\n" in (settings.out / "report.md").read_text()


@pytest.mark.usefixtures("int8_everywhere")
def test_targets_run_one_after_another_and_peers_of_int8_multiply_in_int8(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else they would write other texts than an int8 target."""
    asked = replace(settings, plans=("exit-6", "assisted"), limit_per_group=1, first_turns=True)
    assert spec.run(asked) == 0
    targets = last_line(capsys)["targets"]
    assert list(targets) == ["tiny", "tiny-int8"]
    assert all(one["identical"] for each in targets.values() for one in each["plans"].values())
    held = AnswerFile(settings.out, json.loads((settings.out / SETTINGS).read_text())).held
    texts = {
        name: [each.answers["plain"].turns for each in held if each.target == name]
        for name in targets
    }
    assert texts["tiny"] != texts["tiny-int8"]


def test_a_killed_run_answers_only_what_is_left(
    settings: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the same texts; then the report needs no model; other settings are refused."""
    settings = replace(settings, targets=("tiny",), plans=("tier-0",), limit_per_group=1)
    assert spec.run(settings) == 0
    whole = last_line(capsys)
    path = settings.out / ANSWERS
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:4]) + lines[4][:30])
    assert spec.run(settings) == 0
    again = path.read_text().splitlines(keepends=True)
    assert again[:4] == lines[:4]
    assert [ids_in(one) for one in again] == [ids_in(one) for one in lines]
    monkeypatch.setattr(spec, "make_methods", None)
    capsys.readouterr()
    assert spec.run(settings) == 0
    assert last_line(capsys)["targets"].keys() == whole["targets"].keys()
    with pytest.raises(DataError, match="was begun with max_new_tokens 5, not 7"):
        spec.run(replace(settings, max_new_tokens=7))
    with pytest.raises(ConfigError, match="--target: huge is none of the config's: tiny, tiny-int"):
        spec.run(replace(settings, targets=("huge",)))


def ids_in(one: str) -> Any:
    answers = json.loads(one)["answers"]
    return {plan: answers[plan]["turns"] for plan in answers}


def test_sampled_texts_of_ours_are_identical_too(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = replace(
        settings,
        targets=("tiny",),
        plans=("cascade", "exit-6", "assisted"),
        temperature=1.0,
        first_turns=True,
        limit_per_group=1,
    )
    assert spec.run(asked) == 0
    plans = last_line(capsys)["targets"]["tiny"]["plans"]
    assert plans["cascade"]["identical"]
    assert plans["exit-6"]["identical"]


def test_questions_are_planned_by_their_class_of_task(
    config: AppConfig, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Code is speculated for and chat is not, as the file has it; another file is refused."""
    made = plan_file()
    made["draft"] = {
        "source": str(folder / "draft"),
        "exit_layers": EXITS,
        "weights": hash_of_weights(folder / "draft"),
    }
    of = made["targets"]["small"] | {
        "model": str(folder / "target"),
        "weights": hash_of_weights(folder / "target"),
    }
    made["targets"] = {"tiny": of}
    path = tmp_path / "plans.json"
    path.write_text(json.dumps(made))
    questions = question_file(tmp_path, line(1, "qa"), line(2, "rag", turns=["```\nx = 1\n```"]))
    settings = Settings(
        config.model_copy(update={"plans": str(path)}),
        questions,
        tmp_path / "out",
        targets=("tiny",),
        plans=("planned",),
        max_new_tokens=8,
    )
    assert spec.run(settings) == 0
    plans = last_line(capsys)["targets"]["tiny"]["plans"]
    assert plans["planned"]["identical"]
    held = AnswerFile(tmp_path / "out", json.loads((tmp_path / "out" / SETTINGS).read_text())).held
    chat, code = (each.answers["planned"] for each in held)
    assert chat.drafted == 0
    assert code.accepted > 0
    made["targets"]["tiny"]["weights"] = "v"
    path.write_text(json.dumps(made))
    with pytest.raises(ConfigError, match="made for other weights of the target; calibrate again"):
        spec.run(replace(settings, out=tmp_path / "other"))
    made["draft"]["source"] = "another"
    path.write_text(json.dumps(made))
    with pytest.raises(ConfigError, match=r"plans: .*plans.json: made for draft another"):
        spec.run(replace(settings, out=tmp_path / "other"))


def test_quick_means_one_target_and_little(settings: Settings) -> None:
    found = quickly(replace(settings, max_new_tokens=1_000, quick=True))
    assert found.targets == ("tiny",)
    assert (found.limit_per_group, found.max_new_tokens) == (1, 16)
    assert found.first_turns
    assert quickly(replace(settings, targets=("tiny-int8",))).targets == ("tiny-int8",)


def test_a_conversation_holds_the_methods_own_answers(settings: Settings) -> None:
    """Without the end token, which the template writes itself; its end is an answer's end."""
    text = tiny_text()
    asked: list[str] = []
    given = iter((text.encode(" one ") + [EOS], text.encode("two") + [EOS]))

    def method(case: Any) -> Written:
        asked.append(text.tokenizer.decode(list(case.prompts[0]), skip_special_tokens=False))
        assert case.end_ids == (EOS,)
        return Written((tuple(next(given)),), drafted=4, accepted=1, rounds=2, accepted_by={2: 1})

    found = Interviewer(settings, text, 500).ask(Question(1, "writing", ("a", "b")), method)
    assert asked[1].endswith(
        "<|start|>user\na<|end|>\n<|start|>assistant\none<|end|>\n"
        "<|start|>user\nb<|end|>\n<|start|>assistant\n"
    )
    assert [len(ids) for ids in found.turns] == [6, 4]
    assert (found.rounds, found.accepted, found.accepted_by) == (4, 2, {2: 2})


def test_a_conversation_ends_where_the_context_does(settings: Settings) -> None:
    question = Question(1, "writing", ("a", "b"))
    first = Interviewer(settings, tiny_text(), 500).opening(question).prompts[0]
    short = Interviewer(settings, tiny_text(), len(first) + 2)
    assert short.opening(question).num_tokens == 2
    found = short.ask(question, lambda case: Written(((5,) * case.num_tokens,)))
    assert [len(ids) for ids in found.turns] == [2]
    with pytest.raises(DataError, match="question 1 does not fit in max_context"):
        Interviewer(settings, tiny_text(), len(first)).opening(question)


@pytest.mark.parametrize("family", ["llama", "qwen2 with windows", "gemma2"])
@pytest.mark.parametrize("linear", ["packed", "int8"])
@pytest.mark.usefixtures("int8_everywhere")
def test_a_twin_shares_all_weights_and_is_the_stock_model(family: str, linear: Any) -> None:
    """With the linears of the original; its first layers likewise."""
    attention = "eager" if family == "gemma2" else "sdpa"
    ours = tiny_decoder(family, torch.float32, linear=linear)
    stock = tiny_decoder(family, torch.float32, linear=linear, attention=attention)
    whole, part = twin(ours), twin(ours, 2)
    ids = torch.arange(2, 60)[None]
    with torch.inference_mode():
        assert torch.equal(whole(input_ids=ids).logits, stock(input_ids=ids).logits)
        stock.model.layers = stock.model.layers[:2]
        stock.config.num_hidden_layers = 2
        assert torch.equal(part(input_ids=ids).logits, stock(input_ids=ids).logits)
    mine = {each.data_ptr() for each in ours.parameters()}
    for model in (whole, part):
        assert {each.data_ptr() for each in model.parameters()} <= mine
        assert model.lm_head is ours.lm_head
    assert ours.config.num_hidden_layers == 6
    assert ours.config._attn_implementation == IMPLEMENTATION


def assistant_layers(config: AppConfig) -> int:
    with ExitStack() as stack:
        packed: Any = Parts(config, stack, lambda line: None).packed
        assert isinstance(packed, Stock)
        layers: int = len(packed._assistant.model.layers)
        return layers


def test_the_assistant_is_the_drafts_base_if_that_is_whole(
    config: AppConfig, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part of it, the target itself, or a checkpoint without a base: the first exit's layers."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    monkeypatch.setattr(draft_files, "trimmed_ids", lambda *_: range(VOCAB_SIZE))

    def cut(base: str, *exits: int) -> AppConfig:
        draft = {"base": str(folder / base), "exit_layers": exits, "num_threads": 1}
        return AppConfig.model_validate(config.model_dump() | {"draft": draft})

    assert assistant_layers(cut("small", 1, 3)) == 3
    assert assistant_layers(cut("small", 1, 2)) == 1
    assert assistant_layers(cut("target", 2, 6)) == 2
    assert assistant_layers(config) == 2


@pytest.mark.parametrize(("status", "raises"), [(0, False), (1, False), (130, True)])
def test_the_command_hands_on_its_words_and_its_status(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, status: int, raises: bool
) -> None:
    calls: list[Any] = []

    def run(settings: Any) -> int:
        calls.append(settings)
        if raises:
            raise KeyboardInterrupt
        return status

    fake(monkeypatch, "s2d_ray.serve.lone_draft", own_environment=contextlib.nullcontext)
    fake(monkeypatch, "s2d_ray.bench.spec", Settings=lambda *given: given, run=run)
    words = "spec --questions q --target a --target b --plans cascade,tier-0 --max-new-tokens 64"
    words += " --limit-per-group 5 --first-turns --temperature 0.7 --quick --out there --seed 7"
    result = CliRunner().invoke(bench_app, words.split())
    asked = (("a", "b"), ("cascade", "tier-0"), 64, 5, True, 0.7, True, 7)
    assert [call[1:] for call in calls] == [(Path("q"), Path("there"), *asked)]
    assert result.exit_code == status
    assert result.stderr == ("s2d: interrupted; the same command goes on\n" if raises else "")


def fake(monkeypatch: pytest.MonkeyPatch, name: str, **members: Callable[..., Any]) -> None:
    module = types.ModuleType(name)
    module.__dict__.update(members)
    monkeypatch.setitem(sys.modules, name, module)


def test_the_command_says_where_the_questions_are() -> None:
    result = CliRunner().invoke(bench_app, ["spec"])
    assert isinstance(result.exception, S2DError)
    assert result.exception.message.startswith("--questions: name a file of questions; ")


def test_figures_of_a_target_leave_out_groups_without_questions() -> None:
    found = target_figures(SOME, ["cascade"])
    assert found["questions"] == {"qa": 2, "rag": 1}
    assert found["plain"] == {"tokens_per_second": 2.667, "groups": {"qa": 2.0, "rag": 4.0}}
