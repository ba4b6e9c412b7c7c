"""Draws the pictures of docs/how-it-works.md from one real answer of the quickstart.

    make pictures                              # write the answer, measure, draw
    python -m tests.pictures --draw            # draw again what was measured

What is drawn lies in docs/pictures/run.json, with the host and the commit; the figures in the text
of the page are from there too, and are put in by the same command.
"""

from __future__ import annotations

import argparse
import html
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from s2d_ray.core.cost_model import CostModel
from s2d_ray.pictures import need_pictures
from tests.blocks import ROOT

PAGE = ROOT / "docs" / "how-it-works.md"
FOLDER = ROOT / "docs" / "pictures"
COLOURS = {None: "#444444", 2: "#1b7f3b", 4: "#1565c0", 0: "#b26a00"}
"""By layers of the sub-model; None is the target itself, 0 tier 0."""

WIDTH, ROW, LETTER = 860, 26, 8.4
"""Of the picture of the answer, in pixels: whole, a line, a letter of 14 pixels."""

SHADES = {"accepted": 1.0, "refused": 0.3, "dropped": None}
"""Of a bar, by what became of a guess: dropped ones fell below the stop threshold."""

LONGEST = 8
"""Proposals of the last picture."""

Run = Mapping[str, Any]


def read_run() -> Run:
    """What was measured last."""
    run: Run = json.loads((FOLDER / "run.json").read_text(encoding="utf-8"))
    return run


def name_of(layers: int | None) -> str:
    """Who wrote a token, in words."""
    return {None: "the target", 0: "tier 0"}.get(layers, f"draft, {layers} layers")


def answer_svg(run: Run) -> str:
    """The text, each token coloured by who wrote it."""
    shown: list[str] = []
    column, row = 0.0, 0
    for token in run["tokens"]:
        colour = COLOURS[token["drafted_by"]]
        for number, part in enumerate(token["text"].split("\n")):
            if number or column + len(part) * LETTER > WIDTH - 40:
                column, row = 0.0, row + 1
            if not part:
                continue
            x, y = 20 + column, 56 + row * ROW
            width = len(part) * LETTER
            shown.append(
                f'<rect x="{x:.1f}" y="{y - 17}" width="{width:.1f}" height="22" rx="3" '
                f'fill="{colour}" fill-opacity="0.14" stroke="{colour}" stroke-width="0.6"/>'
                f'<text x="{x:.1f}" y="{y}" fill="{colour}" textLength="{width:.1f}" '
                f'xml:space="preserve">{html.escape(part)}</text>'
            )
            column += width
    used = [layers for layers in COLOURS if layers in {t["drafted_by"] for t in run["tokens"]}]
    legend = "".join(
        f'<text x="{20 + 190 * place}" y="24" fill="{COLOURS[layers]}">■ {name_of(layers)}</text>'
        for place, layers in enumerate(used)
    )
    height = 76 + row * ROW
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        f'viewBox="0 0 {WIDTH} {height}" font-family="monospace" font-size="14">'
        f'<rect width="100%" height="100%" fill="white"/>{legend}{"".join(shown)}</svg>\n'
    )


def guesses_of(run: Run, layers: int | None = None, fate: str | None = None) -> list[Run]:
    """All guesses of the answer; those that left behind so many layers, and had this fate."""
    return [
        guess
        for each in run["rounds"]
        for guess in each["guesses"]
        if layers in (None, guess["layers"]) and fate in (None, guess["fate"])
    ]


def draw_exits(run: Run, path: Path) -> None:
    """What became of the guesses that left at each exit, and how many a round had right."""
    figure, (left, right) = _figure(9, 3.2, columns=2)
    for place, layers in enumerate(run["exits"]):
        height = 0
        for fate, shade in SHADES.items():
            count = len(guesses_of(run, layers, fate))
            style = {"alpha": shade} if shade else {"fill": False, "hatch": "///"}
            edge = COLOURS[layers]
            left.bar(place, count, 0.4, height, color=edge, edgecolor=edge, **style)
            if count:
                middle = height + count / 2
                left.text(place + 0.24, middle, f"{count} {fate}", va="center")
            height += count
    left.set(title="guesses by exit", xticks=range(len(run["exits"])), xlim=(-0.4, 1.8))
    left.set_xticklabels([f"{layers} layers" for layers in run["exits"]])
    counts = [
        sum(guess["fate"] == "accepted" for guess in each["guesses"]) for each in run["rounds"]
    ]
    rounds = [counts.count(number) for number in range(max(counts) + 1)]
    right.bar(range(len(rounds)), rounds, 0.6, color="#777777")
    for number, count in enumerate(rounds):
        right.text(number, count, str(count), ha="center", va="bottom")
    right.set(title="rounds by accepted guesses", xticks=range(len(rounds)), xlabel="accepted")
    right.margins(y=0.15)
    _save(figure, path)


