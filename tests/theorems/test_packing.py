"""One ragged forward (design D1, D8): the model of `transformers`, and a row's bits its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from s2d_ray.config import Precision
from s2d_ray.models import attention
from s2d_ray.models.attention import RaggedBatch, Segment, ragged_attention
from s2d_ray.models.kv_pool import KVPool, Run
from s2d_ray.models.layout import Layout, lay_out
from s2d_ray.models.linear import LinearKind
from s2d_ray.models.loading import compute_dtype, linear_kind, load_target_decoder
from s2d_ray.models.ragged import RaggedModel, packing_keeps_bits
from tests.tiny import FAMILIES, VOCAB_SIZE, reference_attention, threads, tiny_decoder

pytestmark = pytest.mark.usefixtures("two_threads")

CPU = torch.device("cpu")
PACKS = torch.backends.mkldnn.is_available()
needs_packed_linears = pytest.mark.skipif(not PACKS, reason="this host has no oneDNN")
families = pytest.mark.parametrize("family", FAMILIES)


@cache
def tree_model(family: str, linear: LinearKind) -> RaggedModel:
    dtype = torch.float32 if linear == "packed" else torch.float64
    return RaggedModel(tiny_decoder(family, dtype, 3, linear=linear), 4_096)


Pack = Sequence[tuple[int, int]]
"""One forward: (number of the text, rows of it) in packed order."""


@pytest.fixture
def one_thread() -> Iterator[None]:
    with threads(1):
        yield


def make_text(number: int, length: int, vocab_size: int = VOCAB_SIZE) -> list[int]:
    return [(37 * index + 11 + 29 * number * (index + 1)) % vocab_size for index in range(length)]


def reserve(model: RaggedModel, num_tokens: int) -> Run:
    run = model.pool.allocator.reserve(num_tokens)
    assert run is not None
    return run


def run_schedule(model: RaggedModel, texts: list[list[int]], packs: Sequence[Pack]) -> list[Tensor]:
    """Forward after forward; -> logits of every row of every text, [length, vocab] each."""
    runs = [reserve(model, len(text)) for text in texts]
    done = [0] * len(texts)
    rows: list[list[Tensor]] = [[] for _ in texts]
    for pack in packs:
        ids: list[int] = []
        segments = []
        owners: list[int] = []
        for number, num_rows in pack:
            first = done[number]
            ids += texts[number][first : first + num_rows]
            segments.append(Segment(runs[number], first, num_rows))
            owners += [number] * num_rows
            done[number] += num_rows
        logits = model.forward(ids, segments, range(len(ids)))
        for owner, row in zip(owners, logits, strict=True):
            rows[owner].append(row)
    assert done == [len(text) for text in texts]
    return [torch.stack(own) for own in rows]


WAYS = ((1, False), (2, True), (4, False), (8, True))
"""(rows of one forward, whether rows of another text come before them)."""


def bits_of(
    model: RaggedModel, ids: list[int], run: Run, other: Segment, other_ids: list[int], first: int
) -> Iterator[tuple[str, Tensor]]:
    """Eight rows from `first` on, computed in every way of WAYS."""
    for size, with_other in WAYS:
        neighbours = [other] if with_other else []
        before = sum(segment.num_rows for segment in neighbours)
        parts = []
        for start in range(first, first + 8, size):
            own = ids[start : start + size]
            segments = [*neighbours, Segment(run, start, size)]
            wanted = range(before, before + size)
            parts.append(model.forward(other_ids[:before] + own, segments, wanted))
        yield f"rows from {first} by {size}, {before} beside", torch.cat(parts)


def assert_rows_keep_their_bits(model: RaggedModel, ids: list[int], firsts: Sequence[int]) -> None:
    """The rows of one prefill in chunks of 256, against every other way to compute them."""
    run, beside = reserve(model, len(ids)), reserve(model, 64)
    other_ids = make_text(5, 40, model.vocab_size)
    model.forward(other_ids, [Segment(beside, 0, 40)], [0])
    other = Segment(beside, 33, 5)
    chunks = []
    wanted = [row for first in firsts for row in range(first, first + 8)]
    for start in range(0, len(ids), 256):
        own = ids[start : start + 256]
        here = [row - start for row in wanted if start <= row < start + 256]
        chunks.append(model.forward(own, [Segment(run, start, len(own))], here))
    whole = dict(zip(sorted(wanted), torch.cat(chunks), strict=True))
    for first in firsts:
        expected = torch.stack([whole[row] for row in range(first, first + 8)])
        for way, logits in bits_of(model, ids, run, other, other_ids[33:38], first):
            assert torch.equal(logits, expected), way


SCHEDULES: dict[str, list[Pack]] = {
    "prefill": [[(0, 150)], [(1, 90)]],
    "chunked prefill": [*([(0, n)] for n in (37, 64, 1, 48)), *([(1, n)] for n in (64, 26))],
    "decode": [[(0, 120)], [(1, 60)], *([(0, 1), (1, 1)] for _ in range(30))],
    "interleaved": [[(0, 30), (1, 5)], [(1, 60), (0, 1)], [(0, 100), (1, 9)], [(1, 16), (0, 19)]],
}


@families
@pytest.mark.parametrize(("stock_attention", "tolerance"), [("exact", 1e-9), ("eager", 1e-5)])
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.usefixtures("one_thread")
def test_the_ragged_forward_is_the_stock_transformers_forward(
    family: str, stock_attention: str, tolerance: float, schedule: str
) -> None:
    """In float64 all logits of two texts are within 1e-9 of those that the unpatched model gives
    to each alone, however their rows are packed and whatever an earlier text left in the pool.
    The texts are longer than the families' windows. (The eager softmax is float32 even in a float64
    model, hence its tolerance.)"""
    if stock_attention == "exact":
        stock_attention = reference_attention(family)
    texts = [make_text(0, 150), make_text(1, 90)]
    model = RaggedModel(tiny_decoder(family), 512)
    dirt = reserve(model, 512)
    model.forward(make_text(3, 512), [Segment(dirt, 0, 512)], [0])
    model.pool.allocator.release(dirt)
    stock = tiny_decoder(family, attention=stock_attention)
    packed = run_schedule(model, texts, SCHEDULES[schedule])
    for text, logits in zip(texts, packed, strict=True):
        alone = stock(input_ids=torch.tensor([text]), use_cache=False).logits[0]
        assert torch.allclose(logits, alone, rtol=0, atol=tolerance)


@families
@pytest.mark.usefixtures("one_thread")
def test_rewritten_rows_forget_a_rejected_guess(family: str) -> None:
    """After a rejection the next round writes over the guesses: nothing of them is left."""
    text = make_text(0, 80)
    model = RaggedModel(tiny_decoder(family), 128)
    run = reserve(model, 80)
    model.forward(text[:62], [Segment(run, 0, 62)], [0])
    model.forward([1, 2, 3, 4, 5], [Segment(run, 62, 5)], [0])
    logits = model.forward(text[62:], [Segment(run, 62, 18)], range(18))
    stock = tiny_decoder(family, attention=reference_attention(family))
    alone = stock(input_ids=torch.tensor([text]), use_cache=False).logits[0, 62:]
    assert torch.allclose(logits, alone, rtol=0, atol=1e-9)


@pytest.mark.parametrize("argument", ["s_aux", "chunk_size", "is_causal"])
def test_attention_arguments_that_would_be_ignored_are_refused(argument: str) -> None:
    """An argument with a meaning must never be dropped silently: the text would be wrong."""
    nothing: Any = None
    with pytest.raises(NotImplementedError, match=argument):
        ragged_attention(
            nothing, nothing, nothing, nothing, None, scaling=1.0, ragged=nothing, **{argument: 4}
        )


def test_a_layout_is_made_once_for_all_layers_of_a_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six layers of two kinds: two layouts a forward, whose masks and places the layers share."""
    windows = []

    def counted(*arguments: Any) -> Layout:
        windows.append(arguments[3])
        return lay_out(*arguments)

    monkeypatch.setattr(attention, "lay_out", counted)
    model = RaggedModel(tiny_decoder("gemma3_text"), 512)
    segments = [Segment(reserve(model, 100), first, 1) for first in (90, 90, 3)]
    model.forward([1, 2, 3], segments, [0])
    assert sorted(windows, key=str) == [70, None]


