"""The models that a caller sees: targets, and names that stand for a choice among some."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from s2d_ray.errors import Forbidden, UnknownModel
from s2d_ray.policy.keys import Caller
from s2d_ray.policy.routing import plan_of
from s2d_ray.serve.backend import Backend


class Catalogue:
    """What `model` may say now. caller: None where nobody is asked for a key."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def all(self, caller: Caller | None) -> list[dict[str, Any]]:
        """All models of `GET /v1/models`, targets first."""
        routes = self._routes(caller).items()
        return [
            *(self._target_body(name) for name in self._targets(caller)),
            *(_route_body(name, targets) for name, targets in routes),
        ]

    def one(self, name: str, caller: Caller | None) -> dict[str, Any]:
        """One model. Raises UnknownModel or Forbidden."""
        self.check(name, caller)
        if name in self._backend.targets():
            return self._target_body(name)
        return _route_body(name, self._routes(caller)[name])

    def check(self, name: str, caller: Caller | None) -> None:
        """Raise UnknownModel or Forbidden unless the caller may ask for this model."""
        if name in self._backend.targets():
            self.check_target(name, caller)
        elif name not in self._backend.routing().names():
            raise _unknown(name, [*self._targets(caller), *self._routes(caller)])
        elif caller is not None:
            caller.check_tenant()
            if name not in self._routes(caller):
                message = f"This key may use no target of {name!r}"
                raise Forbidden(message, "model", "model_not_allowed")

    def check_target(self, name: str, caller: Caller | None) -> None:
        """Raise UnknownModel or Forbidden unless this is a target that the caller may use."""
        if name not in self._backend.targets():
            raise _unknown(name, self._targets(caller))
        if caller is not None:
            caller.check_target(name)

    def _targets(self, caller: Caller | None) -> list[str]:
        """The targets that the caller may use."""
        allowed = None if caller is None else caller.targets
        return [name for name in self._backend.targets() if allowed is None or name in allowed]

    def _routes(self, caller: Caller | None) -> dict[str, list[str]]:
        """Names that stand for a choice -> those targets of it that the caller may use."""
        mine = self._targets(caller)
        routes = self._backend.routing().names().items()
        found = {route: [name for name in names if name in mine] for route, names in routes}
        return {route: names for route, names in found.items() if names}

    def _target_body(self, name: str) -> dict[str, Any]:
        info, routing = self._backend.targets()[name], self._backend.routing()
        _, plan = plan_of(routing.rules, name) or (0, routing.plan)
        facts = {"model": info.model, "max_context": info.max_context, "plan": asdict(plan)}
        return _body(name, info.created, facts)


def _route_body(name: str, targets: list[str]) -> dict[str, Any]:
    return _body(name, 0, {"chooses_among": targets})


def _body(name: str, created: int, facts: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "s2d-ray",
        "s2d": facts,
    }


def _unknown(name: str, names: list[str]) -> UnknownModel:
    message = f"No model named {name!r}; this server has: {', '.join(names) or 'none'}"
    return UnknownModel(message, "model", "model_not_found")
