"""The HTTP edge: where it listens, and what it accepts."""

from __future__ import annotations

import ipaddress

from pydantic import Field

from s2d_ray.config.section import Section

CLOSING_S = 5
"""What a replica has to end beyond its longest request."""


class HttpConfig(Section):
    """Where the API listens and what it accepts."""

    allow_unauthenticated: bool = Field(
        False, description="Listen on other addresses than loopback, for whoever reaches them."
    )
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=1, le=65535, description="Port; `--port` overrides it.")
    max_body_bytes: int = Field(2 * 2**20, ge=1024, description="Larger bodies get 413.")
    max_open_requests: int = Field(256, ge=1, description="Serve's max_ongoing_requests.")
    max_request_s: int = Field(
        600, ge=1, description="Longest time of a request, waiting included; then it gets 503."
    )
    num_routers: int = Field(1, ge=1, description="Replicas of the router.")

    @property
    def drain_s(self) -> int:
        """How long a replica that is to end may go on with what it has."""
        return self.max_request_s + CLOSING_S

    @property
    def max_admitted(self) -> int:
        """Requests that the ledger takes: below what Serve does, so that the ledger refuses."""
        return max(1, self.max_open_requests * 7 // 8)

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the API."""
        return _is_loopback(self.host)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
