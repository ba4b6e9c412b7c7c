"""Coupling (design D1): a draw is a pure function of logits, temperature, seed and position."""

from __future__ import annotations

import math
from collections import Counter
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from s2d_ray.core.coupling import (
    LIKELY,
    MAX_NOISE,
    MIN_NOISE,
    draw_token,
    gumbel_noise,
    perturbed_scores,
    position_key,
)
from s2d_ray.core.hashing import choice_seed
from s2d_ray.core.params import SamplingParams
from s2d_ray.core.sampling import Past, process_logits

WORD = 1 << 64
GOLDEN = 0x9E3779B97F4A7C15
MIX_1, MIX_2 = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
# The first three outputs of splitmix64 started at 1234567, as commonly published.
SPLITMIX_SEED = 1234567
SPLITMIX_OUTPUTS = (6457827717110365317, 3203168211198807973, 9817491932198370423)
FALSE_ALARM = 1e-6

seeds = st.integers(0, 2**53 - 1)
positions = st.integers(0, 2**20)
temperatures = st.floats(0.05, 2.0)


def oracle_mix(value: int) -> int:
    """The splitmix64 finaliser on plain integers, written apart from the package."""
    value = (value ^ value >> 30) * MIX_1 % WORD
    value = (value ^ value >> 27) * MIX_2 % WORD
    return value ^ value >> 31


def oracle_hash(seed: int, position: int, token_id: int) -> int:
    """The high 32 bits of hash(seed, position, token id)."""
    stream = oracle_mix((seed + GOLDEN) % WORD)
    key = oracle_mix((stream + position * GOLDEN) % WORD)
    return oracle_mix((key + token_id * GOLDEN) % WORD) >> 32


def oracle_gumbel(hashed: int) -> float:
    """Gumbel noise of a 32-bit hash in Python's float64."""
    return -math.log(-math.log1p(-(hashed + 0.5) / 2**32))


def token_with_hash(seed: int, position: int, hashed: int) -> int:
    """Some 64-bit token id whose hash is `hashed`: the finaliser is a bijection, so invert it."""
    value = hashed << 32
    value = unshift(value, 31) * pow(MIX_2, -1, WORD) % WORD
    value = unshift(value, 27) * pow(MIX_1, -1, WORD) % WORD
    value = (unshift(value, 30) - position_key(seed, position)) * pow(GOLDEN, -1, WORD) % WORD
    return value - WORD if value >> 63 else value


