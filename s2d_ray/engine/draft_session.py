"""One draft session: the ids of a text and how far each layer group has computed them."""

from __future__ import annotations

from collections.abc import Sequence

from s2d_ray.engine.protocol import EMPTY_DIGEST, extend_digest
from s2d_ray.models.kv_pool import Run


class DraftSession:
    """Ids held, and fill[g] = positions that layer group g has computed, non-increasing in g.

    Between fill[g + 1] and fill[g] the pre-norm hidden states of boundary g are kept in the
    session's slots. A rollback only lowers the fills: whatever lies above them is overwritten.
    """

    def __init__(self, num_groups: int, run: Run, now_s: float) -> None:
        self.run = run
        self.ids: list[int] = []
        self.fill = [0] * num_groups
        self.last_used_s = now_s
        self._digests = [EMPTY_DIGEST]

    def digest_at(self, length: int) -> int:
        """Digest of the first `length` ids held."""
        return self._digests[length]

    def commit(self, base: int, token_ids: Sequence[int]) -> None:
        """Make the held ids equal ids[:base] + token_ids, keeping the common prefix's work.

        The last position is always computed anew: its hidden state is the one to draft from.
        """
        length = base
        for token_id in token_ids:
            if length == len(self.ids) or self.ids[length] != token_id:
                break
            length += 1
        self.truncate(length)
        self.append(token_ids[length - base :])
        self.fill = [max(0, min(fill, len(self.ids) - 1)) for fill in self.fill]

    def truncate(self, length: int) -> None:
        """Forget ids from `length` on."""
        del self.ids[length:]
        del self._digests[length + 1 :]
        self.fill = [min(fill, length) for fill in self.fill]

    def append(self, token_ids: Sequence[int]) -> None:
        """Hold more ids, not yet computed."""
        for token_id in token_ids:
            self.ids.append(token_id)
            self._digests.append(extend_digest(self._digests[-1], (token_id,)))

    def debt(self, group: int) -> int:
        """Positions a group must run before it can score the last id."""
        return len(self.ids) - self.fill[group]
