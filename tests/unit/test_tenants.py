"""Tenants: their file, their keys, and the command that edits both."""

from __future__ import annotations

import hmac
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from typer.testing import CliRunner

from s2d_ray.errors import ConfigError, Forbidden, RunError, Unauthorized
from s2d_ray.policy import keys
from s2d_ray.policy.keys import Caller, KeyTable, make_key
from s2d_ray.policy.limits import Limits
from s2d_ray.tenants import (
    TenantsFile,
    load_tenants,
    parse_tenants,
    revoked,
    rotated,
    save_tenants,
    with_owner,
)
from s2d_ray.tenants_cli import tenants_app
from s2d_ray.tenants_watch import WatchedTenants
from tests.fakes_http import serving

RUNNER = CliRunner()
NOW = datetime(2026, 11, 24, tzinfo=UTC)
HOUR = timedelta(hours=1)
KEY = "{id: aa, salt: bb, sha256: cc}"


def file_with(name: str = "acme", **fields: Any) -> tuple[TenantsFile, str]:
    """A file with one tenant, and its key."""
    with_it = with_owner(TenantsFile(), name, fields, is_operator=False)
    return rotated(with_it, name, NOW, HOUR)


def caller_of(table: KeyTable, key: str, now: datetime = NOW) -> Caller:
    return table.caller_of(f"Bearer {key}", now.timestamp())


def refusal_code(table: KeyTable, authorization: str | None, now: datetime = NOW) -> str | None:
    with pytest.raises(Unauthorized) as caught:
        table.caller_of(authorization, now.timestamp())
    assert caught.value.headers["www-authenticate"] == "Bearer"
    return caught.value.code


def test_a_key_names_its_tenant_and_what_that_may_use() -> None:
    tenants, key = file_with(targets=["small"], modes=["off"])
    caller = caller_of(tenants.key_table("1"), key)
    assert (caller.name, caller.is_operator) == ("acme", False)
    caller.check_target("small")
    caller.check_mode("off")
    with pytest.raises(Forbidden, match="'large'; it may use: small"):
        caller.check_target("large")
    with pytest.raises(Forbidden, match="it may use: off"):
        caller.check_mode("force")
    with pytest.raises(Forbidden, match="operator"):
        caller.check_operator()


def test_without_lists_a_tenant_may_use_everything() -> None:
    tenants, key = file_with()
    caller = caller_of(tenants.key_table("1"), key)
    caller.check_target("anything")
    caller.check_mode("force")


def test_an_operator_writes_no_texts() -> None:
    with_it = with_owner(TenantsFile(), "root", {}, is_operator=True)
    tenants, key = rotated(with_it, "root", NOW, HOUR)
    caller = caller_of(tenants.key_table("1"), key)
    caller.check_operator()
    with pytest.raises(Forbidden, match="tenant"):
        caller.check_target("small")


@pytest.mark.parametrize("end", ["0", "f", ""])
def test_no_other_key_is_valid(end: str) -> None:
    tenants, key = file_with()
    table = tenants.key_table("1")
    other = key[:-1] + (end if end != key[-1] else "7")
    assert refusal_code(table, f"Bearer {other}") == "invalid_api_key"
    assert refusal_code(table, key) == "invalid_api_key"
    assert refusal_code(table, f"Basic {key}") == "invalid_api_key"
    assert refusal_code(table, "Bearer " + "é" * 80) == "invalid_api_key"
    assert refusal_code(table, None) == "missing_api_key"


def test_hashes_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the library's function, and no plain comparison decides."""
    tenants, key = file_with()
    compared: list[tuple[object, object]] = []

    def compare(left: str, right: str) -> bool:
        compared.append((left, right))
        return False

    monkeypatch.setattr(keys.hmac, "compare_digest", compare)
    assert refusal_code(tenants.key_table("1"), f"Bearer {key}") == "invalid_api_key"
    (stored,) = tenants.tenants["acme"].keys
    assert compared == [(stored.sha256, stored.sha256)]
    assert hmac.compare_digest is compare


def test_a_rotated_key_works_beside_the_new_one_until_the_overlap_ends() -> None:
    tenants, old = file_with()
    tenants, new = rotated(tenants, "acme", NOW, HOUR)
    table = tenants.key_table("2")
    assert caller_of(table, old).name == caller_of(table, new).name == "acme"
    later = NOW + HOUR
    assert refusal_code(table, f"Bearer {old}", later) == "expired_api_key"
    assert caller_of(table, new, later).name == "acme"


