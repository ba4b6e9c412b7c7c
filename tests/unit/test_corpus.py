"""`s2d corpus`: the target's own texts, the same however often the run was killed."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from s2d_ray.config import AppConfig, TargetConfig
from s2d_ray.engine.turns import Turns
from s2d_ray.errors import ConfigError, DataError
from s2d_ray.train import corpus, corpus_files, self_prompts, writer
from s2d_ray.train.corpus import CorpusOptions, make_corpus
from s2d_ray.train.corpus_card import load_corpora, load_corpus
from s2d_ray.train.corpus_files import Answer, CorpusWriter, read_answers, read_index
from s2d_ray.train.prompts import is_held_out, read_prompts
from tests.corpora import random_corpus
from tests.tiny import EOS, tiny_checkpoint, tiny_decoder, tiny_text

WORDS = ["why", "rain?", "say 7", "a b c", "list it", "oh", "tell me", "sum 1 2", "go on", "stop!"]


class Killed(Exception):
    """Stands for a signal that ends the run."""


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "TASKS_PER_SHARD", 4)
    monkeypatch.setattr(self_prompts, "PER_FILE", 4)


@pytest.fixture(scope="module", autouse=True)
def _no_turns() -> Iterator[None]:
    """Tiny forwards wait for nobody on this host."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "turns_for", lambda device: Turns())
        yield


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> AppConfig:
    folder = tiny_checkpoint(tmp_path_factory.mktemp("models") / "target", layers=2)
    target = TargetConfig(model=str(folder), max_context=256, num_threads=1)
    return AppConfig(targets={"tiny": target})


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": word}) + "\n" for word in [*WORDS, WORDS[0]]))
    return path


def make(
    config: AppConfig,
    out: Path,
    prompts: Path | None,
    advance: Callable[[int], None] = lambda tokens: None,
    **changes: Any,
) -> list[str]:
    """Make a corpus. -> what was said."""
    options = CorpusOptions(
        "tiny", out, prompts, tokens=1_000, max_tokens=10, top=3, batch=5, held_out=0.3
    )
    said: list[str] = []
    make_corpus(config, dataclasses.replace(options, **changes), said.append, advance)
    return said


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def answers(folder: Path) -> list[Answer]:
    return read_answers(folder, read_index(folder)[1])


