"""The page of all fields is that of the published document, which says what each field means."""

from __future__ import annotations

import pytest

from s2d_ray.serve.openai.document import document
from s2d_ray.serve.openai.fields import RULES, Kind
from s2d_ray.serve.openai.reference import PAGE, reference

SCHEMAS = document(with_tenants=True)["components"]["schemas"]
SHOWN = [name for name in SCHEMAS if not name.startswith("Unknown")]


def test_the_page_is_made_from_the_document() -> None:
    """Another document needs `make reference`."""
    assert PAGE.read_text(encoding="utf-8") == reference()


@pytest.mark.parametrize("name", SHOWN)
def test_every_shape_and_field_says_what_it_means(name: str) -> None:
    schema = SCHEMAS[name]
    assert schema["description"]
    mute = [
        key for key, field in schema.get("properties", {}).items() if "description" not in field
    ]
    assert mute == []


def test_every_route_shape_and_field_is_on_the_page_and_every_link_leads_to_a_shape() -> None:
    page = reference()
    for path, methods in document(with_tenants=True)["paths"].items():
        assert all(f"`{method.upper()} {path}`" in page for method in methods)
    assert [name for name in SHOWN if f"### {name}\n" not in page] == []
    links = {part.partition("](#")[0] for part in page.split("[") if "](#" in part}
    assert links <= set(SHOWN)
    for rule in RULES:
        rows = [line for line in page.splitlines() if line.startswith(f"| `{rule.name}` |")]
        assert any(rule.text in row for row in rows), rule.name


def test_bounds_and_types_are_told_in_words() -> None:
    page = reference()
    for row in (
        "| `top_p` | number | above 0, at most 1 |",
        "| `seed` | integer | 0 to 9,007,199,254,740,991 |",
        "| `exit_thresholds` | list of number | at most 64 entries, each 0 to 1 |",
        '| `finish_reason` | `"stop"`, `"length"` or null |',
        "| `prompt` | string or list of string or list of integer or list of list of integer | "
        "not empty or 1 to 64 entries, each not empty or ",
    ):
        assert f"\n{row}" in page, row


def test_refused_fields_show_the_values_that_are_taken() -> None:
    rule = next(rule for rule in RULES if rule.kind is Kind.REFUSED and rule.name == "modalities")
    assert f'| `modalities` | `["text"]` | {rule.text} |' in reference()
