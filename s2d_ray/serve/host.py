"""What a process must settle before it loads torch, and where it runs."""

from __future__ import annotations

import gc
import os

import ray

from s2d_ray.core.cores import usable_cores


def settle_openmp(num_threads: int) -> int:
    """Set OpenMP up before torch is loaded: waiting threads must not burn the shared cores.

    num_threads 0 means all cores this process may use; Ray would otherwise set 1. -> threads.
    """
    cores = num_threads or usable_cores()
    os.environ["OMP_NUM_THREADS"] = str(cores)
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    return cores


def prepare_process(num_threads: int) -> None:
    """Load torch and the engines into a process, with its number of threads; see `settle_openmp`.

    What they make lives as long as the process does. So the garbage collector neither runs
    meanwhile, which is a quarter of the time they take, nor looks at it later.
    """
    cores = settle_openmp(num_threads)
    gc.disable()
    try:
        import torch

        import s2d_ray.engine.assemble  # noqa: F401  (loads transformers)
    finally:
        gc.freeze()
        gc.enable()
    torch.set_num_threads(cores)


def node_id() -> str:
    """Ray's id of the node this process runs on."""
    return str(ray.get_runtime_context().get_node_id())
