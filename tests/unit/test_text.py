"""Text in and out: whole characters, stop strings cut once and for all, equal fingerprints."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from s2d_ray.errors import ModelError, RequestError
from s2d_ray.models.text import Text, TextStream, fingerprint_of

CORPUS = ["the theme then", "Grüße, 東京 und 大阪", "😀😃👩‍👩‍👧 the end", "stop STOP\n\nUser: abab"]
SPECIALS = ["<|end|>", "<|start|>"]
TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'critic' %}{{ raise_exception('no critics') }}"
    "{% endif %}<|start|>{{ m['role'] }}\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)


def byte_level_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=300,
            special_tokens=SPECIALS,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    return tokenizer


def byte_fallback_tokenizer() -> Tokenizer:
    words = ["<|end|>", "<|start|>", "▁the", "▁", "e", "a", "東"]
    words += [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer = Tokenizer(
        models.BPE({word: i for i, word in enumerate(words)}, [], byte_fallback=True)
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens(SPECIALS)
    return tokenizer


def save(tokenizer: Tokenizer, folder: Path, template: str | None = TEMPLATE) -> Path:
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>")
    fast.chat_template = template
    fast.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(byte_level_tokenizer(), tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def text(folder: Path) -> Text:
    return Text(folder)


def encode(text: Text, string: str) -> list[int]:
    return text.tokenizer.encode(string).ids


def run(text: Text, ids: list[int], stop: tuple[str, ...] = ()) -> tuple[list[str], bool]:
    stream = TextStream(text, stop)
    pieces = []
    for token_id in ids:
        piece = stream.push(token_id)
        pieces.append(piece.text)
        if piece.stopped:
            return pieces, True
    return [*pieces, stream.finish()], False


def cut_by_hand(whole: str, stop: tuple[str, ...]) -> tuple[str, bool]:
    """The definition, character by character."""
    for end in range(1, len(whole) + 1):
        ended = [s for s in stop if whole[:end].endswith(s)]
        if ended:
            return whole[: end - max(map(len, ended))], True
    return whole, False


STRINGS = st.text(st.sampled_from("abthé東京😀👧 \nSTOPe"), max_size=24)
STOPS = st.lists(st.text(st.sampled_from("abthe東😀\n"), min_size=1, max_size=4), max_size=3)


@settings(deadline=None, max_examples=300)
@given(ids=st.lists(st.integers(0, 299), max_size=40))
def test_pieces_of_any_token_sequence_join_to_its_text(text: Text, ids: list[int]) -> None:
    pieces, stopped = run(text, ids)
    assert not stopped
    assert "".join(pieces) == text.decode(ids).rstrip("\ufffd")


@settings(deadline=None, max_examples=300)
@given(string=STRINGS, stop=STOPS)
def test_a_text_is_cut_where_its_first_stop_string_begins(
    text: Text, string: str, stop: list[str]
) -> None:
    pieces, stopped = run(text, encode(text, string), tuple(stop))
    assert ("".join(pieces), stopped) == cut_by_hand(string, tuple(stop))


@settings(deadline=None, max_examples=200)
@given(string=STRINGS, stop=STOPS)
def test_released_text_is_never_taken_back_and_held_text_is_as_short_as_it_can_be(
    text: Text, string: str, stop: list[str]
) -> None:
    stream = TextStream(text, tuple(stop))
    released, ids = "", encode(text, string)
    for count, token_id in enumerate(ids, start=1):
        piece = stream.push(token_id)
        released += piece.text
        if piece.stopped:
            break
        so_far = text.decode(ids[:count])
        assert so_far.startswith(released)
        held = so_far[len(released) :]
        if not so_far.endswith("\ufffd"):
            assert not held or any(s.startswith(held) for s in stop)


@settings(deadline=None, max_examples=200)
@given(string=STRINGS)
def test_no_piece_splits_a_character(text: Text, string: str) -> None:
    single_bytes = [
        text.tokenizer.token_to_id(char)
        for token in text.tokenizer.encode(string).tokens
        for char in token
    ]
    pieces, _ = run(text, single_bytes)
    assert "".join(pieces) == string
    assert all("\ufffd" not in piece for piece in pieces)


@pytest.mark.parametrize(
    ("string", "stop", "kept"),
    [
        ("one STOP two", ("STOP",), "one "),
        ("one STO", ("STOP",), None),
        ("ababab c", ("abc", "bab"), "a"),
        ("xabcd", ("abcd", "bc"), "xa"),
        ("xabcd", ("bcd", "abcd"), "x"),
        ("東京😀大阪", ("😀大",), "東京"),
        ("a\n\nUser: b", ("\nUser:", "\n\nUser:"), "a"),
        ("STOP", ("STOP",), ""),
    ],
)
def test_stop_strings_by_example(
    text: Text, string: str, stop: tuple[str, ...], kept: str | None
) -> None:
    pieces, stopped = run(text, encode(text, string), stop)
    assert "".join(pieces) == (string if kept is None else kept)
    assert stopped == (kept is not None)


def test_one_token_may_complete_several_stop_strings(text: Text) -> None:
    assert len(encode(text, "the")) == 1
    assert run(text, encode(text, "the"), ("the", "h")) == (["t"], True)


def test_a_stop_string_before_half_a_character_is_found_at_the_end(tmp_path: Path) -> None:
    """A token may hold text and the first bytes of the next character."""
    tokenizer = byte_level_tokenizer()
    tokenizer.add_tokens(["endð"])
    text = Text(save(tokenizer, tmp_path))
    token_id = text.tokenizer.token_to_id("endð")
    assert text.decode([token_id]) == "end\ufffd"
    assert run(text, [token_id]) == (["", "end"], False)
    assert run(text, [token_id], ("nd",)) == (["", "e"], False)


def test_half_a_character_at_the_end_is_dropped(text: Text) -> None:
    ids = [text.tokenizer.token_to_id(char) for char in "aðŁĺ"]
    assert run(text, ids) == (["a", "", "", "", ""], False)


def test_special_tokens_leave_no_text(text: Text) -> None:
    ids = [*encode(text, "a"), *text.special_token_ids, *encode(text, "b")]
    assert "".join(run(text, ids)[0]) == "ab"


@settings(deadline=None, max_examples=300)
@given(ids=st.lists(st.integers(0, 270), max_size=30))
def test_a_byte_fallback_tokenizer_never_breaks_the_stream(ids: list[int]) -> None:
    """Stray bytes may be lost there, but whole characters never are."""
    pieces, _ = run(FALLBACK, ids)
    whole = FALLBACK.decode(ids)
    if "\ufffd" not in whole:
        assert "".join(pieces) == whole


class _Bare:
    """As much of a `Text` as a stream uses."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    def decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True)

    def token_bytes(self, token_id: int) -> bytes:
        raise NotImplementedError


