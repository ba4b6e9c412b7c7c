"""A tenant's call of /tokenize or /detokenize: its turn, and what it costs."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from s2d_ray.policy.fair_queue import Ask
from s2d_ray.policy.ledger import Granted
from s2d_ray.policy.limits import ratelimit_headers
from s2d_ray.policy.usage import UsageRecord
from s2d_ray.serve.edge import CLIENT_GONE
from s2d_ray.serve.gate import TokensCall
from s2d_ray.serve.ledger_messages import Ended
from s2d_ray.serve.tenant_ticket import Admission, error_status

BYTES_PER_TOKEN = 1024
"""Of the body: a call is far cheaper than computing the prompt, but not free."""


@asynccontextmanager
async def tokens_turn(admission: Admission, call: TokensCall) -> AsyncIterator[Mapping[str, str]]:
    """Entered when it is the call's turn, with headers of its answer. Raises: RequestError."""
    arrived_s = time.monotonic()
    cost = 1 + call.num_bytes // BYTES_PER_TOKEN
    granted = await admission.admit(
        Ask(call.request_id, call.caller.name, call.path, cost, 0.0, num_bytes=call.num_bytes)
    )
    status = CLIENT_GONE
    try:
        yield ratelimit_headers(granted.allowances)
        status = 200
    except Exception as error:
        status = error_status(error)
        raise
    finally:
        total_ms = 1_000 * (time.monotonic() - arrived_s)
        record = _record(call, granted, status, total_ms)
        admission.end(Ended(granted.grant, granted.grant.tokens, record))


def _record(call: TokensCall, granted: Granted, status: int, total_ms: float) -> UsageRecord:
    return UsageRecord(
        ended_s=time.time(),
        request_id=call.request_id,
        tenant=call.caller.name,
        key_id=call.caller.key_id,
        target=call.path,
        status=status,
        reserved_tokens=granted.grant.tokens,
        queue_ms=1_000 * granted.queue_s,
        total_ms=total_ms,
    )
