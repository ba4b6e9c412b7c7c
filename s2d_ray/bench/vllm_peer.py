"""Plain decoding beside vLLM on one CPU: float32, eager, texts one by one and eight at once.

vLLM is no dependency: it is run by a Python of its own, and the two take turns.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

from rich.console import Console

from s2d_ray.bench import engine_report, figures
from s2d_ray.bench.alternate import Case, Method, alternate
from s2d_ray.bench.card import host_card
from s2d_ray.bench.exact_writer import say
from s2d_ray.bench.figures import Sample, Written
from s2d_ray.bench.rig import MAX_BATCH, QUICK, WHOLE, Rig
from s2d_ray.config import load_config
from s2d_ray.engine.messages import Mode
from s2d_ray.errors import RunError, S2DError
from s2d_ray.models import sources

WRITER = Path(__file__).with_name("vllm_writer.py")
CROWD = 8
LONGEST = 512


class Peer:
    """vLLM in a process of its own as a `Method`. Raises RunError if it does not start or ends.

    log: takes all it prints.
    """

    def __init__(self, python: Path, folder: Path, log: IO[str]) -> None:
        self._log = log
        cores = sorted(os.sched_getaffinity(0))
        own = {
            "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, cores)),
            # Its scheduler in the same process: one of its own would spin while we are measured.
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_HOST_IP": "127.0.0.1",
            "VLLM_NO_USAGE_STATS": "1",
            "HF_HUB_OFFLINE": "1",
        }
        # How our threads wait is no business of another library's.
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("OMP_")}
        command = [str(python), "-I", str(WRITER), str(folder), str(LONGEST), str(MAX_BATCH)]
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=inherited | own,
            )
        except OSError as error:
            raise RunError(f"{python}: cannot be run: {error.strerror}") from None
        self.version: str = self._answer()

    def __call__(self, case: Case) -> Written:
        prompts = list(case.prompts)
        groups = [prompts] if case.concurrent else [[prompt] for prompt in prompts]
        order = json.dumps({"groups": groups, "num_tokens": case.num_tokens})
        assert self._process.stdin is not None
        print(order, file=self._process.stdin, flush=True)
        return Written(tuple(map(tuple, self._answer())))

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.communicate()
            self._log.seek(0)
            words = self._log.read().strip().rpartition("\n")[2] or "without a word"
            raise RunError(f"vLLM ended with {self._process.returncode}: {words}")
        return json.loads(line)

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()


def result(samples: Sequence[Sample]) -> dict[str, Any]:
    """Our speed over vLLM's by texts at once, and whether both wrote the same ids.

    They may differ: vLLM sums in another order, and near-ties flip.
    """
    found = {
        case: figures.ratio(samples, case, "plain", "vllm")
        for case in dict.fromkeys(each.case for each in samples)
    }
    return {
        "plain_vs_vllm": {case: each.rounded for case, each in found.items()},
        "spread": {case: each.ends for case, each in found.items()},
        "same_ids": not figures.differing(samples, ["vllm"], "plain"),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, measure, print card, table and one line of JSON. -> exit code."""
    parser = argparse.ArgumentParser(prog="s2d_ray.bench.vllm_peer", description=__doc__)
    parser.add_argument("--python", type=Path, required=True, help="of an environment with vLLM")
    parser.add_argument("--config", type=Path, default=Path("deployments/quickstart.yaml"))
    parser.add_argument("--quick", action="store_true", help="fewer and shorter texts")
    parser.add_argument("--seed", type=int, default=1, help="decides the order of the prompts")
    chosen = parser.parse_args(arguments)
    try:
        with ExitStack() as stack:
            scale = QUICK if chosen.quick else WHOLE
            rig = Rig(load_config(chosen.config), scale, chosen.seed, stack, say)
            say("starting vLLM")
            folder = sources.resolve(rig.target_config.model, report=say)
            peer = Peer(chosen.python, folder, stack.enter_context(TemporaryFile("w+")))
            stack.callback(peer.close)
            card = host_card(rig.config) | {"vllm": peer.version, "scale": str(scale)}
            for name, value in card.items():
                print(f"{name:<10} {value}", flush=True)
            methods: dict[str, Method] = {"plain": rig.first.ours(rig.plan, Mode.OFF), "vllm": peer}
            one = Case("1", rig.greedy().prompts, scale.num_tokens, chosen.seed)
            samples = alternate(methods, [one, rig.crowd(CROWD)], scale.num_runs, say)
    except S2DError as error:
        say(f"vllm_peer: {error.message}")
        return 2
    Console().print(engine_report.speed_table("beside vLLM", samples, "vllm"))
    print(json.dumps(result(samples) | {"card": card, "seed": chosen.seed}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
