"""Tenants, and what is kept of them."""

from __future__ import annotations

from pydantic import Field

from s2d_ray.config.section import Section


class TenancyConfig(Section):
    """Tenants, and what is kept of them. Without this section nobody is asked for a key."""

    file: str = Field(description="The tenants file, kept by `s2d tenant`; watched.")
    state_dir: str = Field(description="Folder for usage, audit log and the ledger's snapshot.")
    max_wait_s: float = Field(
        60.0, gt=0, description="A request that waits longer for its turn gets 503."
    )
    max_waiting_bytes: int = Field(
        64 * 2**20, ge=1024, description="Bodies of waiting requests, all together; more get 503."
    )
    local_texts: int = Field(
        0, ge=0, le=64, description="Texts each router runs by itself without a ledger; 0: 503."
    )
    usage_to_stdout: bool = Field(False, description="Print each usage record as well.")