@pytest.fixture(scope="module")
def whole(config: AppConfig, questions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus made without disturbance."""
    folder = tmp_path_factory.mktemp("corpora") / "whole"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus, "TASKS_PER_SHARD", 4)
        make(config, folder, questions)
    return folder


@pytest.mark.parametrize("kill_at", [1, 60, 120])
def test_a_killed_run_goes_on_to_the_same_corpus(
    config: AppConfig, questions: Path, whole: Path, tmp_path: Path, kill_at: int
) -> None:
    """Whatever was written when it died, every file ends with the same bytes."""
    with pytest.raises(Killed):
        make(config, tmp_path / "c", questions, _die_late(kill_at))
    assert not (tmp_path / "c" / "card.json").exists()
    make(config, tmp_path / "c", questions)
    assert files(tmp_path / "c") == files(whole)


def test_a_run_killed_between_shard_and_index_goes_on_to_the_same_corpus(
    config: AppConfig,
    questions: Path,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A shard that no index names is written again."""
    with monkeypatch.context() as patch:
        written: list[Path] = []

        def die_at_the_second(path: Path, text: str) -> None:
            written.append(path)
            if len(written) == 2:
                raise Killed
            path.write_text(text)

        patch.setattr(corpus_files, "write_atomically", die_at_the_second)
        with pytest.raises(Killed):
            make(config, tmp_path / "c", questions)
    assert len(read_index(tmp_path / "c")[1]) == 1
    assert (tmp_path / "c" / "shard-00001.safetensors").exists()
    make(config, tmp_path / "c", questions)
    assert files(tmp_path / "c") == files(whole)


def test_a_finished_run_is_not_done_again(
    config: AppConfig, questions: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No model is loaded, and the files stay."""
    before = files(whole)
    monkeypatch.setattr(corpus, "open_writer", None)
    make(config, whole, questions, tokens=50)
    assert files(whole) == before


def test_the_batch_changes_no_text(
    config: AppConfig, questions: Path, whole: Path, tmp_path: Path
) -> None:
    """How many texts are written together is no part of a corpus."""
    make(config, tmp_path, questions, batch=2)
    assert files(tmp_path) == files(whole)


def test_every_prompt_is_answered_once_at_each_temperature(whole: Path) -> None:
    """But for texts that would be there twice; neighbours in the order differ in temperature."""
    found = [(answer.prompt_ids.tobytes(), answer.temperature) for answer in answers(whole)]
    assert len(set(found)) == len(found)
    dropped = sum(shard.dropped for shard in read_index(whole)[1])
    assert len(found) + dropped == 2 * len(WORDS)
    assert [temperature for _, temperature in found[:2]] != [found[0][1]] * 2


def test_no_text_is_there_twice(config: AppConfig, questions: Path, tmp_path: Path) -> None:
    """At two temperatures of 0 each prompt has the same answer twice; one is left out."""
    make(config, tmp_path, questions, temperatures=(0.0, 0.0))
    outputs = [answer.output_ids.tobytes() for answer in answers(tmp_path)]
    assert len(set(outputs)) == len(outputs)
    assert sum(shard.dropped for shard in read_index(tmp_path)[1]) >= len(WORDS)


def test_repeated_prompts_are_counted_and_left_out(whole: Path) -> None:
    """The last line of the file repeats the first."""
    card = json.loads((whole / "card.json").read_text())
    assert card["prompts"] == {"usable": len(WORDS), "repeated": 1, "left_out": 0}


def test_the_split_goes_by_the_prompt_alone(
    config: AppConfig, questions: Path, whole: Path, tmp_path: Path
) -> None:
    """Another seed writes other texts, in another order, but keeps the same prompts for
    evaluation; no prompt is in both splits."""
    make(config, tmp_path, questions, seed=2)
    held: list[set[bytes]] = []
    for folder in (whole, tmp_path):
        split: dict[bool, set[bytes]] = {True: set(), False: set()}
        for answer in answers(folder):
            split[answer.held_out].add(answer.prompt_ids.tobytes())
        assert split[True]
        assert split[False]
        assert not split[True] & split[False]
        held.append(split[True])
    assert held[0] == held[1]


def test_the_held_out_share_is_that_of_many_prompts() -> None:
    """The hash is even: 10 % of 4,000 prompts within four standard deviations."""
    count = sum(is_held_out((7, number), 0.1) for number in range(4_000))
    assert abs(count - 400) < 4 * (4_000 * 0.1 * 0.9) ** 0.5


def test_what_is_stored_is_the_targets_own_law(config: AppConfig, whole: Path) -> None:
    """Against a plain forward: the likeliest ids, best first, with raw log-probabilities; greedy
    texts take the first; a text ends with its end token."""
    decoder = tiny_decoder("llama", torch.float32, 2, attention="sdpa")
    for answer in answers(whole):
        ids = torch.from_numpy(np.concatenate([answer.prompt_ids, answer.output_ids]))
        logits = decoder(input_ids=ids[None], use_cache=False).logits[0]
        first = len(answer.prompt_ids) - 1
        law = torch.log_softmax(logits[first:-1], dim=-1)
        best = law.topk(3)
        assert np.array_equal(best.indices.numpy(), answer.top_ids)
        assert np.allclose(best.values.numpy(), answer.top_logprobs, rtol=2e-3, atol=1e-3)
        if answer.temperature == 0:
            assert np.array_equal(answer.output_ids, answer.top_ids[:, 0])
        assert EOS not in answer.output_ids[:-1]


def test_a_corpus_of_another_seed_does_not_go_into_the_same_folder(
    config: AppConfig, questions: Path, whole: Path
) -> None:
    """Refused by the name of what differs, and nothing is lost."""
    before = files(whole)
    with pytest.raises(DataError, match=r"was begun with seed 1, not 9; name another folder"):
        make(config, whole, questions, seed=9)
    assert files(whole) == before


def test_an_unknown_target_is_refused_by_name(config: AppConfig, tmp_path: Path) -> None:
    """The line lists those there are."""
    with pytest.raises(ConfigError, match=r"no target 'huge'; there are tiny"):
        make(config, tmp_path, None, target="huge")


def test_a_target_makes_up_its_own_prompts(config: AppConfig, tmp_path: Path) -> None:
    """Without a file it writes the user's turns too: the same ones after a kill, none twice."""
    said: list[list[str]] = []
    for name in ("killed", "whole"):
        out = tmp_path / name
        if name == "killed":
            with pytest.raises(Killed):
                make(config, out, None, advance=_die, num_prompts=5, max_tokens=4)
        make(config, out, None, num_prompts=5, max_tokens=4)
        said.append((out / "self-prompts-1-5.jsonl").read_text().splitlines())
    assert said[0] == said[1]
    assert len({json.loads(line)["prompt"] for line in said[0]}) == 5
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of prompts with answers, of which one line lacks its own."""
    path = tmp_path_factory.mktemp("data") / "answered.jsonl"
    lines = [{"prompt": word, "response": f" {word} {word[::-1]}"} for word in WORDS]
    path.write_text("".join(json.dumps(line) + "\n" for line in [{"prompt": "what?"}, *lines]))
    return path


def test_given_answers_are_kept_as_they_are(
    config: AppConfig, answered: Path, tmp_path: Path
) -> None:
    """Their ids end as a turn ends, or are cut; beside them stands what the target thought."""
    said = make(config, tmp_path / "c", answered, answers="response")
    assert any(f"{answered}:1: response: must be a text" in line for line in said)
    found, text = answers(tmp_path / "c"), tiny_text()
    by_prompt = {tuple(answer.prompt_ids.tolist()): answer for answer in found}
    assert len(by_prompt) == len(WORDS)
    decoder = tiny_decoder("llama", torch.float32, 2, attention="sdpa")
    for word in WORDS:
        answer = by_prompt[tuple(text.encode_chat([{"role": "user", "content": word}]))]
        wanted = [*text.encode(f"{word} {word[::-1]}"), EOS][:10]
        assert answer.output_ids.tolist() == wanted
        assert answer.temperature == 1.0
        ids = torch.from_numpy(np.concatenate([answer.prompt_ids, answer.output_ids]))[:-1]
        logits = decoder(input_ids=ids[None], use_cache=False).logits[0]
        best = torch.log_softmax(logits[len(answer.prompt_ids) - 1 :], dim=-1).topk(3)
        assert np.array_equal(best.indices.numpy(), answer.top_ids)
        assert np.allclose(best.values.numpy(), answer.top_logprobs, rtol=2e-3, atol=1e-3)


def test_a_killed_run_over_given_answers_goes_on(
    config: AppConfig, answered: Path, tmp_path: Path
) -> None:
    """To the same files."""
    make(config, tmp_path / "whole", answered, answers="response")
    with pytest.raises(Killed):
        make(config, tmp_path / "cut", answered, advance=_die_late(60), answers="response")
    assert len(read_index(tmp_path / "cut")[1]) == 1
    make(config, tmp_path / "cut", answered, answers="response")
    assert files(tmp_path / "cut") == files(tmp_path / "whole")


def test_answers_need_a_file_of_prompts(config: AppConfig, tmp_path: Path) -> None:
    """The line names the option that is missing."""
    with pytest.raises(ConfigError, match="--answers: are read from the file of --prompts"):
        make(config, tmp_path / "c", None, answers="response")


def _die_late(at: int) -> Callable[[int], None]:
    told = 0

    def advance(tokens: int) -> None:
        nonlocal told
        told += tokens
        if told >= at:
            raise Killed

    return advance


def _die(tokens: int) -> None:
    raise Killed


def test_prompts_are_made_up_behind_the_users_header() -> None:
    """What all conversations share, up to the first word of the user's."""
    header = self_prompts.user_header(tiny_text().encode_chat)
    whole = tiny_text().encode_chat([{"role": "user", "content": "hi"}])
    assert tiny_text().tokenizer.decode(list(header), skip_special_tokens=False) in (
        "<|start|>user\n"
    )
    assert tuple(whole[: len(header)]) == header


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "not JSON"),
        ("[1]", "not a JSON object"),
        ("{}", "must have one of the fields prompt, messages, turns"),
        ('{"prompt": "a", "turns": ["b"]}', "must have one of the fields"),
        ('{"prompt": " "}', "prompt: must be a text that is not empty"),
        ('{"prompt": 7}', "prompt: must be a text"),
        ('{"turns": []}', "turns: must be a list of texts"),
        ('{"turns": [3]}', "turns: must be a text"),
        ('{"messages": []}', "messages: must be a list of messages"),
        ('{"messages": [{"content": "a"}]}', "messages[0]: must have a role"),
        ('{"messages": [{"role": "user"}]}', "messages[0].content: must be a text"),
        (
            '{"messages": [{"role": "assistant", "content": "a"}]}',
            "messages: the last one must be the user's",
        ),
        (json.dumps({"prompt": "x" * 200}), "tokens; at most 100 leave room"),
        ('{"prompt": "\\ud800"}', "refused by the chat template"),
    ],
)
def test_a_bad_line_is_named_by_file_and_number(tmp_path: Path, line: str, reason: str) -> None:
    """It alone is left out; the lines about it are used."""
    path = tmp_path / "p.jsonl"
    path.write_text(f'{{"prompt": "a"}}\n\n{line}\n{{"turns": ["b", "c"]}}\n')
    found = read_prompts(path, tiny_text().encode_chat, 100)
    assert len(found.ids) == 2
    assert len(found.bad) == 1
    assert found.bad[0].startswith(f"{path}:3: ")
    assert reason in found.bad[0]
    assert "\n" not in found.bad[0]


