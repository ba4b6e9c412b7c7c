"""How tests are dealt out to processes that run beside each other, as `make test` has them."""

from __future__ import annotations

from xdist.scheduler import LoadScopeScheduling

STARTS_A_RAY = ("tests/serve/", "tests/e2e/test_command_line.py", "tests/e2e/test_lone_draft.py")


class ByFile(LoadScopeScheduling):
    """A file's tests stay in one process, since they share what they set up.

    All that start a Ray stay in one, the first: a cluster is as much as a machine bears, and these
    tests take the longest.
    """

    def _split_scope(self, nodeid: str) -> str:
        return "ray" if nodeid.startswith(STARTS_A_RAY) else nodeid.partition("::")[0]