def draw_rounds(run: Run, path: Path, num_rounds: int = 8) -> None:
    """The first rounds to scale, above what plain decoding needs for the same tokens."""
    costs = CostModel.from_json(run["costs"])
    figure, panel = _figure(9, 2.6)
    now_ms, written = 0.0, 0
    for each in run["rounds"][:num_rounds]:
        proposed = 0
        for guess in each["guesses"]:
            length = 1e3 * costs.draft(guess["layers"], 1)
            colour = COLOURS[guess["layers"]]
            face = colour if guess["fate"] == "accepted" else "white"
            hatch = "////" if guess["fate"] == "dropped" else ""
            panel.barh(1, length, 0.6, now_ms, color=face, edgecolor=colour, hatch=hatch)
            proposed += guess["fate"] != "dropped"
            now_ms += length
        length = 1e3 * costs.forward(1, 1 + proposed)
        panel.barh(1, length, 0.6, now_ms, color="#bbbbbb", edgecolor="#444444")
        panel.text(now_ms + length / 2, 1, f"+{each['written']}", ha="center", va="center")
        now_ms += length
        written += each["written"]
    step_ms = 1e3 * costs.forward(1, 1)
    for number in range(written):
        panel.barh(0, step_ms, 0.6, number * step_ms, color="#bbbbbb", edgecolor="#444444")
    panel.set(yticks=(0, 1), xlabel="milliseconds", title=f"the same {written} tokens")
    panel.set_yticklabels(["plain", "speculation"])
    _save(figure, path)


def draw_lengths(run: Run, path: Path) -> None:
    """Speed over plain decoding by length, for some chances that a guess is right."""
    costs = CostModel.from_json(run["costs"])
    figure, panel = _figure(6.5, 3.6)
    lengths = range(LONGEST + 1)
    for chance in (0.4, 0.6, 0.8, 0.9):
        panel.plot(
            lengths, [gain(costs, n, chance) for n in lengths], marker="o", label=f"{chance:.0%}"
        )
    panel.axhline(1.0, color="grey", linestyle=":")
    panel.set(xlabel="guesses per round", ylabel="times plain decoding", xticks=lengths)
    figure.legend(title="a guess is\nright in", loc="outside right upper")
    _save(figure, path)


def gain(costs: CostModel, length: int, chance: float) -> float:
    """Speed over plain decoding if each guess, behind right ones, is right by the same chance.

    A round writes 1 + chance + … + chanceⁿ tokens. Guesses go to the deepest exit.
    """
    tokens = sum(chance**depth for depth in range(length + 1))
    seconds = length * costs.draft(costs.layers[-1], 1) + costs.forward(1, 1 + length)
    return tokens * costs.forward(1, 1) / seconds


def _figure(width: float, height: float, columns: int = 1) -> tuple[Any, Any]:
    import matplotlib
    from matplotlib.figure import Figure

    # Text stays text, and the same run makes the same file.
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "s2d-ray"})
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(1, columns)


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, metadata={"Date": None, "Creator": None})


def facts(run: Run) -> dict[str, str]:
    """The figures of the page, by the names that it has for them."""
    costs = CostModel.from_json(run["costs"])
    origin = costs.origin
    accepted = ", ".join(
        f"{len(guesses_of(run, layers, 'accepted'))} of {len(guesses_of(run, layers))} behind "
        f"{layers} layers"
        for layers in run["exits"]
    )
    best = max(range(LONGEST + 1), key=lambda length: gain(costs, length, 0.6))
    return {
        "steps": f"{1e3 * costs.forward(1, 8):.0f} against {1e3 * costs.forward(1, 1):.0f} ms",
        "run": f"{run['question']} Commit {origin.commit}, {origin.host}, {origin.date}, seed "
        f"{run['seed']}, greedy",
        "accepted": f"{len(run['tokens'])} tokens in {len(run['rounds'])} rounds; accepted were "
        f"{accepted}",
        "best": f"the best length is {best}, at {gain(costs, best, 0.6):.2f} times plain decoding",
    }


def filled(page: str, figures: Mapping[str, str]) -> str:
    """The page with each figure between its marks, `<!--NAME-->` and `<!--/-->`.

    Raises ValueError if the page does not have each of them once.
    """
    for name, figure in figures.items():
        pattern = rf"(?s)(?<=<!--{name}-->).*?(?=<!--/-->)"
        page, count = re.subn(pattern, figure.replace("\\", r"\\"), page)
        if count != 1:
            raise ValueError(f"{PAGE.name}: {name} must be there once, not {count} times")
    return page


def draw(run: Run) -> Iterator[Path]:
    """Write all pictures; their paths."""
    need_pictures()
    (FOLDER / "answer.svg").write_text(answer_svg(run), encoding="utf-8")
    yield FOLDER / "answer.svg"
    for name, one in (("exits", draw_exits), ("rounds", draw_rounds), ("lengths", draw_lengths)):
        one(run, FOLDER / f"{name}.svg")
        yield FOLDER / f"{name}.svg"


def main() -> None:
    """Run, unless told to draw only; then draw."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m tests.pictures")
    parser.add_argument("--draw", action="store_true", help="draw what run.json holds")
    if not parser.parse_args().draw:
        from tests.pictures_run import record

        FOLDER.mkdir(exist_ok=True)
        text = json.dumps(record(), indent=1, ensure_ascii=False)
        (FOLDER / "run.json").write_text(text + "\n", encoding="utf-8")
    run = read_run()
    for path in draw(run):
        print(path.relative_to(ROOT))
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), facts(run)), encoding="utf-8")


if __name__ == "__main__":
    main()
