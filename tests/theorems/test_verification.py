"""Verification (design D2): a proposal decides how many tokens a round yields, never which."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2d_ray.core.proposals import EMPTY, Proposal, verify

Text = tuple[int, ...]
NextToken = Callable[[Text], int]


def all_trees(max_nodes: int, vocabulary: int) -> Iterator[Proposal]:
    """Every tree of up to `max_nodes` guesses, chains and the empty proposal included."""
    for num_nodes in range(max_nodes + 1):
        shapes = itertools.product(*(range(node + 1) for node in range(num_nodes)))
        for parents in shapes:
            for tokens in itertools.product(range(vocabulary), repeat=num_nodes):
                if len(set(zip(parents, tokens, strict=True))) == num_nodes:
                    yield Proposal(tokens, parents)


def row_texts(proposal: Proposal) -> list[Text]:
    """[rows] what each row stands behind: the guesses from the root to it, written apart."""
    texts: list[Text] = [()]
    for token, parent in zip(proposal.tokens, proposal.parents, strict=True):
        texts.append((*texts[parent], token))
    return texts


def decode(next_token: NextToken, num_tokens: int, text: Text = ()) -> Text:
    """Plain decoding: one token after another, no proposals."""
    start = len(text)
    for _ in range(num_tokens):
        text = (*text, next_token(text))
    return text[start:]


def speculate(next_token: NextToken, propose: Callable[[Text], Proposal], length: int) -> Text:
    """Rounds of propose and verify until `length` tokens are there."""
    text: Text = ()
    while len(text) < length:
        proposal = propose(text)
        drawn = [next_token((*text, *behind)) for behind in row_texts(proposal)]
        text = (*text, *verify(proposal, drawn).tokens)
    return text[:length]


@st.composite
def trees(draw: st.DrawFn, max_nodes: int = 12, vocabulary: int = 4) -> Proposal:
    tokens: list[int] = []
    parents: list[int] = []
    for _ in range(draw(st.integers(0, max_nodes))):
        parent, token = draw(st.integers(0, len(tokens))), draw(st.integers(0, vocabulary - 1))
        if (parent, token) not in zip(parents, tokens, strict=True):
            parents.append(parent)
            tokens.append(token)
    return Proposal(tuple(tokens), tuple(parents))


@pytest.mark.parametrize(("max_nodes", "vocabulary"), [(3, 3), (4, 2)])
def test_a_round_emits_what_plain_decoding_would_for_every_tree_and_every_draw(
    max_nodes: int, vocabulary: int
) -> None:
    """Exhaustive. Rows of a tree stand behind different texts, so all vectors of draws are all
    next-token tables on the tree. Plain decoding by the table, until it leaves the tree, is the
    oracle for the tokens and for their number: no guess that was right is lost."""
    for proposal in all_trees(max_nodes, vocabulary):
        texts = row_texts(proposal)
        assert len(set(texts)) == len(texts)
        for drawn in itertools.product(range(vocabulary), repeat=len(texts)):
            table = dict(zip(texts, drawn, strict=True))
            plain: Text = ()
            while plain in table:
                plain = (*plain, table[plain])
            verdict = verify(proposal, drawn)
            assert verdict.tokens == plain
            assert [texts[row] for row in verdict.path] == [
                plain[:depth] for depth in range(1, len(plain))
            ]
            assert verdict.tokens == tuple(drawn[row] for row in (0, *verdict.path))


@settings(deadline=None, max_examples=300)
@given(trees(), st.data())
def test_a_round_emits_at_least_one_token_and_at_most_one_more_than_the_depth(
    proposal: Proposal, data: st.DataObject
) -> None:
    """A round always advances, also on a useless proposal, and never beyond what was guessed."""
    num_rows = len(proposal.tokens) + 1
    drawn = data.draw(st.lists(st.integers(0, 3), min_size=num_rows, max_size=num_rows))
    verdict = verify(proposal, drawn)
    assert 1 <= len(verdict.tokens) <= max(proposal.depths()) + 1
    assert len(verdict.tokens) == len(verdict.path) + 1


@settings(deadline=None, max_examples=300)
@given(st.integers(0, 2**32), st.lists(trees(max_nodes=6), min_size=1, max_size=8))
def test_the_text_of_many_rounds_is_that_of_plain_decoding_for_any_proposals(
    key: int, proposals: list[Proposal]
) -> None:
    """Whole texts under a context-dependent target: no round leaves a wrong text for the next."""

    def next_token(text: Text) -> int:
        return hash((key, text)) % 4

    def propose(text: Text) -> Proposal:
        return proposals[len(text) % len(proposals)]

    assert speculate(next_token, propose, 20) == decode(next_token, 20)


def test_the_law_of_a_text_is_the_targets_for_every_draft_even_one_that_sees_the_noise() -> None:
    """Exact law in fractions. The target draws token t behind the last token if the uniform noise
    of the position falls into t's share of six. All noise of three positions is enumerated, for
    all 27 fixed chains of two guesses and for drafts that guess from the very noise, rightly and
    wrongly on purpose: the law of the text is always the product of the target's own laws."""
    shares = {None: (1, 2, 3), 0: (3, 2, 1), 1: (1, 1, 4), 2: (2, 2, 2)}

    def choose(last: int | None, noise: int) -> int:
        bounds = itertools.accumulate(shares[last])
        return next(token for token, bound in enumerate(bounds) if noise < bound)

    def target(noises: Sequence[int]) -> NextToken:
        return lambda text: choose(text[-1] if text else None, noises[len(text)])

    def law(propose: Callable[[NextToken, Text], Proposal]) -> dict[Text, Fraction]:
        out: dict[Text, Fraction] = defaultdict(Fraction)
        for noises in itertools.product(range(6), repeat=3):
            # Rows behind the third token draw too; that the text ends there is not their concern.
            next_token = target((*noises, 0, 0, 0))
            text = speculate(next_token, lambda text, t=next_token: propose(t, text), 3)
            out[text] += Fraction(1, 6**3)
        return dict(out)

    truth = {}
    for text in itertools.product(range(3), repeat=3):
        chance = Fraction(1)
        for last, token in zip((None, *text), text, strict=False):
            chance *= Fraction(shares[last][token], 6)
        truth[text] = chance
    for guesses in itertools.product(range(3), repeat=2):
        assert law(lambda _t, _text, g=guesses: Proposal.chain(g)) == truth
    assert law(lambda t, text: Proposal.chain(decode(t, 2, text))) == truth
    assert law(lambda t, text: Proposal.chain([(decode(t, 1, text)[0] + 1) % 3])) == truth
    assert law(lambda t, text: EMPTY if t(text) == 0 else Proposal((0, 1), (0, 0))) == truth


