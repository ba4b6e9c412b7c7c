"""`s2d corpus`, `s2d train` and `s2d evaluate-draft`: parse, call, print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from s2d_ray.train.kinds import Arithmetic, Trunk

Config = Annotated[Path | None, typer.Option(help="A config file; by default the quickstart's.")]


def parse_numbers(text: str, option: str) -> tuple[float, ...]:
    """ "0,0.7" → (0.0, 0.7), none of them negative. Raises typer.BadParameter naming `option`."""
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = (-1.0,)
    if not all(0 <= value < float("inf") for value in values):
        raise typer.BadParameter(
            f"{text!r} is not a list of numbers such as 0,0.7", param_hint=option
        )
    return values


def parse_exits(text: str) -> tuple[int, ...]:
    """ "2,4" → (2, 4). Raises typer.BadParameter for anything but rising numbers of layers."""
    try:
        values = tuple(int(part) for part in text.split(","))
    except ValueError:
        values = (0,)
    if values[0] < 1 or any(a >= b for a, b in zip(values, values[1:], strict=False)):
        raise typer.BadParameter(
            f"{text!r} is not a list of rising numbers of layers such as 2,4", param_hint="--exits"
        )
    return values


def corpus(
    target: Annotated[str, typer.Option(help="The target of the config that writes.")],
    out: Annotated[Path, typer.Option(help="Folder of the corpus; a run goes on in it.")],
    config: Config = None,
    prompts: Annotated[
        Path | None,
        typer.Option(help="JSONL with prompt, messages or turns; without it the target asks too."),
    ] = None,
    num_prompts: Annotated[
        int | None, typer.Option(min=1, help="Most prompts; 1,000 are made up by default.")
    ] = None,
    tokens: Annotated[int, typer.Option(min=1, help="Output tokens to reach.")] = 100_000,
    temperatures: Annotated[str, typer.Option(metavar="T,T", help="In turn.")] = "0,0.7",
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 96,
    top: Annotated[
        int, typer.Option(min=1, max=20, help="Likeliest tokens kept at each position.")
    ] = 12,
    batch: Annotated[int, typer.Option(min=1, help="Texts written together.")] = 48,
    held_out: Annotated[
        float, typer.Option(min=0.001, max=0.5, help="Share of prompts kept for evaluation.")
    ] = 0.05,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same corpus.")] = 1,
    answers: Annotated[
        str | None,
        typer.Option(metavar="FIELD", help="Take this field's answers; the target only scores."),
    ] = None,
) -> None:
    """Let a target write a training corpus; a killed run goes on where it was."""
    from s2d_ray.cli import default_config
    from s2d_ray.config import load_config

    parsed = load_config(config or default_config())
    from s2d_ray.train.corpus import CorpusOptions, make_corpus
    from s2d_ray.train.terminal import token_bar

    options = CorpusOptions(
        target,
        out,
        prompts,
        num_prompts,
        tokens,
        parse_numbers(temperatures, "--temperatures"),
        max_tokens,
        top,
        batch,
        held_out,
        seed,
        answers,
    )
    with token_bar(f"{target} writes", tokens) as (say, advance):
        card = make_corpus(parsed, options, say, advance)
    typer.echo(card)


def train(
    corpus: Annotated[
        list[Path], typer.Option(help="Folder of a finished corpus; repeatable, they are joined.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the run; a run goes on in it.")],
    config: Config = None,
    base: Annotated[
        str | None, typer.Option(help="Model to cut the draft from; by default the config's.")
    ] = None,
    start: Annotated[
        Path | None, typer.Option(help="A trained draft to begin with, in the same shape.")
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(
            help="Layers to keep: all, or a list as first:2,last:2 or 0-5,28,29; this and the "
            "next two are by default those of the config's draft."
        ),
    ] = None,
    exits: Annotated[
        str | None, typer.Option(metavar="N,N", help="Kept layers of each exit.")
    ] = None,
    head_size: Annotated[int | None, typer.Option(min=1, help="Ids the exits score.")] = None,
    own_heads: Annotated[
        bool, typer.Option("--own-heads", help="A head for each exit; else one for all.")
    ] = False,
    exit_block: Annotated[
        int, typer.Option(min=0, help="Inner size of a block before each exit; 0: none.")
    ] = 0,
    trunk: Annotated[Trunk, typer.Option(help="What of the layers is trained.")] = Trunk.FULL,
    rank: Annotated[int, typer.Option(min=1, help="Rank of a low-rank trunk.")] = 32,
    arithmetic: Annotated[
        Arithmetic | None,
        typer.Option(help="Of the matrix products; by default bfloat16 where that is quick."),
    ] = None,
    distill: Annotated[
        float, typer.Option(min=0, max=1, help="Weight of the target's probabilities; else words.")
    ] = 1.0,
    exit_weights: Annotated[
        str | None, typer.Option(metavar="W,W", help="One per exit; equal by default.")
    ] = None,
    learning_rate: Annotated[float, typer.Option(min=0, help="Highest; falls to 0.")] = 8e-4,
    warmup_steps: Annotated[int, typer.Option(min=0, help="Steps of its rise.")] = 20,
    steps: Annotated[int, typer.Option(min=1, help="Updates of the whole run.")] = 2_000,
    texts: Annotated[int, typer.Option(min=1, help="Texts of a micro-batch.")] = 8,
    accumulation: Annotated[int, typer.Option(min=1, help="Micro-batches of a step.")] = 1,
    evaluation_steps: Annotated[int, typer.Option(min=1, help="Steps between evaluations.")] = 100,
    patience: Annotated[
        int, typer.Option(min=1, help="Evaluations without a better loss that end the run.")
    ] = 10,
    leg_minutes: Annotated[
        float | None, typer.Option(min=0, help="End after so long; call again to go on.")
    ] = None,
    checkpoint_minutes: Annotated[
        float, typer.Option(min=0, help="Time between files to go on from.")
    ] = 10.0,
    seed: Annotated[int, typer.Option(min=0, help="Order of the texts, and first weights.")] = 1,
) -> None:
    """Train a sorted draft on a corpus; a killed run goes on where it was."""
    from s2d_ray.cli import default_config
    from s2d_ray.config import load_config
    from s2d_ray.errors import ConfigError
    from s2d_ray.models.draft_files import base_of, shape_of

    parsed = load_config(config or default_config())
    shape = shape_of(parsed.draft) if parsed.draft is not None else None
    if parsed.draft is not None:
        base = base or base_of(parsed.draft)
    if base is None:
        raise ConfigError("--base: the config has no draft; name the model to cut from")
    from s2d_ray.train.options import Recipe
    from s2d_ray.train.start import Origin, quick_arithmetic, train_draft
    from s2d_ray.train.terminal import token_bar
    from s2d_ray.train.training import Leg

    usual = shape or Recipe()
    recipe = Recipe(
        layers or usual.layers,
        parse_exits(exits) if exits else usual.exits,
        head_size or usual.head_size,
        own_heads,
        exit_block,
        trunk,
        rank,
        arithmetic or quick_arithmetic(),
        distill,
        parse_numbers(exit_weights, "--exit-weights") if exit_weights else (),
        learning_rate,
        warmup_steps,
        steps,
        texts,
        accumulation,
        evaluation_steps,
        patience,
        seed,
    )
    with token_bar("training", None) as (say, advance):
        ended = train_draft(
            Origin(base, tuple(corpus), start),
            out,
            recipe,
            Leg(leg_minutes, checkpoint_minutes),
            say,
            advance,
        )
    typer.echo(f"{out / 'draft'}{'' if ended else ' (the run is not at its end; call again)'}")


def evaluate_draft(
    draft: Annotated[Path, typer.Option(help="Folder of a draft.")],
    corpus: Annotated[list[Path], typer.Option(help="A finished corpus of a target; repeatable.")],
    out: Annotated[Path, typer.Option(help="Folder the tables and pictures are written to.")],
    config: Config = None,
    texts: Annotated[
        int, typer.Option(min=1, help="Held-out texts per corpus and temperature.")
    ] = 64,
    draws: Annotated[int, typer.Option(min=1, help="Noises at each position, over T = 0.")] = 2,
) -> None:
    """Measure each exit of a draft against targets: agreement, accepted length, calibration, cost.

    The last line of the output is one JSON object; docs/training.md explains its figures.
    """
    from s2d_ray.cli import default_config
    from s2d_ray.config import load_config

    parsed = load_config(config or default_config())
    from s2d_ray.bench.card import host_card
    from s2d_ray.pictures import need_pictures
    from s2d_ray.train.evaluation import Scope, evaluate
    from s2d_ray.train.evaluation_report import report
    from s2d_ray.train.terminal import token_bar

    need_pictures()
    scope = Scope(texts, draws, max(1, parsed.plan.max_proposal))
    with token_bar("evaluating", None) as (say, advance):
        worths = evaluate(parsed, draft, corpus, scope, say, advance)
    card = host_card(parsed) | {
        "draft": draft.name,
        "scale": f"{texts} texts by temperature, noise of seeds 1 to {draws}",
    }
    table, line = report(worths, scope, draft, card, out)
    typer.echo(f"{table}\n\n{line}")


def pack_draft(
    draft: Annotated[Path, typer.Option(help="Folder of a trained draft.")],
    out: Annotated[Path, typer.Option(help="Folder of the packed one.")],
) -> None:
    """Write a trained draft small, as changes to its base model; configs take it like any other."""
    from s2d_ray.models.draft_files import CHANGES
    from s2d_ray.models.packed_draft import pack

    pack(draft, out, lambda line: typer.echo(line, err=True))
    typer.echo(f"{out}: {(out / CHANGES).stat().st_size / 1e6:.1f} MB")