def unshift(value: int, bits: int) -> int:
    """The x with x ^ (x >> bits) == value."""
    result = value
    for _ in range(64 // bits):
        result = value ^ result >> bits
    return result


def chi_square_tail(counts: Counter[object], expected: dict[object, float]) -> float:
    """P(chi-square >= observed) when `expected` (counts, summing to the total) is the truth."""
    assert set(counts) <= set(expected)
    statistic = sum((counts[key] - mean) ** 2 / mean for key, mean in expected.items())
    freedom = len(expected) - 1
    tail = torch.special.gammaincc(
        torch.tensor(freedom / 2, dtype=torch.float64),
        torch.tensor(statistic / 2, dtype=torch.float64),
    )
    return float(tail)


def expected_counts(logits: Tensor, temperature: float, num_draws: int) -> dict[object, float]:
    probabilities = torch.softmax(logits.double() / temperature, dim=-1)
    return {token: num_draws * p for token, p in enumerate(probabilities.tolist()) if p > 0}


def test_the_hash_is_splitmix64_as_published() -> None:
    """The oracle gives the published outputs, and the package's key is the oracle's: so both are
    the named, well-tested generator and not a look-alike."""
    outputs = tuple(oracle_mix((SPLITMIX_SEED + step * GOLDEN) % WORD) for step in (1, 2, 3))
    assert outputs == SPLITMIX_OUTPUTS
    first = oracle_mix(SPLITMIX_OUTPUTS[0])
    assert position_key(SPLITMIX_SEED, 0) == first


@pytest.mark.parametrize(
    ("seed", "position", "token_id", "hashed"),
    [
        (0, 0, 0, 0x33FE8BD4),
        (0, 0, 1, 0x568A9B0B),
        (1, 2, 3, 0x76E36D62),
        (2**53 - 1, 4095, 151_935, 0x2EB2599E),
    ],
)
def test_published_vectors_of_the_hash(
    seed: int, position: int, token_id: int, hashed: int
) -> None:
    """Pinned numbers: a stream that moves to a replica of another version keeps its text."""
    assert oracle_hash(seed, position, token_id) == hashed
    noise = gumbel_noise(seed, position, torch.tensor([token_id]))
    assert float(noise) == pytest.approx(oracle_gumbel(hashed), rel=2e-7, abs=1e-7)


@settings(deadline=None)
@given(seeds, positions, st.lists(st.integers(0, 2**20), min_size=1, max_size=40))
def test_noise_equals_plain_integer_arithmetic(
    seed: int, position: int, token_ids: list[int]
) -> None:
    """64-bit wrap-around and logical shifts in torch's signed integers equal exact integers."""
    noise = gumbel_noise(seed, position, torch.tensor(token_ids))
    assert noise.dtype == torch.float32
    expected = [oracle_gumbel(oracle_hash(seed, position, token_id)) for token_id in token_ids]
    assert noise.tolist() == pytest.approx(expected, rel=2e-7, abs=1e-7)


@settings(deadline=None, max_examples=30)
@given(seeds, positions)
def test_noise_of_the_most_extreme_hashes_is_finite_and_within_its_spread(
    seed: int, position: int
) -> None:
    """Noise is monotone in the hash, so the two end values bound all of it. In float32 the upper
    end would be infinite, and one token in 2^25 would win against any logit."""
    ends = [token_with_hash(seed, position, hashed) for hashed in (0, 2**32 - 1)]
    noise = gumbel_noise(seed, position, torch.tensor(ends)).tolist()
    assert noise == pytest.approx([oracle_gumbel(0), oracle_gumbel(2**32 - 1)], rel=1e-6)
    assert MIN_NOISE < min(noise) < MIN_NOISE + 0.02
    assert MAX_NOISE - 0.02 < max(noise) < MAX_NOISE
    uniform = (torch.tensor([2.0**32 - 1], dtype=torch.float32) + 0.5) * 2.0**-32
    assert torch.isinf(torch.log1p(-uniform)).all()


@settings(deadline=None)
@given(seeds, positions, st.sets(st.integers(0, 499), min_size=1), temperatures)
def test_a_trimmed_head_sees_the_noise_of_the_full_vocabulary(
    seed: int, position: int, kept: set[int], temperature: float
) -> None:
    """Noise belongs to the token id, whatever other ids are asked for: a draft that scores a part
    of the vocabulary guesses with the noise that the target will draw with."""
    ids = torch.tensor(sorted(kept))
    logits = torch.linspace(-3, 3, 500)
    whole = perturbed_scores(logits, temperature, seed, position, torch.arange(500))
    part = perturbed_scores(logits[ids], temperature, seed, position, ids)
    assert torch.equal(part, whole[ids])


@settings(deadline=None, max_examples=300)
@given(
    seeds,
    positions,
    st.floats(0.02, 2.0),
    st.floats(0.0, 30.0),
    st.integers(1, 3_000),
    st.sampled_from([torch.float32, torch.float64]),
    st.integers(0, 2**31),
)
def test_leaving_out_hopeless_ids_never_changes_a_draw(
    seed: int,
    position: int,
    temperature: float,
    spread: float,
    num_ids: int,
    dtype: torch.dtype,
    logits_seed: int,
) -> None:
    """The draw that hashes first equals the argmax over all ids: an id left out, by its logit or
    by its hash, could not have won."""
    generator = torch.Generator().manual_seed(logits_seed)
    logits = spread * torch.randn(num_ids, generator=generator, dtype=dtype)
    scores = perturbed_scores(logits, temperature, seed, position, torch.arange(num_ids))
    assert int(draw_token(logits, temperature, seed, position)) == int(torch.argmax(scores))


@settings(deadline=None, max_examples=60)
@given(seeds, st.floats(0.02, 2.0), st.floats(-1e-5, 1e-5))
def test_an_unlikely_id_that_wins_by_a_hair_is_not_left_out(
    seed: int, temperature: float, margin: float
) -> None:
    """Id 0 is the only likely one. The noise of another one exceeds its own by hardly more than
    LIKELY, and the other's logit lies as far below, but for what rounding may do: the bound on
    hashes is met where it is tightest."""
    noise = gumbel_noise(seed, 3, torch.arange(30_000))
    ahead = noise - noise[0] - LIKELY
    rival = int(torch.where(ahead > 0, ahead, torch.inf).argmin())
    logits = torch.full((30_000,), 20.0 - 12.0 * temperature)
    logits[0] = 20.0
    logits[rival] = 20.0 + temperature * (noise[0] - noise[rival]) + margin
    scores = perturbed_scores(logits, temperature, seed, 3, torch.arange(30_000))
    assert int(draw_token(logits, temperature, seed, 3)) == int(torch.argmax(scores))


@pytest.mark.parametrize("temperature", [1e-38, 1e-6])
def test_next_to_no_temperature_is_nearly_none(temperature: float) -> None:
    """Bounds that overflow leave nothing out, and raise nothing."""
    for logits in (torch.linspace(-3.0, 3.0, 50), torch.full((50,), -torch.inf)):
        assert int(draw_token(logits, temperature, 5, 9)) == int(logits.argmax())


@settings(deadline=None, max_examples=100)
@given(seeds, positions, temperatures, st.integers(0, 60), st.floats(0.05, 1.0), st.data())
def test_a_draw_from_what_filters_leave_is_the_draw_with_all_others_banned(
    seed: int, position: int, temperature: float, top_k: int, top_p: float, data: st.DataObject
) -> None:
    """Noise for a few ids only: the same id as with -inf for every other id and noise for all."""
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**31)))
    logits = 4.0 * torch.randn(2_000, generator=generator)
    params = SamplingParams(seed, temperature, top_p, top_k)
    left = process_logits(logits, params, Past())
    whole = torch.full_like(logits, -torch.inf)
    ids = torch.arange(len(logits)) if left.ids is None else left.ids
    whole[ids] = logits[ids]
    scores = perturbed_scores(whole, temperature, seed, position, torch.arange(len(logits)))
    drawn = draw_token(left.scores, temperature, seed, position, left.ids)
    assert int(drawn) == int(torch.argmax(scores))


