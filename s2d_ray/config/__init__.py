"""The one config tree. Every YAML file, Helm value and command parses into `AppConfig`.

Frozen, unknown keys refused, units in names. Loads no torch and no Ray. One module per section;
the rest of the package imports what they define from here.
"""

from s2d_ray.config.app import AppConfig, load_config, parse_config
from s2d_ray.config.control import ControlConfig
from s2d_ray.config.draft import DraftConfig
from s2d_ray.config.engine import Device, EngineConfig, Precision
from s2d_ray.config.http import CLOSING_S, HttpConfig
from s2d_ray.config.plan import MAX_PROPOSAL, MAX_TREE_WIDTH, PlanConfig, Probability
from s2d_ray.config.prices import PricesConfig
from s2d_ray.config.routing import PlanRow, RoutedTarget, RoutingConfig
from s2d_ray.config.scaling import BY_REQUESTS, BY_TOKENS, PUSH_INTERVAL_S, AutoscalingConfig
from s2d_ray.config.section import Section, as_written, check_section, parse_section
from s2d_ray.config.target import PLACEMENT_NAME, SPARE_REQUESTS, SURGE_PERCENT, TargetConfig
from s2d_ray.config.telemetry import LogFormat, TelemetryConfig, Traces
from s2d_ray.config.tenancy import TenancyConfig

__all__ = [
    "AppConfig",
    "AutoscalingConfig",
    "BY_REQUESTS",
    "BY_TOKENS",
    "CLOSING_S",
    "Device",
    "ControlConfig",
    "DraftConfig",
    "EngineConfig",
    "HttpConfig",
    "LogFormat",
    "MAX_PROPOSAL",
    "MAX_TREE_WIDTH",
    "PLACEMENT_NAME",
    "PUSH_INTERVAL_S",
    "PlanConfig",
    "PlanRow",
    "Precision",
    "PricesConfig",
    "Probability",
    "RoutedTarget",
    "RoutingConfig",
    "SPARE_REQUESTS",
    "SURGE_PERCENT",
    "Section",
    "TargetConfig",
    "TelemetryConfig",
    "TenancyConfig",
    "Traces",
    "as_written",
    "check_section",
    "load_config",
    "parse_config",
    "parse_section",
]
