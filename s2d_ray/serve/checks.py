"""What can be known to be wrong before any replica starts. Loads no torch and starts no Ray."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from s2d_ray.config import (
    AppConfig,
    DraftConfig,
    PlanConfig,
    TargetConfig,
    TelemetryConfig,
    TenancyConfig,
    Traces,
)
from s2d_ray.errors import S2DError
from s2d_ray.models import draft_files, sources, text
from s2d_ray.models.kv_budget import LEAST_TOKENS, TokenSize, shortage
from s2d_ray.models.lineage import hash_of_weights
from s2d_ray.plan_file import load_plan_file
from s2d_ray.serve.tracing import OTLP_PACKAGE, has_otlp
from s2d_ray.tenants import load_tenants


def check_config(config: AppConfig) -> list[str]:
    """Everything wrong with a config and the models it names, one line each; empty if all is well.

    A model that is not downloaded yet is checked once it is: `s2d serve` checks again then.
    """
    troubles = _telemetry_troubles(config.telemetry)
    fingerprints: dict[str, str] = {}
    for name, target in config.targets.items():
        try:
            folder = sources.find(target.model)
            if folder is not None:
                fingerprints[name] = text.fingerprint_of(folder)
                troubles += _target_troubles(name, target, _model_config(folder))
        except S2DError as error:
            troubles.append(f"targets.{name}.model: {error.message}")
    if config.tenancy is not None:
        troubles += _tenancy_troubles(config, config.tenancy)
    if config.plans is not None:
        troubles += _plan_troubles(config, Path(config.plans))
    if config.draft is not None:
        try:
            troubles += _draft_troubles(config, config.draft, fingerprints)
        except S2DError as error:
            troubles.append(f"draft: {error.message}")
    return troubles


def _telemetry_troubles(telemetry: TelemetryConfig) -> list[str]:
    """Whether spans can go where they shall."""
    if telemetry.traces is Traces.OTLP and not has_otlp():
        return [f"telemetry.traces: otlp needs the package {OTLP_PACKAGE}: pip install it"]
    return []


def _tenancy_troubles(config: AppConfig, tenancy: TenancyConfig) -> list[str]:
    try:
        tenants = load_tenants(Path(tenancy.file)).tenants
    except S2DError as error:
        return [f"tenancy.file: {line}" for line in error.message.splitlines()]
    return [
        f"tenancy.file: {tenancy.file}: tenants.{name}.targets: there is no target {target!r}"
        for name, tenant in tenants.items()
        for target in tenant.targets or ()
        if target not in config.targets
    ]


def _plan_troubles(config: AppConfig, path: Path) -> list[str]:
    """Whether the plan file is for these targets and this draft, and for its weights if known."""
    try:
        plans = load_plan_file(path)
    except S2DError as error:
        return [f"plans: {line}" for line in error.message.splitlines()]
    troubles = [f"plans: {path}: {trouble}" for trouble in plans.troubles(config)]
    if not troubles and config.draft is not None and config.draft.checkpoint is not None:
        folder = draft_files.draft_folder(config.draft)
        if folder.exists() and hash_of_weights(folder) != plans.draft.weights:
            troubles.append(f"plans: {path}: made for other weights of the draft; calibrate again")
    return troubles


def _target_troubles(name: str, target: TargetConfig, model: dict[str, Any]) -> list[str]:
    troubles = []
    limit = model.get("max_position_embeddings", target.max_context)
    if target.max_context > limit:
        troubles.append(f"max_context: {target.max_context} is more than the model's {limit}")
    try:
        token_bytes = TokenSize.of(model).num_bytes(target.precision)
    except KeyError:  # filled in by the family's code; the replica checks again
        token_bytes = 0
    num_tokens = max(target.max_context, LEAST_TOKENS)
    if token_bytes and (short := shortage(target.kv_cache_mib, token_bytes, num_tokens)):
        troubles.append(f"kv_cache_mib: {short}")
    return [f"targets.{name}.{trouble}" for trouble in troubles]


def _draft_troubles(
    config: AppConfig, draft: DraftConfig, fingerprints: dict[str, str]
) -> list[str]:
    exit_layers, tokenizer = draft.exit_layers, None
    if draft.base is not None:
        folder = sources.find(draft.base)
        if folder is not None:
            tokenizer = text.fingerprint_of(folder)
            num_layers = _model_config(folder).get("num_hidden_layers", exit_layers[-1])
            if exit_layers[-1] > num_layers:
                return [
                    f"draft.exit_layers: {exit_layers[-1]} is more than the {num_layers} layers "
                    f"of {draft.base}"
                ]
    else:
        card = draft_files.read_card(draft_files.draft_folder(draft))
        exit_layers, tokenizer = card.exit_layers, card.tokenizer
    troubles = [
        f"draft: its tokenizer is not that of target {name}; ids would mean other texts"
        for name, fingerprint in fingerprints.items()
        if tokenizer is not None and fingerprint != tokenizer
    ]
    for where, plan in _plans(config).items():
        if len(plan.exit_thresholds) > len(exit_layers) - 1:
            troubles.append(
                f"{where}.exit_thresholds: {len(plan.exit_thresholds)} thresholds for "
                f"{len(exit_layers)} exits; give at most {len(exit_layers) - 1}"
            )
    return troubles


def _plans(config: AppConfig) -> dict[str, PlanConfig]:
    """All plans that name exit thresholds, by their keys; of the default ones a draft takes what
    it has exits for.
    """
    rows = config.routing.plans if config.routing else ()
    plans = {"plan": config.plan}
    plans |= {f"routing.plans.{number}.plan": row.plan for number, row in enumerate(rows)}
    return {key: plan for key, plan in plans.items() if "exit_thresholds" in plan.model_fields_set}


def _model_config(folder: Path) -> dict[str, Any]:
    """config.json of a checkpoint whose family this project serves."""
    from s2d_ray.models.families import check_family

    fields: dict[str, Any] = json.loads((folder / "config.json").read_text())
    check_family(fields, str(folder))
    return fields
