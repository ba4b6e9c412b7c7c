"""One draft actor in a Ray of its own answers calls, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.tiny import tiny_checkpoint, whole_draft

ASK = """
import json, sys
from s2d_ray.config import DraftConfig
from s2d_ray.core.cascade import Plan
from s2d_ray.engine.protocol import EMPTY_DIGEST, ProposeCall, ProposeRow, extend_digest
from s2d_ray.serve.lone_draft import lone_draft, own_environment

ids = (5, 6, 7, 8)
row = ProposeRow("a", 0, ids, extend_digest(EMPTY_DIGEST, ids), 64, Plan(max_proposal=2), 1, 0.0)
with own_environment() as temp_dir:
    config = DraftConfig(checkpoint=sys.argv[1], num_threads=1)
    with lone_draft(config, 0, temp_dir) as send:
        reply = send(ProposeCall("here", 1, 60_000.0, (row,))).result(timeout=60)
print(json.dumps([str(temp_dir), reply.rows[0].status, len(reply.rows[0].tokens)]))
"""


def test_a_lone_draft_answers_and_its_folder_is_gone(tmp_path: Path) -> None:
    """In a process of its own, since a process has one Ray."""
    model = tiny_checkpoint(tmp_path / "base")
    whole_draft(tmp_path / "draft", model, (2, 4))
    unset = {"RAY_AUTH_MODE", "RAY_ADDRESS", "RAY_TMPDIR"}
    done = subprocess.run(
        [sys.executable, "-c", ASK, str(tmp_path / "draft")],
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
        env={name: value for name, value in os.environ.items() if name not in unset},
    )
    assert done.returncode == 0, done.stderr
    folder, status, num_tokens = json.loads(done.stdout.splitlines()[-1])
    assert (status, num_tokens) == ("ok", 2)
    assert not Path(folder).exists()
