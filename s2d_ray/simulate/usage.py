"""The usage records that a simulated ledger would have written."""

from __future__ import annotations

from collections.abc import Iterator

from s2d_ray.policy.usage import UsageRecord
from s2d_ray.simulate.request import Request
from s2d_ray.simulate.service import Simulation

BEGINS_S = 1_767_571_200.0
"""When every simulation begins, in Unix seconds: Monday, 5 January 2026, midnight UTC."""


def usage_records(simulation: Simulation) -> Iterator[UsageRecord]:
    """Records of the requests that have finished, in the order of their ends.

    Guesses are means of the target over the whole run: a simulated round commits what rounds
    commit in the mean.
    """
    rates = {name: _guesses_per_token(simulation, name) for name in simulation.pools}
    finished = [request for request in simulation.requests if request.ended_s is not None]
    for request in sorted(finished, key=lambda request: request.ended_s or 0.0):
        yield _record(request, *rates[request.arrival.target])


def _guesses_per_token(simulation: Simulation, target: str) -> tuple[float, float]:
    """Guesses drafted and accepted for each output token."""
    draft, replicas = simulation.draft, simulation.pools[target].replicas
    speculated = sum(replica.num_speculated for replica in replicas)
    if draft is None or not speculated:
        return 0.0, 0.0
    share = speculated / sum(replica.num_steps for replica in replicas)
    accepted = share * (draft.tokens_per_round - 1)
    return share * draft.levels / (1 + accepted), accepted / (1 + accepted)


def _record(request: Request, drafted: float, accepted: float) -> UsageRecord:
    arrival, grant = request.arrival, request.grant
    assert grant is not None
    assert request.granted_s is not None
    assert request.ended_s is not None
    return UsageRecord(
        ended_s=BEGINS_S + request.ended_s,
        request_id=f"simulated-{grant.id}",
        tenant=arrival.tenant,
        key_id="simulated",
        target=arrival.target,
        status=200,
        reserved_tokens=arrival.prompt_tokens + arrival.max_tokens,
        prompt_tokens=arrival.prompt_tokens,
        completion_tokens=arrival.output_tokens,
        drafted_tokens=round(drafted * arrival.output_tokens),
        accepted_tokens=round(accepted * arrival.output_tokens),
        queue_ms=1e3 * (request.granted_s - arrival.at_s),
        first_token_ms=None if request.ttft_s is None else 1e3 * request.ttft_s,
        total_ms=1e3 * (request.ended_s - arrival.at_s),
        grant_id=grant.id,
    )
