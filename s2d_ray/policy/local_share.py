"""What a router may admit on its own word while the ledger is away: a few texts, none by default.

A local grant is like one of an earlier ledger's: the router tells of it, and the ledger that comes
back adopts it, charges it once, and counts its slot.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from s2d_ray.policy.fair_queue import Ask
from s2d_ray.policy.grants import Grant


@dataclass(frozen=True)
class LocalShare:
    """The share of one router. life: names the router, unlike the life of any ledger.

    max_texts: that run at the same time. One tenant has at most half of them, rounded up.
    """

    max_texts: int
    life: str

    def admit(self, ask: Ask, open_grants: Iterable[Grant]) -> Grant | None:
        """A grant with the id of the ask, None if the share is taken.

        open_grants: of this router, whoever gave them.
        """
        own = [grant for grant in open_grants if grant.life == self.life]
        texts = ask.num_texts + sum(grant.num_texts for grant in own)
        of_tenant = ask.num_texts + sum(g.num_texts for g in own if g.tenant == ask.tenant)
        if texts > self.max_texts or of_tenant > (self.max_texts + 1) // 2:
            return None
        return Grant(ask.id, ask.tenant, ask.target, ask.tokens, ask.num_texts, self.life)