FALLBACK = _Bare(byte_fallback_tokenizer())


def test_stray_bytes_after_a_released_character_do_not_end_a_byte_fallback_stream() -> None:
    tokens = ["<0xC3>", "<0xA9>", "<0x80>", "a", "▁the"]
    ids = [FALLBACK.tokenizer.token_to_id(token) for token in tokens]
    joined = "".join(run(FALLBACK, ids)[0])
    assert joined.startswith("é")
    assert joined.endswith("a the")


def test_a_chat_ends_where_the_answer_begins(text: Text) -> None:
    ids = text.encode_chat([{"role": "user", "content": "東京?"}])
    rendered = text.tokenizer.decode(ids, skip_special_tokens=False)
    assert rendered == "<|start|>user\n東京?<|end|>\n<|start|>assistant\n"


def test_developer_means_system(text: Text) -> None:
    chats = [
        [{"role": role, "content": "be brief"}, {"role": "user", "content": "hi"}]
        for role in ("developer", "system")
    ]
    assert text.encode_chat(chats[0]) == text.encode_chat(chats[1])


def test_messages_that_the_template_refuses_are_a_request_error(text: Text) -> None:
    with pytest.raises(RequestError, match="no critics") as caught:
        text.encode_chat([{"role": "critic", "content": "x"}])
    assert caught.value.param == "messages"


def test_a_chat_with_a_checkpoint_without_chat_template_is_refused(tmp_path: Path) -> None:
    text = Text(save(byte_level_tokenizer(), tmp_path, template=None))
    with pytest.raises(RequestError, match="no chat template") as caught:
        text.encode_chat([{"role": "user", "content": "x"}])
    assert caught.value.param == "messages"


@pytest.mark.parametrize(("named", "expected"), [(7, {0, 7}), ([1, 7], {0, 1, 7}), (None, {0})])
def test_end_tokens_are_those_of_generation_config_and_tokenizer(
    folder: Path, tmp_path: Path, named: int | list[int] | None, expected: set[int]
) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": named}))
    assert Text(tmp_path).eos_token_ids == expected


def test_ids_are_below_vocab_size_and_specials_are_known(text: Text) -> None:
    vocab = text.tokenizer.get_vocab(with_added_tokens=True)
    assert text.vocab_size == max(vocab.values()) + 1
    assert text.special_token_ids == {vocab[token] for token in SPECIALS}


def test_fingerprints_are_equal_exactly_when_tokens_and_ids_are(
    folder: Path, text: Text, tmp_path: Path
) -> None:
    other_template = save(byte_level_tokenizer(), tmp_path / "same", template=None)
    assert fingerprint_of(folder) == text.fingerprint
    assert fingerprint_of(other_template) == Text(other_template).fingerprint == text.fingerprint
    longer = byte_level_tokenizer()
    longer.add_special_tokens(["<|new|>"])
    changed = save(longer, tmp_path / "changed")
    assert fingerprint_of(changed) == Text(changed).fingerprint != text.fingerprint


def test_a_fingerprint_needs_neither_torch_nor_transformers(folder: Path) -> None:
    program = (
        "import sys; from pathlib import Path\n"
        "from s2d_ray.models.text import fingerprint_of\n"
        "fingerprint_of(Path(sys.argv[1]))\n"
        "print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_a_missing_or_broken_tokenizer_is_refused_by_file(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    for read in (fingerprint_of, Text):
        with pytest.raises(ModelError, match=f"{path}: missing"):
            read(tmp_path)
    path.write_text("{}")
    for read in (fingerprint_of, Text):
        with pytest.raises(ModelError, match=str(tmp_path)):
            read(tmp_path)


def test_the_real_tokenizer_streams_an_answer_and_knows_its_end(smollm2: Path) -> None:
    text = Text(smollm2)
    assert text.eos_token_ids == {2}
    assert text.vocab_size == 49_152
    assert fingerprint_of(smollm2) == text.fingerprint
    ids = text.encode_chat([{"role": "user", "content": "東京 😀 12345?"}])
    assert ids[0] == 1
    assert ids.count(2) == 2
    answer = "Paris – 東京 👩‍👩‍👧!\n\nUser: x"
    assert run(text, encode(text, answer), ("\n\nUser:",))[1]
    assert "".join(run(text, encode(text, answer), ("\n\nUser:",))[0]) == "Paris – 東京 👩‍👩‍👧!"
