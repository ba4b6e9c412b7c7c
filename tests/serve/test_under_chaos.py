"""A minute of chaos (`tests.chaos`) on the shared service; the last test that uses it.

The raylet that is killed was added for it: the shared one carries Serve's controller and the proxy.
"""

from __future__ import annotations

from s2d_ray.serve import deploy
from s2d_ray.serve.places import ROUTER, label_of
from tests.chaos_faults import Kind, Site
from tests.chaos_run import Chaos, judge, recoveries, table
from tests.chaos_streams import Load, asks_of
from tests.serve.cluster import add_raylet
from tests.serve.service import PLACEMENT, TARGETS, Service

SECONDS = 60.0
SEED = 1
NUM_STREAMS = 16
MAX_TOKENS = 20


def test_in_a_minute_of_chaos_no_text_changes_and_no_request_is_lost(service: Service) -> None:
    """Every fault strikes once at least, with sixteen open streams of two targets."""
    target = service.config.targets[TARGETS[0]].model_copy(update={"num_replicas": 2})
    http = service.config.http.model_copy(update={"num_routers": 2})
    targets = {**service.config.targets, TARGETS[0]: target}
    config = service.config.model_copy(update={"targets": targets, "http": http})
    raylet = {**label_of(ROUTER), **label_of(PLACEMENT)}
    add_raylet(service.cluster, raylet)
    deploy.deploy(config)
    site = Site(config, service.url, service.cluster, raylet)
    service.wait_until(site.is_all_whole, "a second replica and a second router")
    load = Load(service.url, asks_of(TARGETS, NUM_STREAMS, MAX_TOKENS))
    load.write_undisturbed()
    chaos = Chaos(site, load, SEED)
    chaos.run(SECONDS, NUM_STREAMS)
    verdict = judge(load.done, chaos.faults)
    print("\n".join([*table(recoveries(load.done, chaos.faults)), *verdict.lines()]))
    assert {fault.kind for fault in chaos.faults} == set(Kind)
    assert verdict.holds
    assert chaos.num_failovers > 0
