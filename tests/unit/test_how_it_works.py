"""The page for newcomers shows what was computed and measured, nothing by hand."""

from __future__ import annotations

import re

import pytest
import torch

from s2d_ray.core.coupling import gumbel_noise
from tests.blocks import ROOT
from tests.pictures import FOLDER, answer_svg, facts, filled, guesses_of, read_run

PAGE = (ROOT / "docs" / "how-it-works.md").read_text(encoding="utf-8")
MAX_BYTES = 100_000


def test_the_numbers_of_the_coupling_example_are_those_of_the_published_hash() -> None:
    rows = re.findall(r"^\| (rain|snow|fog) \| (.*) \|$", PAGE, flags=re.MULTILINE)
    cells = [[part.replace("*", "").strip() for part in row.split("|")] for _, row in rows]
    target, draft = (torch.tensor([float(row[place]) for row in cells]) for place in (0, 1))
    winners = []
    for place, position in ((2, 12), (4, 13)):
        noise = gumbel_noise(4, position, torch.arange(3))
        sums = [(target + noise).tolist(), (draft + noise).tolist()]
        for row, each, *both in zip(cells, noise.tolist(), *sums, strict=True):
            assert row[place] == f"{each:.2f}"
            assert row[place + 1] == ", ".join(f"{value:.2f}" for value in both)
        winners.append([rows[max(range(3), key=of.__getitem__)][0] for of in sums])
    assert winners == [["rain", "rain"], ["rain", "snow"]]  # as the text below the table says


def test_every_figure_of_the_page_is_that_of_the_run_beside_the_pictures() -> None:
    assert filled(PAGE, facts(read_run())) == PAGE


def test_a_page_that_lacks_a_figure_is_refused() -> None:
    assert filled("so <!--a-->old<!--/-->.", {"a": "new"}) == "so <!--a-->new<!--/-->."
    with pytest.raises(ValueError, match="b must be there once"):
        filled("so <!--a-->old<!--/-->.", {"b": "new"})


def test_the_pictures_are_there_small_and_of_that_run() -> None:
    named = set(re.findall(r"\(pictures/(\w+\.svg)\)", PAGE))
    assert named == {path.name for path in FOLDER.glob("*.svg")}
    for name in named:
        assert (FOLDER / name).stat().st_size < MAX_BYTES
    assert (FOLDER / "answer.svg").read_text(encoding="utf-8") == answer_svg(read_run())


def test_the_run_adds_up() -> None:
    """Every token is the prompt's step's, an accepted guess, or the target's own of a round."""
    run = read_run()
    drafted = [token for token in run["tokens"] if token["drafted_by"] is not None]
    assert len(drafted) == len(guesses_of(run, fate="accepted"))
    assert len(run["tokens"]) == 1 + sum(each["written"] for each in run["rounds"])