@settings(deadline=None, max_examples=300)
@given(trees(), st.integers(0, 6), st.sets(st.integers(0, 3), max_size=2), st.data())
def test_cutting_a_proposal_only_shortens_what_a_round_emits(
    proposal: Proposal, max_depth: int, terminal: set[int], data: st.DataObject
) -> None:
    """A cut tree is a subtree, so its round emits a prefix: what is missing is the next round's.
    It is cut exactly where it was asked for: at `max_depth` and right behind a terminal guess."""
    table: dict[Text, int] = {}
    for text in row_texts(proposal):
        table[text] = data.draw(st.integers(0, 3))
    cut, kept_nodes = proposal.pruned(proposal.within(max_depth, terminal))
    whole = verify(proposal, [table[text] for text in row_texts(proposal)])
    part = verify(cut, [table[text] for text in row_texts(cut)])
    assert whole.tokens[: len(part.tokens)] == part.tokens
    kept = {
        text
        for text in row_texts(proposal)
        if len(text) <= max_depth and not terminal & set(text[:-1])
    }
    assert set(row_texts(cut)) == kept
    assert cut.tokens == tuple(proposal.tokens[node] for node in kept_nodes)


@pytest.mark.parametrize(
    ("tokens", "parents", "reason"),
    [
        ((1, 2), (0,), "one parent per token"),
        ((1,), (1,), "earlier row"),
        ((1, 2), (0, -1), "earlier row"),
        ((1, 2), (0, 2), "earlier row"),
        ((5, 5), (0, 0), "same token"),
    ],
)
def test_a_malformed_tree_is_refused(
    tokens: tuple[int, ...], parents: tuple[int, ...], reason: str
) -> None:
    """A row that hangs on itself, on a later one or beside its double has no meaning."""
    with pytest.raises(ValueError, match=reason):
        Proposal(tokens, parents)


def test_a_chain_is_the_tree_in_which_each_token_hangs_on_the_one_before() -> None:
    """The plain case is a case of the general one; equal tokens may follow each other."""
    chain = Proposal.chain([7, 7, 7])
    assert chain.parents == (0, 1, 2)
    assert chain.depths() == (0, 1, 2, 3)
    assert verify(chain, [7, 7, 8, 9]).tokens == (7, 7, 8)
