"""Ports for servers that cannot be handed a socket."""

from __future__ import annotations

import secrets
import socket

FIRST, LAST = 20_000, 32_000
"""Below the ports that the kernel gives to connections, behind those of Ray's workers."""


def free_port() -> int:
    """A port that nobody listens at, and that no connection gets before its server starts."""
    while True:
        port = FIRST + secrets.randbelow(LAST - FIRST)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
