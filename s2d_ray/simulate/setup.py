"""From the config and the options of the command to what is simulated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from s2d_ray.config import AppConfig, AutoscalingConfig, TargetConfig, TenancyConfig
from s2d_ray.core.cost_model import CostModel
from s2d_ray.errors import ConfigError
from s2d_ray.policy.ledger import Bounds
from s2d_ray.policy.limits import Limits
from s2d_ray.policy.scaling import ScaleBy, ScalingRule
from s2d_ray.simulate.autoscaler import Rhythm
from s2d_ray.simulate.costs import default_costs, load_costs
from s2d_ray.simulate.draft import SharedDraft
from s2d_ray.simulate.replica import Engine
from s2d_ray.simulate.service import Scaling, Service, Target
from s2d_ray.simulate.traces import Caps, Mix
from s2d_ray.tenants import load_tenants

MADE_UP_TENANTS = 4
NO_LIMITS = Limits(max_running=10**9, max_waiting=10**9)


def costs_of(config: AppConfig, given: Sequence[str]) -> dict[str, CostModel]:
    """Costs by target. given: files, of all targets, or TARGET=FILE. Raises ConfigError."""
    files = dict.fromkeys(config.targets, default_costs())
    for text in given:
        name, equals, path = text.rpartition("=")
        if not equals:
            files = dict.fromkeys(files, Path(path))
        elif name in files:
            files[name] = Path(path)
        else:
            raise ConfigError(f"--costs {text}: there is no target {name!r} in the config")
    loaded = {path: load_costs(path) for path in set(files.values())}
    return {name: loaded[path] for name, path in files.items()}


def tenants_of(config: AppConfig, count: int | None) -> dict[str, Limits]:
    """Those of the tenants file, or so many made-up ones without limits. Raises ConfigError."""
    if count is None and config.tenancy is not None:
        found = load_tenants(Path(config.tenancy.file)).limits()
        if not found:
            raise ConfigError(f"{config.tenancy.file}: no tenant in it; or give --tenants")
        return found
    count = MADE_UP_TENANTS if count is None else count
    return {f"tenant-{number}": NO_LIMITS for number in range(1, count + 1)}


def mix_of(config: AppConfig, tenants: Mapping[str, Limits]) -> Mix:
    """Whose requests a trace has, and how long they may be."""
    caps = {
        name: Caps(target.max_context, target.default_max_tokens)
        for name, target in config.targets.items()
    }
    return Mix(caps, list(tenants))


def service_of(
    config: AppConfig,
    tenants: Mapping[str, Limits],
    costs: Mapping[str, CostModel],
    *,
    start_s: float,
    acceptance: float,
    by: ScaleBy | None = None,
) -> Service:
    """The service of a config. by: counts load like this, whatever the config says."""
    tenancy = config.tenancy
    fields = TenancyConfig.model_fields
    max_wait_s = tenancy.max_wait_s if tenancy else fields["max_wait_s"].default
    max_bytes = tenancy.max_waiting_bytes if tenancy else fields["max_waiting_bytes"].default
    draft = None
    if config.draft is not None and config.plan.max_proposal and acceptance > 0:
        # The draft is one; its steps are those of the first target's file, to the shallowest exit.
        first = next(iter(costs.values()))
        step_s = partial(first.draft, first.layers[0])
        draft = partial(SharedDraft, config.plan.max_proposal, step_s, acceptance)
    return Service(
        {name: _target(target, costs[name], by) for name, target in config.targets.items()},
        tenants,
        Bounds(config.http.max_admitted, max_bytes),
        max_wait_s,
        start_s,
        draft,
    )


def _target(config: TargetConfig, costs: CostModel, by: ScaleBy | None) -> Target:
    engine = Engine(costs, config.max_batch, config.prefill_chunk)
    if config.autoscaling is None:
        return Target(engine, config.num_replicas)
    return Target(engine, config.autoscaling.min_replicas, _scaling(config, config.autoscaling, by))


def _scaling(config: TargetConfig, scaling: AutoscalingConfig, by: ScaleBy | None) -> Scaling:
    tokens = scaling.target_outstanding_tokens
    by = by or (ScaleBy.TOKENS if tokens else ScaleBy.REQUESTS)
    if by is ScaleBy.TOKENS:
        per_replica = float(tokens or config.max_batch * config.default_max_tokens)
    else:
        per_replica = scaling.carried_requests(config.max_batch)
    rhythm = Rhythm(
        scaling.look_back_period_s,
        scaling.upscale_delay_s,
        scaling.downscale_delay_s,
        scaling.downscale_to_zero_delay_s,
        scaling.upscaling_factor,
        scaling.downscaling_factor,
    )
    rule = ScalingRule(by, per_replica, scaling.min_replicas, scaling.max_replicas)
    return Scaling(rule, rhythm)
