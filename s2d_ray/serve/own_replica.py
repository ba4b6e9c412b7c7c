"""What a target replica can find out about itself and its like."""

from __future__ import annotations

import asyncio
from typing import Any

from ray import serve
from ray.serve.context import _get_global_client

OTHERS_TIMEOUT_S = 5.0


async def is_ending() -> bool:
    """Whether Serve has told this replica to end. No public call says so."""
    context = serve.get_replica_context()
    client = _get_global_client()
    assert client is not None
    details = await asyncio.to_thread(client.get_serve_details)
    deployment = details["applications"][context.app_name]["deployments"][context.deployment]
    states = {each["replica_id"]: each["state"] for each in deployment["replicas"]}
    return bool(states.get(context.replica_id.unique_id) == "STOPPING")


async def others_fingerprint() -> str:
    """That of some replica of this deployment that Serve sends requests to.

    Raises TimeoutError if there is none.
    """
    handle = serve.get_app_handle(serve.get_replica_context().app_name)
    status: Any = handle.status.remote()
    try:
        async with asyncio.timeout(OTHERS_TIMEOUT_S):
            fingerprint: str = (await status).fingerprint
            return fingerprint
    finally:
        status.cancel()
