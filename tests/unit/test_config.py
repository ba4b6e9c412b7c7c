"""Every mistake in a config file is refused with the file and the key."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from s2d_ray.config import AppConfig, DraftConfig, as_written, load_config, parse_config
from s2d_ray.errors import ConfigError, ModelError
from s2d_ray.models.draft_files import draft_folder, read_card

ROOT = Path(__file__).resolve().parents[2]
DEPLOYMENTS = sorted((ROOT / "deployments").glob("*.yaml"))
TARGET = "targets: {a: {model: folder}}\n"


def refusal(text: str) -> str:
    with pytest.raises(ConfigError) as error:
        parse_config(text, "some.yaml")
    return error.value.message


@pytest.mark.parametrize("path", DEPLOYMENTS, ids=lambda path: path.name)
def test_every_shipped_config_parses(path: Path) -> None:
    assert load_config(path).targets


def test_the_quickstart_has_two_targets_and_one_draft() -> None:
    config = load_config(ROOT / "deployments" / "quickstart.yaml")
    assert list(config.targets) == ["smollm2-135m", "smollm2-135m-int8"]
    assert [target.precision for target in config.targets.values()] == ["float32", "int8"]
    assert config.draft is not None
    assert read_card(draft_folder(config.draft)).exit_layers == (2, 4)


def test_the_shipped_draft_is_small_trained_and_made_for_the_quickstarts_model() -> None:
    config = load_config(ROOT / "deployments" / "quickstart.yaml")
    assert config.draft is not None
    folder = draft_folder(config.draft)
    card = read_card(folder)
    assert sum(file.stat().st_size for file in folder.iterdir()) < 25_000_000
    assert card.packed
    assert card.trained_tokens > 1_000_000
    assert card.base == config.targets["smollm2-135m"].model


def test_a_draft_that_is_not_shipped_is_refused_by_name() -> None:
    with pytest.raises(ModelError, match="no draft 'big' is shipped; there are smollm2-135m"):
        draft_folder(DraftConfig(checkpoint="shipped:big"))


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("targets: {a: {model: folder, precison: int8}}", "targets.a.precison: unknown key"),
        (TARGET + "htttp: {port: 1}", "htttp: unknown key"),
        (TARGET + "http: {port: web}", "http.port"),
        (TARGET + "http: {port: 65536}", "http.port"),
        (TARGET + "http: {port: 0}", "http.port"),
        (TARGET + "version: 2", "version"),
        (TARGET + "plan: {exit_thresholds: [0.5, 1.5]}", "plan.exit_thresholds.1"),
        (TARGET + "plan: {max_proposal: -1}", "plan.max_proposal"),
        (TARGET + "plan: {max_proposal: 33}", "plan.max_proposal"),
        (TARGET + "draft: {}", "name either checkpoint or base"),
        (TARGET + "draft: {base: b, checkpoint: c}", "name either checkpoint or base"),
        (TARGET + "draft: {base: b, exit_layers: [8, 4]}", "draft.exit_layers"),
        (TARGET + "draft: {base: b, exit_layers: [4, 4]}", "draft.exit_layers"),
        (TARGET + "draft: {base: b, exit_layers: []}", "draft.exit_layers"),
        (TARGET + "draft: {base: b, exit_layers: [0, 4]}", "draft.exit_layers"),
        (TARGET + "draft: {base: b, idle_s: 0}", "draft.idle_s"),
        ("targets: {a: {model: folder, device: tpu}}", "targets.a.device"),
        ("targets: {a: {model: folder, precision: int3}}", "targets.a.precision"),
        ("targets: {a: {model: f, precision: int8, device: cuda}}", "runs on the CPU only"),
        (TARGET + "draft: {base: b, precision: int8, device: cuda}", "runs on the CPU only"),
        (TARGET + "draft: {base: b, precision: int4, device: cuda}", "runs on the CPU only"),
        ("targets: {a: {model: f, precision: int4}}", "precision int4 is for a draft"),
        ("targets: {a: {model: f, num_gpus: 2, device: cpu}}", "num_gpus is more than 1"),
        ("targets: {a: {model: f, num_gpus: 0}}", "targets.a.num_gpus"),
        ("targets: {a: {model: [x]}}", "targets.a.model"),
        ("targets: {a: {precision: int8}}", "targets.a.model"),
        ("targets: {'a/b': {model: folder}}", "'a/b'"),
        ("targets: {}", "targets"),
        ("version: 1", "targets"),
        ("- a\n- b", "expected a mapping"),
        ("", "expected a mapping"),
        ("targets: {a: [", "not valid YAML"),
    ],
)
def test_a_mistake_is_refused_naming_file_and_key(text: str, key: str) -> None:
    message = refusal(text)
    assert message.startswith("some.yaml: ")
    assert key in message


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback_needs_no_leave(host: str) -> None:
    assert parse_config(TARGET + f"http: {{host: '{host}'}}", "some.yaml").http.is_loopback


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "api.example.org", ""])
def test_an_address_that_others_reach_is_refused_with_the_fix_unless_it_is_meant(host: str) -> None:
    message = refusal(TARGET + f"http: {{host: '{host}'}}")
    assert message.startswith("some.yaml: http.host: ")
    assert "http.allow_unauthenticated: true" in message
    with_keys = "\ntenancy: {file: tenants.yaml, state_dir: state}"
    assert parse_config(TARGET + f"http: {{host: '{host}'}}" + with_keys, "some.yaml").tenancy
    meant = f"http: {{host: '{host}', allow_unauthenticated: true}}"
    assert not parse_config(TARGET + meant, "some.yaml").http.is_loopback


def test_every_mistake_of_a_file_is_told_at_once() -> None:
    lines = refusal(TARGET + "http: {port: web}\nplan: {max_proposal: -1}").splitlines()
    assert len(lines) == 2
    assert all(line.startswith("some.yaml: ") for line in lines)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: cannot be read: No such file"):
        load_config(tmp_path / "nowhere.yaml")


def test_a_config_cannot_be_changed_after_parsing() -> None:
    config = parse_config(TARGET, "some.yaml")
    with pytest.raises(ValidationError, match="frozen"):
        config.http.port = 1


def test_what_was_written_parses_to_the_same_config() -> None:
    config = load_config(ROOT / "deployments" / "quickstart.yaml")
    assert AppConfig.model_validate(as_written(config)) == config
    assert as_written(parse_config(TARGET, "some.yaml")) == {"targets": {"a": {"model": "folder"}}}


def test_the_configured_plan_is_the_plan_of_the_core() -> None:
    config = parse_config(TARGET + "plan: {exit_thresholds: [0.1], max_proposal: 2}", "some.yaml")
    plan = config.plan.plan()
    assert (plan.exit_thresholds, plan.stop_threshold, plan.max_proposal) == ((0.1,), 0.0, 2)


def test_a_place_needs_the_models_of_its_targets_alone() -> None:
    """The draft's base is that of the place `draft`; without a place all are named, each once."""
    config = parse_config(
        "draft: {base: small}\n"
        "targets: {a: {model: big, placement: p}, b: {model: big, placement: q}, "
        "c: {model: small}}",
        "some.yaml",
    )
    assert config.models_at("p") == ["big"]
    assert config.models_at("draft") == ["small"]
    assert config.models_at("router") == []
    assert config.models_at() == ["big", "small"]


