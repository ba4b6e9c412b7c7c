"""`make soak`: random traffic through two targets and a draft, compared with plain runs.

The same seed makes the same requests; which of them share a forward depends on the machine.
"""

from __future__ import annotations

import argparse

import psutil

from tests.soaking import check_empty, service, soak

GROWTH_BYTES = 64 * 2**20
SLICE_S = 30.0


def main() -> None:
    """Parse the command line and run, a line every half minute."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    process = psutil.Process()
    with service() as running:
        first_bytes = 0
        for number in range(max(1, round(options.seconds / SLICE_S))):
            counts = soak(running, min(SLICE_S, options.seconds), options.seed + number)
            now_bytes = process.memory_info().rss
            first_bytes = first_bytes or now_bytes
            shown = ", ".join(f"{name} {count:,}" for name, count in counts.items())
            print(f"{shown}; {now_bytes / 2**20:,.0f} MiB", flush=True)
        check_empty(running)
        grown = now_bytes - first_bytes
        assert grown < GROWTH_BYTES, f"memory grew by {grown / 2**20:,.0f} MiB"
        evicted = running.draft.counters["evicted_sessions"]
        moves = running.targets[-1].batch.counters
        print(
            f"all texts as in a plain run; nothing left; {evicted:,} draft sessions evicted, "
            f"{moves['preemptions']:,} preemptions, {moves['relocations']:,} relocations"
        )


if __name__ == "__main__":
    main()
