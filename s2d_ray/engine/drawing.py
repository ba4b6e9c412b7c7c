"""The target's own tokens: one draw behind every wanted row of a forward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from s2d_ray.core.coupling import draw_token
from s2d_ray.core.params import SamplingParams
from s2d_ray.core.sampling import Candidates, Past, process_logits
from s2d_ray.core.threads import OneThread

MAX_MISFITS = 64
"""Best tokens a grammar's budget may refuse for one draw before the way out is taken."""


class Grammar(Protocol):
    """The state of a text that must follow a grammar; see `models.grammar.GrammarState`."""

    @property
    def allowed(self) -> Tensor: ...

    @property
    def closing(self) -> list[int] | None: ...

    @property
    def way_out(self) -> int: ...

    @property
    def finished(self) -> bool: ...

    def after(self, token_id: int) -> Grammar: ...

    def fits(self, token_id: int, num_left: int) -> bool: ...


@dataclass(frozen=True)
class Draw:
    """How one wanted row is drawn.

    position: of the token to be drawn. past: what the row knows of the text before it.
    grammar: the state behind the row; num_left: tokens the text may still get, this one included.
    """

    params: SamplingParams
    position: int
    past: Past = Past()
    grammar: Grammar | None = None
    num_left: int = 0


@dataclass(frozen=True)
class Drawn:
    """A drawn token. logprob, alternatives (id, logprob): only where the request wants them."""

    token: int
    logprob: float | None = None
    alternatives: tuple[tuple[int, float], ...] = ()


@torch.inference_mode()
def draw_rows(logits: Tensor, draws: Sequence[Draw]) -> list[Drawn]:
    """The target's own token behind every wanted row. Shapes: [rows, vocab] -> rows tokens.

    Row by row, so that nothing of a draw depends on the rows beside it; on a CPU host on one
    thread, since a row's operators are too small for more.
    """
    if not draws:
        return []
    rows = [row if row.dtype in (torch.float32, torch.float64) else row.float() for row in logits]
    with OneThread():
        drawn = [_draw(row, draw) for row, draw in zip(rows, draws, strict=True)]
        tokens: list[int] = torch.stack(drawn).tolist()
        return [
            _with_logprobs(row, token, draw.params.logprobs)
            for row, token, draw in zip(rows, tokens, draws, strict=True)
        ]


def _draw(logits: Tensor, draw: Draw) -> Tensor:
    """One row's token, on its device. [vocab] -> scalar int64."""
    candidates = process_logits(logits, draw.params, draw.past)
    grammar = draw.grammar
    if grammar is None:
        return _draw_one(candidates, draw)
    # The best token that fits is the draw from the law without those that do not.
    for _ in range(MAX_MISFITS):
        if not bool(torch.isfinite(candidates.scores).any()):
            break
        token = _draw_one(candidates, draw)
        if grammar.fits(int(token), draw.num_left):
            return token
        candidates = candidates.without(token)
    return torch.tensor(grammar.way_out, device=logits.device)


def _draw_one(candidates: Candidates, draw: Draw) -> Tensor:
    params = draw.params
    return draw_token(
        candidates.scores, params.temperature, params.seed, draw.position, candidates.ids
    )


def _with_logprobs(logits: Tensor, token: int, num_alternatives: int | None) -> Drawn:
    if num_alternatives is None:
        return Drawn(token)
    logprobs = torch.log_softmax(logits, dim=-1)
    best = torch.topk(logprobs, num_alternatives)
    values: list[float] = torch.cat([logprobs[token, None], best.values]).tolist()
    alternatives = zip(best.indices.tolist(), values[1:], strict=True)
    return Drawn(token, values[0], tuple(alternatives))