def test_rotation_never_lengthens_a_life_and_forgets_the_dead() -> None:
    tenants, old = file_with()
    tenants, middle = rotated(tenants, "acme", NOW, HOUR)
    tenants, _ = rotated(tenants, "acme", NOW, 9 * HOUR)
    assert refusal_code(tenants.key_table("3"), f"Bearer {old}", NOW + HOUR) == "expired_api_key"
    tenants, _ = rotated(tenants, "acme", NOW + 2 * HOUR, HOUR)
    ids = [key.id for key in tenants.tenants["acme"].keys]
    assert old.split("-")[1] not in ids
    assert middle.split("-")[1] in ids


def test_a_revoked_key_is_refused_by_file_and_by_word() -> None:
    tenants, key = file_with()
    key_id = key.split("-")[1]
    assert refusal_code(tenants.key_table("1", [key_id]), f"Bearer {key}") == "revoked_api_key"
    by_file = revoked(tenants, key_id).key_table("2")
    assert refusal_code(by_file, f"Bearer {key}") == "revoked_api_key"


def test_no_key_is_in_the_file_or_in_a_refusal(tmp_path: Path) -> None:
    tenants, key = file_with()
    path = tmp_path / "tenants.yaml"
    save_tenants(path, tenants)
    secret = key.split("-")[2]
    assert secret not in path.read_text()
    assert path.stat().st_mode & 0o077 == 0
    assert secret not in repr(tenants.key_table("1"))
    with pytest.raises(Unauthorized) as caught:
        revoked(tenants, key.split("-")[1]).key_table("2").caller_of(f"Bearer {key}", 0.0)
    assert secret not in repr(vars(caught.value))


