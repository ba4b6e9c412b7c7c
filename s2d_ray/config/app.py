"""The root of the tree, and how a file of it is read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, Literal

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from s2d_ray.config.control import ControlConfig
from s2d_ray.config.draft import DraftConfig
from s2d_ray.config.http import HttpConfig
from s2d_ray.config.plan import PlanConfig
from s2d_ray.config.prices import PricesConfig
from s2d_ray.config.routing import RoutingConfig
from s2d_ray.config.section import Section, parse_section
from s2d_ray.config.target import TARGET_NAME, TARGET_NAME_IN_WORDS, TargetConfig
from s2d_ray.config.telemetry import TelemetryConfig
from s2d_ray.config.tenancy import TenancyConfig
from s2d_ray.errors import ConfigError

CONFIG_VERSION: Final = 1


class AppConfig(Section):
    """The whole system: one HTTP edge, one draft or none, named targets, one default plan."""

    version: Literal[1] = Field(CONFIG_VERSION, description="Version of this format.")
    http: HttpConfig = Field(HttpConfig(), description="The HTTP edge.")
    plan: PlanConfig = Field(PlanConfig(), description="The plan of requests that name none.")
    draft: DraftConfig | None = Field(None, description="The shared draft; none: plain decoding.")
    targets: dict[str, TargetConfig] = Field(
        min_length=1, description="Targets by name; the name is the API's `model`."
    )
    tenancy: TenancyConfig | None = Field(
        None, description="Tenants; none: whoever asks is served."
    )
    routing: RoutingConfig | None = Field(
        None, description="`auto`, splits and the plan table; none: requests name their target."
    )
    control: ControlConfig = Field(
        ControlConfig(), description="What replicas may decide about speculation by themselves."
    )
    plans: str | None = Field(
        None,
        description="The plan file of `s2d calibrate`, for requests that no row of the plan table "
        "fits; watched.",
    )
    prices: PricesConfig | None = Field(
        None, description="What replicas cost, for `s2d advise`; none: it counts replica-hours."
    )

    telemetry: TelemetryConfig = Field(TelemetryConfig(), description="Logs and traces.")

    def models_at(self, place: str | None = None) -> list[str]:
        """Sources of all models, each once; with a place, those of a placement or of `draft`."""
        names = {
            target.model for target in self.targets.values() if place in (None, target.placement)
        }
        if self.draft is not None and self.draft.base is not None and place in (None, "draft"):
            names.add(self.draft.base)
        return sorted(names)

    @field_validator("targets")
    @classmethod
    def _names(cls, targets: dict[str, TargetConfig]) -> dict[str, TargetConfig]:
        for name in targets:
            if not re.fullmatch(TARGET_NAME, name):
                raise ValueError(f"target name {name!r} must be {TARGET_NAME_IN_WORDS}")
        return targets

    @model_validator(mode="after")
    def _routes_lead_somewhere(self) -> AppConfig:
        for trouble in self.routing.troubles(self.targets) if self.routing else ():
            raise PydanticCustomError("route", "{trouble}", {"trouble": trouble})
        return self

    @model_validator(mode="after")
    def _prices_are_of_something(self) -> AppConfig:
        for trouble in self.prices.troubles(self.targets) if self.prices else ():
            raise PydanticCustomError("price", "{trouble}", {"trouble": trouble})
        return self

    @model_validator(mode="after")
    def _loopback_or_keys(self) -> AppConfig:
        http = self.http
        if not (http.is_loopback or http.allow_unauthenticated or self.tenancy):
            raise PydanticCustomError(
                "open_host",
                "http.host: {host} can be reached from other machines, and the API asks nobody for "
                "a key; use 127.0.0.1, add tenancy, or set http.allow_unauthenticated: true",
                {"host": http.host},
            )
        return self


def parse_config(text: str, origin: str) -> AppConfig:
    """Parse YAML text. Raises ConfigError that names `origin`, the key and what is wrong."""
    return parse_section(AppConfig, text, origin)


def load_config(path: Path) -> AppConfig:
    """Read a config file. Raises ConfigError if it is missing or wrong."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    return parse_config(text, str(path))