def test_bad_lines_are_said_and_counted(config: AppConfig, questions: Path, tmp_path: Path) -> None:
    """The run goes on; its card tells."""
    path = tmp_path / "p.jsonl"
    path.write_text("oops\n" + questions.read_text())
    said = make(config, tmp_path / "c", path)
    assert any(f"left out: {path}:1: not JSON" in line for line in said)
    assert json.loads((tmp_path / "c" / "card.json").read_text())["prompts"]["left_out"] == 1


def test_a_file_without_a_good_line_is_refused(tmp_path: Path) -> None:
    """With its first bad lines, so that the fix is known."""
    path = tmp_path / "p.jsonl"
    path.write_text("oops\n" * 9)
    with pytest.raises(DataError) as refused:
        read_prompts(path, tiny_text().encode_chat, 100)
    lines = refused.value.message.splitlines()
    assert lines[0].startswith(f"{path}:1: not JSON")
    assert lines[-1] == f"{path}: no line of it can be used"
    with pytest.raises(DataError, match="cannot be read"):
        read_prompts(tmp_path / "none", tiny_text().encode_chat, 100)


def test_a_corpus_comes_back_as_it_was_written(config: AppConfig, tmp_path: Path) -> None:
    """Ids exactly; log-probabilities in half precision."""
    checkpoint = Path(config.targets["tiny"].model)
    found = load_corpus(random_corpus(tmp_path / "c", checkpoint, texts=8))
    assert [answer.task for answer in found.training] == [0, 1, 2, 4, 5, 6]
    assert [answer.task for answer in found.held_out] == [3, 7]
    again = tmp_path / "again"
    CorpusWriter(again, found.settings).append([*found.training, *found.held_out], 0)
    for before, after in zip([*found.training, *found.held_out], answers(again), strict=True):
        for field in dataclasses.fields(Answer):
            assert np.array_equal(getattr(before, field.name), getattr(after, field.name))