@pytest.mark.parametrize(
    ("starts_and_rows", "num_blocks"),
    [
        ([(0, 90, 1), (128, 70, 1), (256, 127, 1), (384, 64, 2)], [4]),
        ([(0, 90, 1), (128, 90, 1), (320, 90, 1), (512, 90, 1)], [2, 2]),
        ([(0, 90, 1), (128, 30, 1), (256, 90, 1)], [1, 2]),
        ([(0, 90, 1), (128, 90, 4)], [1, 1]),
        ([(0, 64, 40)], [4]),
        ([(0, 60, 8)], [1, 1]),
    ],
    ids=["one call", "pairs", "another bucket", "other rows", "heads apart", "across a border"],
)
def test_runs_at_equal_distances_share_a_call(
    starts_and_rows: list[tuple[int, int, int]], num_blocks: list[int]
) -> None:
    """(run, first position, rows) of texts with four query heads to a key head -> blocks of each
    call. What shares one must have as many keys and padded rows, or a row's bits would change."""
    pool = KVPool([CPU], 1, 8, 64, torch.float32)
    segments = [Segment(Run(start, 128), at, rows) for start, at, rows in starts_and_rows]
    batch = RaggedBatch(pool, segments)
    (turn,) = batch.layout(1, None, torch.zeros(1, 4, batch.num_rows, 8)).turns
    assert sorted(call.queries.shape[0] for call in turn.calls) == num_blocks


