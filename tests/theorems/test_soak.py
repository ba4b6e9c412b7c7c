"""A short form of `make soak`: random traffic changes no text and leaves nothing."""

from __future__ import annotations

from tests.soaking import check_empty, service, soak


def test_random_traffic_changes_no_text_and_leaves_nothing() -> None:
    """Aborts, evictions, preemptions, both tiers, trees and all features, on two targets."""
    with service() as running:
        counts = soak(running, seconds=30.0, seed=1)
        check_empty(running)
        assert counts["texts"] > 15
        assert counts["accepted"] > 0
        assert running.draft.counters["evicted_sessions"] > 0
        assert running.draft.counters["steps_of_several_replicas"] > 0
        batches = [target.batch.counters for target in running.targets]
        assert all(batch["aborted"] > 0 for batch in batches)
        assert sum(batch["tier0_accepted"] for batch in batches) > 0
        assert sum(batch["prefix_hits"] for batch in batches) > 0
        assert sum(batch["tree_proposals"] for batch in batches) > 0
        tight = batches[-1]
        for name in ("preemptions", "relocations", "recomputed_tokens", "prefix_evictions"):
            assert tight[name] > 0, name