def test_joined_corpora_train_on_nothing_that_one_of_them_holds_out(
    config: AppConfig, tmp_path: Path
) -> None:
    """Their held-out texts come in turn, so that a first few are of each."""
    checkpoint = Path(config.targets["tiny"].model)
    one, two = (random_corpus(tmp_path / n, checkpoint, texts=8, seed=len(n)) for n in ("a", "bb"))
    first, second = load_corpus(one), load_corpus(two)
    joined = load_corpora([one, two])
    assert load_corpora([one]).card == first.card
    assert len(joined.training) == 12
    assert [a.output_ids.tolist() for a in joined.held_out] == [
        each.held_out[place].output_ids.tolist() for place in (0, 1) for each in (first, second)
    ]

    # The third asks what the first holds out, and trains on it.
    third = tmp_path / "ccc"
    back = [dataclasses.replace(answer, held_out=False) for answer in first.held_out]
    CorpusWriter(third, first.settings).append([*back, *second.held_out], 0)
    shutil.copy(one / "card.json", third)
    (third / "card.json").write_text((third / "card.json").read_text() + " ")
    assert len(load_corpus(third).training) == 2
    both = load_corpora([one, third])
    assert [a.task for a in both.training] == [a.task for a in first.training]


def test_corpora_that_cannot_be_joined_are_refused_by_name(
    config: AppConfig, tmp_path: Path
) -> None:
    """Another vocabulary, another number of likeliest tokens, or the same corpus again."""
    checkpoint = Path(config.targets["tiny"].model)
    one = random_corpus(tmp_path / "one", checkpoint, texts=8)
    with pytest.raises(DataError, match="--corpus: .* is there twice"):
        load_corpora([one, one])
    index = json.loads(
        (random_corpus(tmp_path / "two", checkpoint, texts=8) / "index.json").read_text()
    )
    index["settings"]["tokenizer"] = "another"
    (tmp_path / "two" / "index.json").write_text(json.dumps(index))
    with pytest.raises(DataError, match="two: its tokenizer is not the one of .*one"):
        load_corpora([one, tmp_path / "two"])


