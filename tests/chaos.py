"""`make chaos`: a service on three raylets loses its parts in a random order, beside open streams.

Every text is compared with the one that was written before the first fault. The claim: no text
changes, and no request is lost. A stream through a router that is killed breaks, and must be the
same text when it is asked for again with the seed that was returned; a 503 with retry-after before
the first token must be served when it is asked for again. The exit status is 1 if the claim fails.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import transformers

from s2d_ray.bench.card import host_card
from s2d_ray.config import AppConfig
from s2d_ray.models import draft_files, text
from s2d_ray.models.sorted_draft import cut_draft
from s2d_ray.serve.places import CONTROL, DRAFT, ROUTER, label_of
from tests.chaos_faults import Site
from tests.chaos_run import Chaos, judge, recoveries, table
from tests.chaos_streams import Load, asks_of
from tests.ports import free_port
from tests.serve.cluster import deployed
from tests.tiny import EOS, VOCAB_SIZE, tiny_checkpoint, tiny_decoder

PLACEMENT = "cpu"
TARGETS = ("left", "right")
LAYERS = 2
MAX_TOKENS = 96
NUM_ASKS = 48


def chaos_config(folder: Path) -> AppConfig:
    """Two tiny targets and two routers, two replicas each, and a draft that guesses well."""
    targets = {
        name: {
            "model": str(tiny_checkpoint(folder / name, layers=LAYERS, seed=seed)),
            "num_replicas": 2,
            "placement": PLACEMENT,
            "max_context": 512,
            "num_threads": 1,
        }
        for seed, name in enumerate(TARGETS)
    }
    draft = {"checkpoint": str(save_draft(folder)), "num_threads": 1, "health_timeout_s": 3.0}
    http = {"port": free_port(), "num_routers": 2}
    return AppConfig.model_validate(
        {"version": 1, "http": http, "draft": draft, "targets": targets}
    )


def save_draft(folder: Path) -> Path:
    """All layers of the first target: its guesses are right there, and few for the other one."""
    exits = tuple(range(1, LAYERS + 1))
    tokenizer = text.fingerprint_of(folder / TARGETS[0])
    card = draft_files.DraftCard(TARGETS[0], exits, VOCAB_SIZE, tokenizer, (EOS,))
    decoder = tiny_decoder(dtype=torch.float32, layers=LAYERS, seed=0)
    draft_files.write(folder / "draft", card, cut_draft(decoder, range(VOCAB_SIZE), exits))
    return folder / "draft"


def disturbed(site: Site, options: argparse.Namespace) -> dict[str, Any]:
    """One run. -> its figures, `holds` among them."""
    load = Load(site.url, asks_of(TARGETS, NUM_ASKS, MAX_TOKENS))
    while not site.is_all_whole():  # the draft may come later than the rest
        time.sleep(1)
    load.write_undisturbed()
    card = host_card(site.config)
    for name, value in card.items():
        say(f"{name}: {value}")
    say(f"{NUM_ASKS} undisturbed texts; now {options.streams} streams, seed {options.seed}")
    chaos = Chaos(site, load, options.seed, say)
    chaos.run(60 * options.minutes, options.streams)
    verdict, found = judge(load.done, chaos.faults), recoveries(load.done, chaos.faults)
    told = [
        *table(found),
        *verdict.lines(),
        f"{chaos.num_failovers} streams went on on another replica",
    ]
    say("\n".join(told))
    if options.report is not None:
        options.report.write_text("\n".join(told) + "\n", encoding="utf-8")
    return {
        **card,
        "seed": options.seed,
        "minutes": options.minutes,
        "streams": options.streams,
        **asdict(verdict),
        "num_failovers": chaos.num_failovers,
        "holds": verdict.holds,
        "recovery_s": [asdict(each) for each in found],
    }


def say(line: str) -> None:
    """Print a line, whatever becomes of what others print."""
    print(line, file=sys.__stdout__, flush=True)


def main() -> None:
    """Parse the command line, deploy, disturb, judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="faults begin for so long")
    parser.add_argument("--seed", type=int, default=1, help="of the order and choice of faults")
    parser.add_argument("--streams", type=int, default=16, help="requests open at a time")
    parser.add_argument("--report", type=Path, help="file for the table as well")
    options = parser.parse_args()
    worker = {**label_of(ROUTER), **label_of(DRAFT), **label_of(PLACEMENT)}
    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        config = chaos_config(Path(folder))
        with (
            # Ray prints at length what becomes of the raylets that are killed.
            contextlib.redirect_stdout(io.StringIO()),
            deployed(config, label_of(CONTROL), [worker, worker]) as cluster,
        ):
            url = f"http://{config.http.host}:{config.http.port}"
            site = Site(config, url, cluster, worker)
            figures = disturbed(site, options)
    say(json.dumps(figures))
    sys.exit(not figures["holds"])


if __name__ == "__main__":
    main()
