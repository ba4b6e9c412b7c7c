"""`make fuzz`: the API on a tiny random model against thousands of right and wrong requests.

The same seed makes the same requests. Stops at the first server error, or at an answer that is not
as the published document says.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from tests.fuzzing import check_health, run_malformed, run_schema
from tests.local_backend import tiny_service


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=2_000, help="made from the document")
    parser.add_argument("--malformed", type=int, default=10_000, help="broken requests")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, tiny_service(Path(folder)) as url:
        statuses = run_schema(url, options.cases, options.seed)
        check_health(url)
        print(f"{statuses.total()} cases by the document: {_shown(statuses)}", flush=True)
        statuses = run_malformed(url, options.malformed, options.seed)
        check_health(url)
        print(f"{statuses.total()} malformed requests: {_shown(statuses)}", flush=True)


def _shown(statuses: dict[int, int]) -> str:
    return ", ".join(f"{status}: {count}" for status, count in sorted(statuses.items()))


if __name__ == "__main__":
    main()