@settings(deadline=None)
@given(st.lists(st.integers(-2, 2), min_size=1, max_size=20), seeds, positions)
def test_without_temperature_the_draw_is_the_first_best_id(
    logits: list[int], seed: int, position: int
) -> None:
    """Temperature 0 is greedy decoding, and ties go to the lowest id whatever the seed."""
    drawn = draw_token(torch.tensor(logits, dtype=torch.float32), 0.0, seed, position)
    assert int(drawn) == logits.index(max(logits))


@settings(deadline=None)
@given(seeds, positions, st.sets(st.integers(0, 39), max_size=39))
def test_ties_of_perturbed_scores_go_to_the_lowest_id_left(
    seed: int, position: int, banned: set[int]
) -> None:
    """Logits that cancel the noise exactly make every score 0: the lowest id that is not banned
    wins, so a tie cannot be broken in two ways by two hosts."""
    ids = torch.arange(40)
    logits = -gumbel_noise(seed, position, ids).double()
    logits[torch.tensor(sorted(banned), dtype=torch.int64)] = -torch.inf
    drawn = draw_token(logits, 1.0, seed, position)
    assert int(drawn) == min(set(range(40)) - banned)


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    [(0.7, 0, 1.0), (1.0, 0, 1.0), (0.7, 5, 0.9), (1.0, 0, 0.8), (1.0, 4, 1.0)],
)
def test_draws_over_seeds_follow_the_softmax(temperature: float, top_k: int, top_p: float) -> None:
    """Chi-square of 6,000 draws against softmax(processed logits / T): for a fresh choice of seeds
    a right sampler would fail once in a million, and these seeds are fixed."""
    logits = torch.tensor([1.5, 0.2, -0.4, 2.0, 0.9, -1.2, 1.1, 0.0])
    params = SamplingParams(0, temperature, top_p, top_k)
    left = process_logits(logits, params, Past())
    num_draws = 6_000
    counts: Counter[object] = Counter(
        int(draw_token(left.scores, temperature, seed, 17, left.ids)) for seed in range(num_draws)
    )
    processed = torch.full_like(logits, -torch.inf)
    ids = slice(None) if left.ids is None else left.ids
    processed[ids] = left.scores
    tail = chi_square_tail(counts, expected_counts(processed, temperature, num_draws))
    assert tail > FALSE_ALARM


