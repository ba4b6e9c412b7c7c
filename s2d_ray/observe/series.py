"""Every series that dashboards and alerts may ask for: the metric table's and Ray's own.

Ray adds labels such as `NodeAddress` and `SessionName` to all of them, Serve `deployment`,
`application` and `replica`, and Prometheus' operator `namespace`. Only labels that are of use are
listed: `replica` for what replicas of targets tell.
"""

from __future__ import annotations

from dataclasses import dataclass

from s2d_ray.observe.metric_table import METRICS, Kind, Teller

NODE = ("ip",)
GPU = ("ip", "GpuIndex")


@dataclass(frozen=True)
class Series:
    """One metric as Prometheus sees it. name: of a histogram, the part before `_bucket`."""

    name: str
    kind: Kind
    labels: tuple[str, ...]


OF_RAY = (
    Series("ray_serve_deployment_replica_starts_total", Kind.COUNTER, ("application",)),
    Series("ray_serve_autoscaling_target_replicas", Kind.GAUGE, ("application",)),
    Series("ray_node_cpu_utilization", Kind.GAUGE, NODE),
    Series("ray_node_mem_used", Kind.GAUGE, NODE),
    Series("ray_node_mem_total", Kind.GAUGE, NODE),
    Series("ray_node_disk_utilization_percentage", Kind.GAUGE, NODE),
    Series("ray_component_cpu_percentage", Kind.GAUGE, ("ip", "Component")),
    Series("ray_component_rss_bytes", Kind.GAUGE, ("ip", "Component")),
)
"""Ray's own; a test finds them in a recorded page of Ray's exporter."""

OF_RAY_ON_GPUS = (
    Series("ray_node_gpus_utilization", Kind.GAUGE, GPU),
    Series("ray_node_gram_used", Kind.GAUGE, GPU),
    Series("ray_node_gram_available", Kind.GAUGE, GPU),
)
"""Ray's own where there is a GPU. Named after Ray's source; no machine with a GPU has run this."""

OF_THE_TABLE = tuple(
    Series(
        metric.exported,
        metric.kind,
        (*metric.labels, "replica") if metric.teller is Teller.TARGET else metric.labels,
    )
    for metric in METRICS
)

_EXPORTED = {metric.name: metric.exported for metric in METRICS}
_BY_NAME = {series.name: series for series in (*OF_THE_TABLE, *OF_RAY, *OF_RAY_ON_GPUS)}


def series(name: str) -> Series:
    """By the table's name, or another one's full name. Raises KeyError for any other."""
    return _BY_NAME[_EXPORTED.get(name, name)]
