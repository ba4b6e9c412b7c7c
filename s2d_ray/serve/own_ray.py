"""A Ray of our own on this machine: its folder, what its processes must have alike, its start.

Ray is imported only after the environment is set, since it reads its variables at import.
"""

from __future__ import annotations

import logging
import os
import secrets
import tempfile
from pathlib import Path

from s2d_ray.core.cores import usable_cores
from s2d_ray.errors import RunError
from s2d_ray.serve import run_file

LOGICAL_CPUS = 16
"""What Ray hands out by count; the engines share the real ones by themselves (design D8)."""
OBJECT_STORE_BYTES = 100 * 2**20
LONGEST_SOCKET_PATH = 107
SOCKET_BELOW_TEMP = "/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
ENVIRONMENT = {
    "OMP_WAIT_POLICY": "PASSIVE",
    "RAY_SERVE_HANDLE_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "2",
    "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "2",
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""What every process of a cluster has alike, on one machine or on Kubernetes."""


def make_temp_dir() -> Path:
    """A private folder, short enough for the Unix sockets that Ray puts in it."""
    folder = tempfile.mkdtemp(prefix=run_file.TEMP_PREFIX)
    if len(folder + SOCKET_BELOW_TEMP) > LONGEST_SOCKET_PATH:
        os.rmdir(folder)
        room = LONGEST_SOCKET_PATH - len(SOCKET_BELOW_TEMP) - len(Path(folder).name) - 1
        raise RunError(
            f"the folder for temporary files has too long a name for Ray's sockets; "
            f"set TMPDIR to one of at most {room} characters"
        )
    return Path(folder)


def set_environment(temp_dir: Path) -> None:
    """Set variables for Ray and all processes below, with a token that only this run knows."""
    token_path = temp_dir / "token"
    descriptor = os.open(token_path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(secrets.token_hex(32))
    # The first would join another Ray, the second would be read in place of our file.
    for name in ("RAY_ADDRESS", "RAY_AUTH_TOKEN"):
        os.environ.pop(name, None)
    os.environ |= {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token_path),
        "RAY_SERVE_LOG_TO_STDERR": "0",
        # In Serve's own 5 s a busy machine does not bring the proxy up; it would be killed.
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
        # Left unset, Ray makes it 1 for every actor that asks for less than two CPUs.
        "OMP_NUM_THREADS": str(usable_cores()),
    }
    os.environ |= ENVIRONMENT


def start_ray(temp_dir: Path, labels: dict[str, str]) -> None:
    """Start a Ray of our own, its one node with these labels; never join another."""
    import ray
    import ray.serve

    logging.getLogger("ray.serve").setLevel(logging.WARNING)  # its import sets another
    try:
        ray.init(
            address="local",
            include_dashboard=False,
            num_cpus=LOGICAL_CPUS,
            labels=labels,
            object_store_memory=OBJECT_STORE_BYTES,
            log_to_driver=False,
            configure_logging=False,
            _node_ip_address="127.0.0.1",  # else Ray's own ports listen on the network
            _temp_dir=str(temp_dir),
        )
    except Exception as error:
        raise RunError(f"Ray did not start: {str(error).splitlines()[0]}") from error