def test_a_saved_file_is_read_back_as_it_was(tmp_path: Path) -> None:
    tenants, _ = file_with(tokens_per_minute=9, weight=0.5)
    tenants, _ = rotated(tenants, "acme", NOW, HOUR)
    path = tmp_path / "tenants.yaml"
    save_tenants(path, tenants)
    assert load_tenants(path) == tenants
    assert tenants.limits() == {"acme": Limits(tokens_per_minute=9, weight=0.5)}


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("tenants: {acme: {rpm: 5}}", "tenants.acme.rpm: unknown key"),
        ("tenants: {acme: {weight: 0}}", "tenants.acme.weight"),
        ("tenants: {acme: {modes: [fast]}}", "tenants.acme.modes.0"),
        ("tenants: {Acme!: {}}", "tenants.Acme!"),
        ("operators: {root: {weight: 1}}", "operators.root.weight: unknown key"),
        ("version: 2", "version"),
        (f"tenants: {{a: {{keys: [{KEY}]}}, b: {{keys: [{KEY}]}}}}", "key id aa stands twice"),
        ("tenants: {a: {}}\noperators: {a: {}}", "a is an operator and a tenant"),
        ("tenants: {acme: {keys: [{id: aa}]}}", "tenants.acme.keys.0.salt"),
        ("tenants: [", "not valid YAML, line 1"),
        ("[]", "expected a mapping"),
    ],
)
def test_a_mistake_is_refused_naming_file_and_key(text: str, key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_tenants(text, "tenants.yaml")
    assert caught.value.message.startswith("tenants.yaml: ")
    assert key in caught.value.message


def test_a_secret_in_a_broken_file_is_not_repeated() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_tenants("tenants: {acme: {keys: ['s2d-aa-secret'}", "tenants.yaml")
    assert "secret" not in caught.value.message
    with pytest.raises(ConfigError) as caught:
        parse_tenants("tenants: {acme: {keys: ['s2d-aa-secret']}}", "tenants.yaml")
    assert "secret" not in caught.value.message


class TestWatched:
    def test_a_bad_version_leaves_the_old_one_in_force_and_says_why(self, tmp_path: Path) -> None:
        path = tmp_path / "tenants.yaml"
        path.write_text("tenants: {a: {}}")
        watched = WatchedTenants(path, tmp_path / "good.yaml")
        first = watched.version
        path.write_text("tenants: {a: {}, b: {nope: 1}}")
        assert not watched.look()
        assert watched.trouble == f"{path}: tenants.b.nope: unknown key"
        assert (set(watched.tenants.tenants), watched.version) == ({"a"}, first)
        path.write_text("tenants: {a: {}, b: {}}")
        assert watched.look()
        assert watched.trouble is None
        assert set(watched.tenants.tenants) == {"a", "b"}
        assert not watched.look()

    def test_a_file_that_is_gone_for_a_while_changes_nothing(self, tmp_path: Path) -> None:
        path = tmp_path / "tenants.yaml"
        path.write_text("tenants: {a: {}}")
        watched = WatchedTenants(path, tmp_path / "good.yaml")
        path.unlink()
        assert not watched.look()
        assert "cannot be read" in (watched.trouble or "")
        path.write_text("tenants: {a: {}}")
        assert not watched.look()
        assert watched.trouble is None

    def test_a_swapped_link_is_followed_as_kubernetes_swaps_it(self, tmp_path: Path) -> None:
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "tenants.yaml").write_text(f"tenants: {{{name}: {{}}}}")
        link = tmp_path / "data"
        link.symlink_to("one")
        watched = WatchedTenants(link / "tenants.yaml", tmp_path / "good.yaml")
        fresh = tmp_path / "fresh"
        fresh.symlink_to("two")
        fresh.replace(link)
        assert watched.look()
        assert set(watched.tenants.tenants) == {"two"}

    def test_a_bad_first_version_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="cannot be read"):
            WatchedTenants(tmp_path / "nowhere.yaml", tmp_path / "good.yaml")

    def test_a_start_with_a_bad_file_goes_on_with_the_last_good_one(self, tmp_path: Path) -> None:
        path, good = tmp_path / "tenants.yaml", tmp_path / "good.yaml"
        path.write_text("tenants: {a: {weight: 2}}")
        WatchedTenants(path, good)
        path.write_text("tenants: {a: {nope: 1}}")
        watched = WatchedTenants(path, good)
        assert watched.tenants.limits() == {"a": Limits(weight=2)}
        assert watched.trouble == f"{path}: tenants.a.nope: unknown key"
        path.write_text("tenants: {b: {}}")
        assert watched.look()
        assert (watched.trouble, set(watched.tenants.tenants)) == (None, {"b"})

    def test_a_version_that_cannot_be_kept_is_in_force_all_the_same(self, tmp_path: Path) -> None:
        path = tmp_path / "tenants.yaml"
        path.write_text("tenants: {a: {}}")
        watched = WatchedTenants(path, tmp_path / "nowhere" / "good.yaml")
        assert set(watched.tenants.tenants) == {"a"}


class TestCommand:
    def run(self, path: Path, *words: str) -> str:
        done = RUNNER.invoke(tenants_app, [*words, "--file", str(path)])
        if done.exception is not None:
            raise done.exception
        return done.stdout.strip()

    def test_a_life_of_a_tenant(self, tmp_path: Path) -> None:
        path = tmp_path / "tenants.yaml"
        options = ("--targets", "small,large", "--tokens-per-minute", "900", "--weight", "2")
        first = self.run(path, "add", "acme", *options)
        second = self.run(path, "rotate", "acme", "--overlap-hours", "1")
        table = load_tenants(path).key_table("1")
        now = datetime.now(UTC)
        assert caller_of(table, first, now) != caller_of(table, second, now)
        assert caller_of(table, first, now).targets == {"small", "large"}
        assert load_tenants(path).limits()["acme"].tokens_per_minute == 900
        first_id, second_id = first.split("-")[1], second.split("-")[1]
        assert second_id in self.run(path, "revoke", second_id)
        shown = self.run(path, "list")
        assert re.search(rf"key {first_id}  expires 20..-..-.. ..:.. UTC", shown)
        assert f"key {second_id}  revoked" in shown
        assert "acme  tenant  targets=['small', 'large']  tokens_per_minute=900" in shown
        assert first.split("-")[2] not in shown

    def test_an_operator_is_told_apart(self, tmp_path: Path) -> None:
        path = tmp_path / "tenants.yaml"
        key = self.run(path, "add", "root", "--operator")
        assert caller_of(load_tenants(path).key_table("1"), key).is_operator
        assert self.run(path, "list").startswith("root  operator\n")

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (("add", "acme"), "'acme' is there already"),
            (("add", "other", "--band", "99"), "tenants.other.band"),
            (("add", "UPPER"), "tenants.UPPER"),
            (("add", "root", "--operator", "--band", "1"), "operators.root.band: unknown key"),
            (("rotate", "nobody"), "there is no tenant 'nobody'"),
            (("revoke", "ffff"), "there is no key 'ffff'"),
        ],
    )
    def test_a_mistake_is_told_and_changes_nothing(
        self, tmp_path: Path, words: tuple[str, ...], message: str
    ) -> None:
        path = tmp_path / "tenants.yaml"
        self.run(path, "add", "acme")
        before = path.read_bytes()
        with pytest.raises(ConfigError, match=re.escape(message)):
            self.run(path, *words)
        assert path.read_bytes() == before

    def test_a_file_that_cannot_be_written_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="cannot be written"):
            self.run(tmp_path / "nowhere" / "tenants.yaml", "add", "acme")