@pytest.mark.parametrize(
    ("routing", "words"),
    [
        ("{targets: {b: {}}}", "routing.targets.b: there is no target 'b'"),
        ("{splits: {prod: {a: 1, b: 0}}}", "routing.splits.prod.b: there is no target 'b'"),
        ("{splits: {prod: {a: 0}}}", "routing.splits.prod: no target has a weight above 0"),
        ("{splits: {a: {a: 1}}}", "routing.splits.a: a target has this name"),
        ("{splits: {auto: {a: 1}}}", "routing.splits.auto: with routing, this name"),
        ("{splits: {'a b': {a: 1}}}", "routing.splits: 'a b' must be 1-63 letters"),
        ("{plans: [{plan: {}}, {target: b, plan: {}}]}", "routing.plans.1.target: there is no"),
        ("{plans: [{plan: {max_proposal: 99}}]}", "routing.plans.0.plan.max_proposal: "),
        ("{splits: {prod: {a: -1}}}", "routing.splits.prod.a: "),
        ("{targets: {a: {cost: 0}}}", "routing.targets.a.cost: "),
    ],
)
def test_routes_that_lead_nowhere_are_named(routing: str, words: str) -> None:
    assert refusal(TARGET + f"routing: {routing}").startswith(f"some.yaml: {words}")


def test_with_routing_no_target_may_be_called_auto() -> None:
    text = "targets: {auto: {model: folder}}\n"
    assert parse_config(text, "some.yaml").targets
    assert refusal(text + "routing: {}").startswith("some.yaml: targets.auto: with routing")
