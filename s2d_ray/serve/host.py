"""What a process must settle before it loads torch, and where it runs."""

from __future__ import annotations

import os

import ray


def prepare_process(num_threads: int) -> None:
    """Set OpenMP up before torch is loaded: waiting threads must not burn the shared cores.

    num_threads 0 means all cores this process may use; Ray would otherwise set 1.
    """
    cores = num_threads or len(os.sched_getaffinity(0))
    os.environ["OMP_NUM_THREADS"] = str(cores)
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    import torch

    torch.set_num_threads(cores)


def node_id() -> str:
    """Ray's id of the node this process runs on."""
    return str(ray.get_runtime_context().get_node_id())