class Operator:
    """A service that is asked by operators."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, str]] = []
        self.app = FastAPI()
        self.app.add_api_route("/v1/operator/keys/{key_id}/revoke", self.revoke, methods=["POST"])
        self.app.add_api_route("/v1/usage", self.usage, methods=["GET"])

    async def revoke(self, request: Request, key_id: str) -> JSONResponse:
        self.asked.append((request.method, key_id, request.headers["authorization"]))
        if key_id == "ffff":
            return JSONResponse({"error": {"message": "There is no key 'ffff'"}}, 404)
        return JSONResponse({"key_id": key_id, "revoked": True, "routers": 2})

    async def usage(self) -> JSONResponse:
        return JSONResponse({"tenants": {"acme": {"small": {"requests": 3, "failed": 1}}}})


class TestRunningService:
    @pytest.fixture
    def operator(self, monkeypatch: pytest.MonkeyPatch) -> Operator:
        monkeypatch.setenv("S2D_OPERATOR_KEY", "secret")
        return Operator()

    def run(self, operator: Operator, *words: str) -> str:
        with serving(operator.app) as url:
            done = RUNNER.invoke(tenants_app, [*words, "--url", url])
        if done.exception is not None:
            raise done.exception
        return done.stdout.strip()

    def test_a_key_is_revoked_in_the_file_and_at_once(
        self, tmp_path: Path, operator: Operator
    ) -> None:
        path = tmp_path / "tenants.yaml"
        tenants, key = file_with()
        save_tenants(path, tenants)
        key_id = key.split("-")[1]
        shown = self.run(operator, "revoke", key_id, "--file", str(path))
        assert shown == f"key {key_id} is revoked; 2 routers have confirmed it"
        assert operator.asked == [("POST", key_id, "Bearer secret")]
        assert load_tenants(path).tenants["acme"].keys[0].revoked

    def test_without_a_file_the_service_alone_is_told(
        self, tmp_path: Path, operator: Operator
    ) -> None:
        missing = ("--file", str(tmp_path / "nowhere.yaml"))
        assert "2 routers" in self.run(operator, "revoke", "aabb", *missing)
        with pytest.raises(RunError, match="There is no key 'ffff'"):
            self.run(operator, "revoke", "ffff", *missing)

    def test_usage_is_a_line_for_each_tenant_and_target(self, operator: Operator) -> None:
        assert self.run(operator, "usage") == "acme  small  requests=3  failed=1"

    def test_what_stands_in_the_way_is_one_line(
        self, operator: Operator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        done = RUNNER.invoke(tenants_app, ["usage", "--url", "http://127.0.0.1:1"])
        assert isinstance(done.exception, RunError)
        assert "http://127.0.0.1:1 does not answer" in done.exception.message
        monkeypatch.delenv("S2D_OPERATOR_KEY")
        with pytest.raises(RunError, match="S2D_OPERATOR_KEY"):
            self.run(operator, "usage")


def test_keys_differ_with_their_random_bytes() -> None:
    text, stored = make_key(b"\1" * 6, b"\2" * 16, b"\3" * 32)
    assert text == "s2d-" + "01" * 6 + "-" + "03" * 32
    assert stored.sha256 != make_key(b"\1" * 6, b"\4" * 16, b"\3" * 32)[1].sha256
