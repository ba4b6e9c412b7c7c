"""Each alert fires when it should, and only then, as Prometheus' own promtool judges."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from s2d_ray.errors import ConfigError
from s2d_ray.observe import export
from s2d_ray.observe.alerts import ALERTS, Thresholds, filled, template
from s2d_ray.observe.metric_table import SECONDS
from tests.alert_cases import CASES, LONG, SHORT, Case, promtool_file
from tests.prometheus import tool

ROOT = Path(__file__).parents[2]


def promtool(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [tool("promtool"), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)


def judged(folder: Path, cases: tuple[Case, ...], every_minutes: int) -> str:
    """What promtool says of the rules in these cases."""
    (folder / "alerts.yaml").write_text(filled(Thresholds()))
    content = promtool_file("alerts.yaml", cases, every_minutes)
    (folder / "cases.yaml").write_text(yaml.safe_dump(content))
    done = promtool("test", "rules", "cases.yaml", folder=folder)
    return done.stdout + done.stderr


def test_promtool_takes_everything_that_the_command_writes(tmp_path: Path) -> None:
    export.write_all(tmp_path, "http://127.0.0.1:8000", None, Thresholds())
    done = promtool("check", "config", "prometheus.yml", folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(ALERTS)} rules found" in done.stdout


@pytest.mark.parametrize(
    ("cases", "every_minutes"), [(SHORT, 1), (LONG, 5)], ids=["hour", "longer"]
)
def test_alerts_fire_in_their_cases_and_nowhere_else(
    tmp_path: Path, cases: tuple[Case, ...], every_minutes: int
) -> None:
    """In each case exactly the alerts that it names fire; a healthy service has none."""
    told = judged(tmp_path, cases, every_minutes)
    assert "SUCCESS" in told, told


def test_a_case_that_does_not_hold_is_found(tmp_path: Path) -> None:
    """Else the test above could not fail."""
    silent = Case("wrong", {"ray_s2d_draft_up": "0x20"}, {15: frozenset()}, 20)
    assert "S2DDraftDown" in judged(tmp_path, (silent,), 1)


def test_every_alert_fires_in_some_case_by_each_severity() -> None:
    fired = {each for case in CASES for firing in case.fires.values() for each in firing}
    assert fired == {(alert.name, alert.severity) for alert in ALERTS}


@pytest.mark.parametrize("name", sorted({alert.name for alert in ALERTS}))
def test_every_alert_has_a_runbook(name: str) -> None:
    """What it means, where to look, what to do; and the rule's link leads there."""
    text = (ROOT / "docs" / "alerts.md").read_text()
    [section] = re.findall(rf"^### {name}\n(.*?)(?=^##|\Z)", text, re.MULTILINE | re.DOTALL)
    for part in ("**Means.**", "**Look at.**", "**Do.**"):
        assert part in section
    assert f"docs/alerts.md#{name.lower()}" in filled(Thresholds())


@pytest.mark.parametrize("name", Thresholds.model_fields)
def test_every_threshold_is_used_documented_and_filled_in(name: str) -> None:
    field = Thresholds.model_fields[name]
    assert f"@{field.alias}@" in template()
    assert f"| `{name}` |" in (text := (ROOT / "docs" / "alerts.md").read_text())
    assert field.description is not None
    assert field.description in text


def test_no_threshold_stays_open() -> None:
    assert not re.search(r"@\w+@", filled(Thresholds()))


@pytest.mark.parametrize("seconds", SECONDS)
def test_the_bound_of_first_tokens_matches_its_bucket_as_exporters_write_it(seconds: float) -> None:
    """1 or 1.0, whichever."""
    [pattern] = set(re.findall(r'le=~"([\d.]+\S*?)"', filled(Thresholds(first_token_s=seconds))))
    written = [text for bound in SECONDS for text in {f"{bound}", f"{bound:g}"}]
    matching = {text for text in written if re.fullmatch(pattern, text)}
    assert matching == {f"{seconds}", f"{seconds:g}"}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["max_waiting"], "'max_waiting' is not NAME=VALUE"),
        (["max_waitin=3"], "--threshold max_waitin: there is no such one; first_token_s, "),
        (["first_token_s=3"], "--threshold first_token_s: must be a bound of the histogram's"),
        (["served_share=1"], "--threshold served_share: Input should be less than 1"),
    ],
)
def test_a_wrong_threshold_is_named(words: list[str], told: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(told)):
        export.thresholds_of(words)


def test_a_threshold_is_where_it_was_set() -> None:
    text = filled(export.thresholds_of(["max_waiting=77", "runbooks=https://wiki.example/s2d"]))
    assert "> 77" in text.replace("\n     ", "")
    assert "https://wiki.example/s2d#s2dqueuegrowing" in text


def test_the_scrape_config_reaches_a_service_behind_tls_with_tenants(tmp_path: Path) -> None:
    key = tmp_path / "root.key"
    config = yaml.safe_load(export.prometheus_config("https://llm.example/api/", key))
    [job] = config["scrape_configs"]
    assert (job["scheme"], job["metrics_path"]) == ("https", "/api/metrics")
    assert job["static_configs"] == [{"targets": ["llm.example"]}]
    assert job["authorization"] == {"credentials_file": str(key)}


def test_an_address_without_a_scheme_is_refused() -> None:
    with pytest.raises(ConfigError, match="--url: '127.0.0.1:8000' is not an address"):
        export.prometheus_config("127.0.0.1:8000", None)