@needs_packed_linears
@families
@pytest.mark.parametrize("num_threads", [1, 2])
def test_texts_that_share_a_call_have_the_bits_they_have_alone(
    family: str, num_threads: int
) -> None:
    """Eight texts of 1 to 3 rows in two buckets, some of whose runs lie at equal distances; all
    shapes of calls occur, and each text is then forwarded alone."""
    model = RaggedModel(tiny_decoder(family, torch.float32, 3, linear="packed"), 4_096)
    firsts, sizes = (90, 70, 124, 64, 30, 90, 100, 5), (1, 1, 3, 2, 1, 3, 2, 1)
    runs = []
    for gap in (64, 64, 64, 64, 64, 192, 64, 320):
        runs.append(reserve(model, 128))
        reserve(model, gap)
    with threads(num_threads):
        texts = [make_text(number, 128) for number in range(len(runs))]
        for text, run, first in zip(texts, runs, firsts, strict=True):
            model.forward(text[:first], [Segment(run, 0, first)], [])
        segments = [Segment(*each) for each in zip(runs, firsts, sizes, strict=True)]
        parts = [
            text[first : first + size]
            for text, first, size in zip(texts, firsts, sizes, strict=True)
        ]
        together = model.forward(sum(parts, []), segments, range(sum(sizes)))
        alone = [
            model.forward(part, [segment], range(len(part)))
            for part, segment in zip(parts, segments, strict=True)
        ]
    assert torch.equal(together, torch.cat(alone))


@needs_packed_linears
@families
@pytest.mark.usefixtures("one_thread")
def test_a_row_has_the_same_bits_alone_and_packed(family: str) -> None:
    """Zero tolerance in float32: across a border of 64 positions and beyond 512 and 1,024 keys.
    So a text does not depend on who else is served, nor on how many tokens were guessed."""
    model = RaggedModel(tiny_decoder(family, torch.float32, 2, linear="packed"), 1_280)
    assert_rows_keep_their_bits(model, make_text(0, 1_100), (60, 508, 520, 1_020, 1_030))


@needs_packed_linears
@pytest.mark.usefixtures("one_thread")
def test_a_row_of_the_real_model_has_the_same_bits_alone_and_packed(smollm2: Path) -> None:
    """The same on the quickstart's weights, at their real shapes."""
    decoder = load_target_decoder(smollm2, "float32", CPU)
    model = RaggedModel(decoder, 1_280)
    ids = make_text(0, 1_040, model.vocab_size)
    assert_rows_keep_their_bits(model, ids, (60, 516, 1_020))


@needs_packed_linears
@families
@pytest.mark.parametrize("num_threads", [1, 2])
def test_the_load_time_check_claims_bits_for_packed_linears_on_any_number_of_threads(
    family: str, num_threads: int
) -> None:
    """What /health reports of this host, and that the check gives its cache back."""
    with threads(num_threads):
        model = RaggedModel(tiny_decoder(family, torch.float32, linear="packed"), 512)
        assert packing_keeps_bits(model)
    assert model.pool.allocator.num_free_blocks == model.pool.allocator.num_blocks


@needs_packed_linears
def test_the_load_time_check_claims_no_bits_for_linears_that_mix_rows() -> None:
    """A linear layer with one scale per batch makes a row depend on its neighbours; the check
    must see it."""

    class PerBatch(torch.nn.Module):
        def __init__(self, linear: torch.nn.Module) -> None:
            super().__init__()
            self._linear = linear

        def forward(self, rows: Tensor) -> Tensor:
            scale = rows.abs().amax() / 127
            scaled: Tensor = self._linear(torch.round(rows / scale) * scale)
            return scaled

    decoder = tiny_decoder(dtype=torch.float32, linear="packed")
    assert packing_keeps_bits(RaggedModel(decoder, 512))
    mlp = decoder.model.layers[0].mlp
    mlp.gate_proj = PerBatch(mlp.gate_proj)
    assert not packing_keeps_bits(RaggedModel(decoder, 512))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_stock_linears_claim_no_bits(dtype: torch.dtype) -> None:
    """In half precision a few rows may well agree by luck; the next ones need not."""
    assert not packing_keeps_bits(RaggedModel(tiny_decoder(dtype=dtype), 512))