def test_the_chi_square_sees_a_wrong_temperature() -> None:
    """The power of the test above: draws at T = 0.9 do not pass for T = 1."""
    logits = torch.tensor([1.5, 0.2, -0.4, 2.0, 0.9, -1.2, 1.1, 0.0])
    counts: Counter[object] = Counter(
        int(draw_token(logits, 0.9, seed, 17)) for seed in range(6_000)
    )
    assert chi_square_tail(counts, expected_counts(logits, 1.0, 6_000)) < FALSE_ALARM


def test_neighbouring_positions_and_seeds_draw_independently() -> None:
    """Chi-square of pairs of draws against the product of their laws, for neighbouring positions
    of one text and one position of neighbouring seeds; false alarm 1e-6 each."""
    logits = torch.tensor([0.3, -0.2, 0.8])
    single = torch.softmax(logits.double(), dim=-1).tolist()
    num_pairs = 3_000
    expected: dict[object, float] = {
        (a, b): num_pairs * single[a] * single[b] for a in range(3) for b in range(3)
    }
    for seed_step, position_step in ((0, 1), (1, 0)):
        counts: Counter[object] = Counter()
        for pair in range(num_pairs):
            seed, position = 2 * pair, 5
            first_draw = int(draw_token(logits, 1.0, seed, position))
            other = draw_token(logits, 1.0, seed + seed_step, position + position_step)
            counts[first_draw, int(other)] += 1
        assert chi_square_tail(counts, expected) > FALSE_ALARM


def test_greedy_drafting_with_the_ratio_test_is_not_lossless() -> None:
    """Why tokens are coupled. The ratio test (accept with min(1, p/q), else draw from the rest of
    p over q) assumes that the draft drew its guess from q. A guess that is the argmax of q turns
    (1/2, 1/2) into (5/6, 1/6); a guess drawn from q keeps it."""
    target = (Fraction(1, 2), Fraction(1, 2))
    draft = (Fraction(6, 10), Fraction(4, 10))

    def law(guess_law: tuple[Fraction, Fraction]) -> tuple[Fraction, ...]:
        rest = [max(p - q, Fraction(0)) for p, q in zip(target, draft, strict=True)]
        out = [Fraction(0), Fraction(0)]
        for guess, chance in enumerate(guess_law):
            accepted = min(Fraction(1), target[guess] / draft[guess])
            out[guess] += chance * accepted
            for token in range(2):
                out[token] += chance * (1 - accepted) * rest[token] / sum(rest)
        return tuple(out)

    greedy = (Fraction(1), Fraction(0))
    assert law(greedy) == (Fraction(5, 6), Fraction(1, 6))
    assert law(draft) == target


def test_choices_of_a_request_have_seeds_of_their_own_and_the_first_keeps_the_request_s() -> None:
    """All are integers that a browser keeps, and no two of 64 prompts by 16 choices are equal."""
    assert choice_seed(12, 0, 0) == 12
    seeds = [choice_seed(seed, j, i) for seed in (0, 12) for j in range(64) for i in range(16)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**53 for seed in seeds)
