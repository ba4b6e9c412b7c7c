"""One draft actor in a Ray of its own, without Serve, called as target replicas call it.

For benchmarks: what a call to another process costs, against the same draft in this one.
"""

from __future__ import annotations

import contextlib
import io
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from s2d_ray.config import DraftConfig, as_written
from s2d_ray.engine.draft_client import Send
from s2d_ray.serve import own_ray


@contextmanager
def own_environment() -> Iterator[Path]:
    """Set what torch and Ray read when they are loaded. -> a folder for Ray, removed at the end."""
    temp_dir = own_ray.make_temp_dir()
    try:
        own_ray.set_environment(temp_dir)
        yield temp_dir
    finally:
        shutil.rmtree(temp_dir, ignore_errors=True)


@contextmanager
def lone_draft(config: DraftConfig, num_gpus: int, temp_dir: Path) -> Iterator[Send]:
    """Start Ray and the draft actor; -> how to send it calls. Both end with the context."""
    import ray

    from s2d_ray.serve.apps import create_draft_actor
    from s2d_ray.serve.link import sender
    from s2d_ray.serve.places import DRAFT, label_of

    try:
        own_ray.start_ray(temp_dir, label_of(DRAFT))
        actor = create_draft_actor(as_written(config), num_gpus, {})
        ray.get(actor.health.remote(), timeout=config.start_timeout_s)
        yield sender(actor)
    finally:
        # Ray prints the ends that we ask for as failures of tasks.
        with contextlib.redirect_stdout(io.StringIO()):
            ray.shutdown()