@families
@pytest.mark.parametrize(
    ("precision", "factor"), [("bfloat16", 1.2), ("float16", 1.2), ("int8", 2.0)]
)
@pytest.mark.usefixtures("one_thread", "int8_everywhere")
def test_a_coarse_precision_errs_about_as_much_as_the_stock_model_in_it(
    family: str, precision: Precision, factor: float
) -> None:
    """Against float64, over prefill, chunks and single rows. int8 has no stock model and is
    measured by bfloat16's."""
    ids = [make_text(0, 150)]
    exact = tiny_decoder(family, attention=reference_attention(family))
    expected = exact(input_ids=torch.tensor(ids), use_cache=False).logits[0]
    stock = tiny_decoder(
        family,
        torch.bfloat16 if precision == "int8" else compute_dtype(precision),
        attention="eager",
    )
    stock_error = (stock(input_ids=torch.tensor(ids), use_cache=False).logits[0] - expected).std()
    kind = linear_kind(precision, CPU)
    model = RaggedModel(tiny_decoder(family, compute_dtype(precision), linear=kind), 512)
    packs = [*([(0, size)] for size in (37, 64, 1, 30)), *([(0, 1)] for _ in range(18))]
    error = (run_schedule(model, ids, packs)[0] - expected).std()
    assert error < factor * stock_error


def test_a_host_without_onednn_gets_portable_linears(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packed linears are the claim's foundation; where they are missing nothing is claimed."""
    assert linear_kind("float32", CPU) == ("packed" if PACKS else "portable")
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert linear_kind("float32", CPU) == "portable"


def tree_of(shape: list[int]) -> tuple[int, ...]:
    """A tree whose row i + 1 stands behind some row up to i."""
    return tuple(choice % (row + 1) for row, choice in enumerate(shape))


def path_to(parents: Sequence[int], row: int) -> list[int]:
    path = [row]
    while path[-1] > 0:
        path.append(parents[path[-1] - 1])
    return path[::-1]


def assert_a_tree_is_its_branches(
    model: RaggedModel, first: int, parents: tuple[int, ...], tolerance: float
) -> None:
    """Each row of the tree against the same path forwarded as a plain chain."""
    num_rows = len(parents) + 1
    prompt, guesses = make_text(0, first), make_text(3, num_rows)
    run, beside = (reserve(model, first + num_rows + 1) for _ in range(2))
    for each in (run, beside):
        for start in range(0, first, 256):
            chunk = prompt[start : start + 256]
            model.forward(chunk, [Segment(each, start, len(chunk))], [])
    other = reserve(model, 8)
    segments = [Segment(other, 0, 3), Segment(run, first, num_rows, parents)]
    tree = model.forward([1, 2, 3, *guesses], segments, range(3, 3 + num_rows))
    spine = Segment(run, first, num_rows, parents).paths()[-1]
    for row in range(num_rows):
        path = path_to(parents, row)
        ids = [guesses[node] for node in path]
        chain = model.forward(ids, [Segment(beside, first, len(ids))], [len(ids) - 1])[0]
        torch.testing.assert_close(tree[row], chain, rtol=0, atol=tolerance)
    # What stays in the cache is the spine: the row behind it sees the same keys as in a chain.
    ids = [guesses[node] for node in spine]
    model.forward(ids, [Segment(beside, first, len(ids))], [])
    after = [Segment(each, first + len(spine), 1) for each in (run, beside)]
    left, right = model.forward([5, 5], after, [0, 1])
    torch.testing.assert_close(left, right, rtol=0, atol=tolerance)
    for each in (run, beside, other):
        model.pool.allocator.release(each)


@families
@settings(max_examples=10, deadline=None)
@given(
    shape=st.lists(st.integers(0, 40), min_size=1, max_size=20),
    first=st.sampled_from([1, 50, 60, 63, 64, 130, 250]),
)
def test_a_tree_gives_every_row_what_its_own_branch_gives(
    family: str, shape: list[int], first: int
) -> None:
    with threads(1):
        model = tree_model(family, "portable")
        assert_a_tree_is_its_branches(model, first, tree_of(shape), 1e-9)


@needs_packed_linears
@families
@pytest.mark.parametrize("first", [40, 60, 570, 1_083])
@pytest.mark.parametrize("shape", [[0, 0, 1, 1, 2, 5, 6, 3], [0, 0, 0, 1, 4, 4, 5, 7, 8, 9, 2]])
def test_a_tree_gives_every_row_the_bits_of_its_own_branch(
    family: str, first: int, shape: list[int]
) -> None:
    """Also behind 512 and 1,024 keys, and where branches cross a border of 64 positions."""
    model = tree_model(family, "packed")
    assert_a_tree_is_its_branches(model, first, tree_of(shape), 0.0)


def test_the_spine_follows_first_children_and_comes_last() -> None:
    segment = Segment(Run(0, 64), 10, 6, (0, 0, 1, 2, 4))
    assert segment.depths() == [0, 1, 1, 2, 2, 3]
    assert segment.paths() == [[0, 2, 4, 5], [0, 1, 3]]
    assert Segment(Run(0, 64), 10, 3).paths() == [[0, 1, 2]]
