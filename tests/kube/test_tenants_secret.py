"""What is said of a change of the tenants file: names and ids, never what keys are made of."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from s2d_ray.errors import ConfigError
from s2d_ray.kube.tenants import KEY, changes, secret, tenants_in
from s2d_ray.tenants import TenantsFile, revoked, rotated, with_owner

NOW = datetime(2026, 11, 25, tzinfo=UTC)


def with_tenant(tenants: TenantsFile, name: str, **fields: Any) -> tuple[TenantsFile, str]:
    """With one more tenant and its key. -> (file, id of the key)"""
    changed = with_owner(tenants, name, fields, is_operator=False)
    changed, _ = rotated(changed, name, NOW, timedelta(0))
    return changed, changed.tenants[name].keys[-1].id


def test_tenants_limits_and_keys_that_come_go_and_change_are_told() -> None:
    before, first = with_tenant(TenantsFile(), "acme", tokens_per_minute=100, band=2)
    before, other = with_tenant(before, "gone")
    after = with_owner(before, "root", {}, is_operator=True)
    after, _ = rotated(after, "acme", NOW, timedelta(hours=1))
    second = after.tenants["acme"].keys[-1].id
    acme = after.tenants["acme"].model_copy(update={"tokens_per_minute": 200})
    after = after.model_copy(update={"tenants": {"acme": acme}})
    assert changes(before, after) == [
        "operator root comes",
        "tenant acme: tokens_per_minute 100 -> 200",
        *sorted(
            [
                f"tenant acme: key {first} changes, expires 2026-11-25T01:00:00+00:00",
                f"tenant acme: key {second} comes",
            ]
        ),
        "tenant gone goes, with 1 keys",
    ]
    assert changes(after, revoked(after, second)) == [f"tenant acme: key {second} changes, revoked"]
    assert changes(after, after) == []


def test_nothing_that_keys_are_made_of_is_told() -> None:
    before, _ = with_tenant(TenantsFile(), "acme")
    after, _ = with_tenant(before, "more", weight=2.0)
    told = "\n".join([*changes(before, after), *changes(after, before)])
    for tenant in after.tenants.values():
        for key in tenant.keys:
            assert key.salt not in told
            assert key.sha256 not in told


def test_a_secret_holds_the_whole_file() -> None:
    tenants, _ = with_tenant(TenantsFile(), "acme", targets=["a"], weight=0.5)
    assert tenants_in(secret("keys", tenants).body) == tenants


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (None, "is no tenants file"),
        ({KEY: "%"}, "is no tenants file"),
        ({KEY: base64.b64encode(b"tenant: {}").decode()}, "tenant: unknown key"),
    ],
)
def test_a_secret_with_something_else_is_named(data: Any, words: str) -> None:
    body = {**secret("keys").body, "data": data}
    with pytest.raises(ConfigError) as caught:
        tenants_in(body)
    assert caught.value.message.startswith("Secret keys, key tenants.yaml: ")
    assert caught.value.message.endswith(words)
