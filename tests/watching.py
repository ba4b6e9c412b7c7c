"""`make watch`: does a real Prometheus get an answer to every query of every dashboard?

A service on tiny models runs on this machine, with tenants, and a Prometheus reads its /metrics by
the files of `s2d dashboards`. In the first part all is well, and no alert may fire. In the second
tenants are refused, clients leave, a replica and the draft are killed. The exit status is 1 if
a query of a panel that is not marked unchecked never had data, or an alert fired in the first part.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import transformers

from s2d_ray.bench.card import host_card
from s2d_ray.observe.pages import DASHBOARDS
from tests import chaos_faults
from tests.chaos_faults import Kind, NotNow
from tests.prometheus import Prometheus, concrete, watching
from tests.serve.cluster import deployed
from tests.watched import Clients, Site, watched_site

SCRAPE_S = 2
WINDOW_S = 60
LOOK_EVERY_S = 10.0
FAULTS = (Kind.TARGET_KILLED, Kind.DRAFT_KILLED)
TRIES = 60


@dataclass
class Seen:
    """What Prometheus has answered so far. first_s: of each query, when it had data, by its place.

    alerts: name and state, and when it was first seen in it.
    """

    prometheus: Prometheus
    start_s: float = field(default_factory=time.monotonic)
    first_s: dict[tuple[str, str, int], float] = field(default_factory=dict)
    alerts: dict[tuple[str, str], float] = field(default_factory=dict)

    def look(self) -> None:
        """Ask everything that has had no data yet, and for alerts."""
        now_s = time.monotonic() - self.start_s
        for place, expr, _ in queries():
            if place not in self.first_s and self.prometheus.query(concrete(expr, WINDOW_S)):
                self.first_s[place] = now_s
        for state in ("pending", "firing"):
            for name in self.prometheus.alerts(state):
                self.alerts.setdefault((name, state), now_s)

    def look_on(self, seconds: float) -> None:
        """Look again and again for so long."""
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            self.look()
            time.sleep(LOOK_EVERY_S)

    def silent(self) -> list[tuple[str, str, int]]:
        """Queries that should have had data and never had."""
        return [
            place for place, _, is_checked in queries() if is_checked and place not in self.first_s
        ]

    def firing(self) -> list[str]:
        """Alerts that have fired so far."""
        return sorted(name for name, state in self.alerts if state == "firing")

    def lines(self) -> list[str]:
        """For people, in Markdown."""
        lines = ["| page | panel | query | data after, s |", "|---|---|---|---|"]
        for place, _, is_checked in queries():
            first_s = self.first_s.get(place)
            told = "unchecked" if not is_checked else "**never**"
            told = f"{first_s:.0f}" if first_s is not None else told
            lines.append(f"| {place[0]} | {place[1]} | {place[2]} | {told} |")
        lines += ["", "| alert | state | first after, s |", "|---|---|---|"]
        for (name, state), at_s in sorted(self.alerts.items()):
            lines.append(f"| {name} | {state} | {at_s:.0f} |")
        return lines


def queries() -> Iterator[tuple[tuple[str, str, int], str, bool]]:
    """Place, expression, and whether data is expected, of each query of each dashboard."""
    for dashboard in DASHBOARDS:
        for row in dashboard.rows:
            for panel in row.panels:
                for index, query in enumerate(panel.queries):
                    place = (dashboard.name, f"{row.title}: {panel.title}", index)
                    yield place, query.expr, not panel.unchecked


def strike(kind: Kind, site: chaos_faults.Site) -> None:
    """Do it as soon as it can be done. Raises NotNow if that is never."""
    draw = random.Random(1)
    for _ in range(TRIES):
        try:
            site.strike(kind, draw)
            return
        except NotNow:
            time.sleep(1)
    raise NotNow(f"{kind}: never possible")


def watched(
    site: Site, faults: chaos_faults.Site, folder: Path, seconds: float, say: Callable[[str], None]
) -> tuple[Seen, list[str]]:
    """Both parts; -> what was seen, and the alerts that fired while all was well."""
    say("the service runs")
    clients = Clients(site)
    with (
        watching(site.url, folder, SCRAPE_S, site.root) as prometheus,
        clients.asking(),
    ):
        seen = Seen(prometheus)
        seen.look_on(seconds)
        early = seen.firing()
        say(f"all well for {seconds:.0f} s; answers {clients.statuses}; firing: {early or 'none'}")
        clients.is_rough = True
        for kind in FAULTS:
            strike(kind, faults)
            say(f"{kind}")
            seen.look_on(seconds / 2)
        say(f"answers {clients.statuses}")
    return seen, early


def main() -> None:
    """Parse the command line, deploy, watch, judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=2.0, help="of each of the two parts")
    parser.add_argument("--report", type=Path, help="file for the tables, in Markdown")
    options = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    # Ray's own 10 s would make the run so much longer.
    os.environ |= {"RAY_metrics_report_interval_ms": str(1_000 * SCRAPE_S)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        site = watched_site(folder)
        card = host_card(site.config)
        with deployed(site.config) as cluster:
            faults = chaos_faults.Site(site.config, site.url, cluster, {})
            seen, early = watched(site, faults, folder / "observe", 60 * options.minutes, say)
    head = [f"{key}: {value}" for key, value in card.items()]
    silent = seen.silent()
    say("\n".join(told := [*head, "", *seen.lines()]))
    if options.report is not None:
        options.report.write_text("\n".join(told) + "\n", encoding="utf-8")
    figures = {"num_queries": len(list(queries())), "silent": silent, "fired_early": early}
    say(json.dumps({**card, **figures, "holds": not silent and not early}))
    sys.exit(bool(silent or early))


def say(line: str) -> None:
    """Print a line at once."""
    print(line, flush=True)


if __name__ == "__main__":
    main()
