"""What there is, and how much of it is used: replicas, processors, memory, GPUs."""

from __future__ import annotations

from dataclasses import replace

from s2d_ray.observe.panels import Dashboard, Panel, Row, Variable, graph, stack
from s2d_ray.observe.promql import Scope

SCOPE = Scope(("target",))
BY_TARGET = "{{target}}"
BY_NODE = "{{ip}}"
TARGETS = 'application=~"target-.+"'


def _of_application(expr: str) -> str:
    """The label `target` from Serve's `application`, `target-NAME`."""
    return f'label_replace({expr}, "target", "$1", "application", "target-(.+)")'


def _of_process(metric: str) -> str:
    """Added up by process: Ray's name of one has the method that runs in it at its end."""
    process = f'label_replace({SCOPE.select(metric, PROCESSES)}, "process", "$1", "Component", '
    process += '"ray::([^:.]+).*")'
    replica = f'label_replace({process}, "process", "$1", "Component", '
    replica += '"ray::ServeReplica:(.+):[^:.]+([.].*)?")'
    return f"sum by (process) ({replica})"


PROCESSES = 'Component=~"ray::(ServeReplica|DraftActor|ServeController|ProxyActor).*"'
KV_USED, KV_TOTAL = (
    SCOPE.now("kv_tokens", "target", f'state="{state}"') for state in ("used", "total")
)


def _unchecked(panel: Panel) -> Panel:
    return replace(panel, unchecked=True, text=f"{panel.text} Unchecked: no GPU has told it yet.")


REPLICAS = Row(
    "Replicas",
    (
        graph(
            "Running and wanted",
            "Replicas that run and that Serve aims at; apart for long means no room or no start.",
            "none",
            (SCOPE.now("replicas", "target", how="max"), "{{target}} running"),
            (
                _of_application(
                    "max by (application) "
                    f"({SCOPE.select('ray_serve_autoscaling_target_replicas', TARGETS)})"
                ),
                "{{target}} wanted",
            ),
        ),
        graph(
            "Starts in half an hour",
            "Replicas that were started; more than scaling and updates explain is flapping.",
            "none",
            (
                _of_application(
                    SCOPE.events(
                        "ray_serve_deployment_replica_starts_total", "application", TARGETS, "30m"
                    )
                ),
                BY_TARGET,
            ),
        ),
        graph(
            "Queue depth of a replica",
            "Running and waiting sequences, a mean over replicas; what scaling goes by.",
            "none",
            (
                f"{SCOPE.now('queue_depth', 'target')} / "
                f"({SCOPE.now('replicas', 'target', how='max')} > 0)",
                BY_TARGET,
            ),
        ),
        graph(
            "Outstanding tokens of a replica",
            "Tokens that are still to come, a mean over replicas; scaling by tokens goes by this.",
            "none",
            (
                f"{SCOPE.now('outstanding_tokens', 'target')} / "
                f"({SCOPE.now('replicas', 'target', how='max')} > 0)",
                BY_TARGET,
            ),
        ),
        graph(
            "Slots for keys and values in use",
            "Share over all replicas of a target; near 1 more replicas or memory are needed.",
            "percentunit",
            (f"{KV_USED} / ({KV_TOTAL} > 0)", BY_TARGET),
        ),
        graph(
            "Load of the draft",
            "Share of the time in forwards; it cannot be scaled, so near 1 targets decode plainly.",
            "percentunit",
            (SCOPE.rate("draft_busy_seconds"), "draft"),
        ),
    ),
)

MACHINES = Row(
    "Machines",
    (
        graph(
            "Processors of nodes",
            "Share of each Ray node's processors in use, by everything on it.",
            "percent",
            (SCOPE.now("ray_node_cpu_utilization", "ip", how="max"), BY_NODE),
        ),
        graph(
            "Memory of nodes",
            "Share of each Ray node's memory in use; near 1 the kernel ends processes.",
            "percentunit",
            (
                f"{SCOPE.now('ray_node_mem_used', 'ip', how='max')} / "
                f"({SCOPE.now('ray_node_mem_total', 'ip', how='max')} > 0)",
                BY_NODE,
            ),
        ),
        graph(
            "Disks of nodes",
            "Share of each node's disk in use; models and logs lie there.",
            "percent",
            (SCOPE.now("ray_node_disk_utilization_percentage", "ip", how="max"), BY_NODE),
        ),
        stack(
            "Processor time of processes",
            "In percent of one core, added up over replicas; who uses the machines.",
            "percent",
            (_of_process("ray_component_cpu_percentage"), "{{process}}"),
        ),
        stack(
            "Memory of processes",
            "Resident bytes, added up over replicas; a line that only rises is a leak.",
            "bytes",
            (_of_process("ray_component_rss_bytes"), "{{process}}"),
        ),
    ),
)

GPU_USED, GPU_FREE = (
    SCOPE.now(f"ray_node_gram_{state}", "ip GpuIndex") for state in ("used", "available")
)
GPUS = Row(
    "GPUs",
    (
        _unchecked(
            graph(
                "GPUs",
                "Share of the time in which a GPU had work.",
                "percent",
                (SCOPE.now("ray_node_gpus_utilization", "ip GpuIndex"), "{{ip}} {{GpuIndex}}"),
            )
        ),
        _unchecked(
            graph(
                "Memory of GPUs",
                "Share of a GPU's memory in use; weights and slots are taken at the start.",
                "percentunit",
                (f"{GPU_USED} / ({GPU_USED} + {GPU_FREE} > 0)", "{{ip}} {{GpuIndex}}"),
            )
        ),
    ),
)

DASHBOARD = Dashboard(
    "capacity",
    "s2d-ray: capacity",
    "What there is, and how much of it is used.",
    (Variable("target", "replicas"),),
    (REPLICAS, MACHINES, GPUS),
)