@pytest.mark.parametrize("damage", ["unfinished", "cut off", "changed", "index", "format"])
def test_a_corpus_that_is_not_whole_is_refused_in_one_line(
    config: AppConfig, tmp_path: Path, damage: str
) -> None:
    """The line names the file; nothing is trained on half a corpus."""
    folder = random_corpus(tmp_path / "c", Path(config.targets["tiny"].model), texts=8)
    shard, index = folder / "shard-00000.safetensors", folder / "index.json"
    if damage == "unfinished":
        (folder / "card.json").unlink()
    elif damage == "cut off":
        shard.write_bytes(shard.read_bytes()[:-10])
    elif damage == "changed":
        data = bytearray(shard.read_bytes())
        data[-1] ^= 1
        shard.write_bytes(bytes(data))
    else:
        index.write_text("{" if damage == "index" else '{"format": 99}')
    with pytest.raises(DataError) as refused:
        load_corpus(folder)
    assert str(folder) in refused.value.message
    assert "\n" not in refused.value.message


def test_the_card_counts_what_is_there(whole: Path) -> None:
    """Texts, tokens and coverage, for programs and for people."""
    card = json.loads((whole / "card.json").read_text())
    found = load_corpus(whole)
    for name, split in (("training", found.training), ("held_out", found.held_out)):
        counts = card["splits"][name]
        assert counts["texts"] == len(split)
        assert counts["output_tokens"] == sum(len(answer.output_ids) for answer in split)
        assert sum(counts["texts_by_temperature"].values()) == len(split)
        ended = sum(int(answer.output_ids[-1]) == EOS for answer in split)
        assert counts["ended_by_themselves"] == ended
    assert card["settings"]["seed"] == 1
    page = (whole / "README.md").read_text()
    assert "# Corpus of tiny" in page
