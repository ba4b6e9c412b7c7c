"""A small plan file as plain values, and the config it is made for."""

from __future__ import annotations

from typing import Any

CONFIG = """
version: 1
draft: {base: /models/base, exit_layers: [2, 4], head_size: 512}
targets:
  small: {model: /models/a}
"""


def plan_file() -> dict[str, Any]:
    """For target `small`: classes chat (plain is best) and code."""
    costs = {
        "draft_ms": {"2": {"1": 1.0, "4": 1.5}, "4": {"1": 2.0, "4": 3.0}},
        "forward_ms": {"1": {"1": 10.0, "3": 12.0}, "4": {"1": 13.0, "3": 22.0}},
        "prefill_ms": {"64": 30.0},
        "hop_ms": 0.5,
        "origin": {"host": "h", "commit": "c", "date": "2026-11-28"},
    }
    plain = {
        "plan": {"exit_thresholds": [0.5], "max_proposal": 0, "min_match": 0},
        "committed": 1.0,
        "nodes": {"0": 1.0},
        "rounds": 40,
    }
    level = {"shares": {"2": 1.0, "4": 0.5}, "positions": {"2": 1.0, "4": 0.6}}
    sorted_plan = {
        "plan": {"exit_thresholds": [0.7], "max_proposal": 3, "min_match": 0},
        "committed": 2.0,
        "nodes": {"3": 1.0},
        "levels": [level, level, level],
        "rounds": 20,
    }
    knots = [
        {"confidence": 0.1, "chance": 0.2, "low": 0.1, "high": 0.3, "count": 10},
        {"confidence": 0.6, "chance": 0.8, "low": 0.7, "high": 0.9, "count": 12},
    ]
    acceptance = [{"drafted_by": 2, "temperature": 0.0, "depth": 0, "knots": knots}]
    return {
        "version": 1,
        "made": {"host": "h", "commit": "c", "date": "2026-11-28"},
        "draft": {
            "source": "/models/base exits 2,4 head 512",
            "exit_layers": [2, 4],
            "weights": "w",
        },
        "targets": {
            "small": {
                "model": "/models/a",
                "precision": "float32",
                "weights": "v",
                "costs": costs,
                "classes": {
                    "chat": {"candidates": [plain, sorted_plan], "acceptance": []},
                    "code": {"candidates": [sorted_plan, plain], "acceptance": acceptance},
                },
            }
        },
    }
