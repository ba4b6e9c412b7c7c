"""The measurement of single layers: every shape and number of rows, in both kinds."""

from __future__ import annotations

import json

import pytest

from s2d_ray.bench import linears


@pytest.mark.skipif("not __import__('torch').backends.mkldnn.is_available()", reason="no oneDNN")
def test_every_shape_and_number_of_rows_has_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two shapes, few layers; nothing is said about how long they take."""
    monkeypatch.setattr(linears, "SHAPES", ((8, 16), (24, 8)))
    monkeypatch.setattr(linears, "BYTES", 4_096)
    assert linears.main(["--rounds", "1", "--threads", "1"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    shapes = [(line["num_in"], line["num_out"], line["rows"]) for line in found]
    assert shapes == [(*shape, rows) for shape in ((8, 16), (24, 8)) for rows in (1, 2, 4, 8)]
    for line in found:
        assert line["ratio"] == pytest.approx(line["int8_us"] / line["packed_us"], abs=1e-3)
