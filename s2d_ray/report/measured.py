"""Sections of what was timed: speed by plan and group, concurrency, bare calls."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from s2d_ray.report import plots, shapes
from s2d_ray.report.parts import Block, Section, Table
from s2d_ray.report.plots import Bar
from s2d_ray.report.sources import Source

PLAIN = Bar(plots.PLAIN, 1.0)


def speed(sources: Sequence[Source]) -> Section:
    """Every plan and baseline over plain decoding, and by group of questions."""
    blocks: list[Block] = []
    for source in sources:
        if isinstance(source.result, shapes.Spec):
            blocks += _spec(source.name, source.result)
        elif isinstance(source.result, shapes.Sweep):
            blocks += _swept(source.name, source.result)
        elif isinstance(source.result, shapes.Engine) and source.result.speculation:
            blocks.append(_methods(source.name, source.result))
        elif isinstance(source.result, shapes.Vllm):
            blocks.append(_beside_vllm(source.name, source.result))
    text = (
        "Tokens per second over plain decoding, measured in turn in one run; right of the dotted "
        "line is quicker. Thin lines are the lowest and highest of single questions or runs."
    )
    return Section("speed", "Speed by plan and group", text, blocks)


def _spec(name: str, result: shapes.Spec) -> Iterator[Block]:
    for target, found in result.targets.items():
        title = f"{target}, {name}"
        whole = [
            Bar(plan, one.speedup.overall, one.spread.ends) for plan, one in found.plans.items()
        ]
        groups = {
            group: {plan: one.speedup.groups[group] for plan, one in found.plans.items()}
            for group in found.questions
        }
        rows = [
            (
                "plain, tokens/s",
                *(f"{found.plain.groups[group]:.2f}" for group in found.questions),
                f"{found.plain.tokens_per_second:.2f}",
                *("", "", ""),
            )
        ]
        total = sum(found.questions.values())
        for plan, one in found.plans.items():
            rows.append(
                (
                    plan,
                    *(f"{one.speedup.groups[group]:.2f}" for group in found.questions),
                    f"{one.speedup.overall:.2f}",
                    _ends(one.spread.ends),
                    f"{one.mean_accepted_length:.2f}",
                    f"{one.identical_questions}/{total}",
                )
            )
        numbers = [f"{group} ({count})" for group, count in found.questions.items()]
        last = ("overall", "lowest–highest", "accepted length", "same ids")
        yield Block(
            title,
            "",
            [
                plots.bars(f"{title}: all questions", [PLAIN, *whole]),
                plots.grouped(f"{title}: by group", groups, "over plain decoding"),
            ],
            [Table(("plan", *numbers, *last), tuple(rows))],
        )


def _ends(ends: shapes.Ends) -> str:
    return f"{ends[0]:.2f}–{ends[1]:.2f}"


def _swept(name: str, result: shapes.Sweep) -> Iterator[Block]:
    for target, found in result.targets.items():
        title = f"{target}, {name}"
        chosen = [Bar(plan, one.measured, one.spread) for plan, one in found.by_plan.items()]
        by_group = {task: {"planned": ratio} for task, ratio in found.by_group.items()}
        yield Block(
            title,
            f"{found.prompts} prompts, plain decoding {found.plain_tokens_per_second:.2f} tokens/s",
            [
                plots.bars(f"{title}: all prompts", [PLAIN, *chosen]),
                plots.grouped(f"{title}: by class of task", by_group, "over plain decoding"),
            ],
        )


def _methods(name: str, result: shapes.Engine) -> Block:
    tables = {"T = 0": "speculation", "T = 0.7": "speculation_sampled"}
    pictures = []
    for temperature, key in tables.items():
        values: Mapping[str, float] = getattr(result, key)
        ends = result.spread.get(key, {})
        chosen = [
            Bar(method, value, ends.get(method) if isinstance(ends, dict) else None)
            for method, value in values.items()
        ]
        pictures.append(plots.bars(f"{name}: {temperature}", [PLAIN, *chosen]))
    rows = [
        (key, f"{value:.3g}")
        for key in ("plain_vs_generate", "actor_vs_in_process", "shared_vs_private")
        if (value := getattr(result, key)) is not None
    ]
    rows += [
        (f"plain_vs_continuous_batching, {size} texts", f"{ratio:.3g}")
        for size, ratio in result.plain_vs_continuous_batching.items()
    ]
    text = "prompt_lookup and assisted are those of transformers, over its own plain decoding."
    return Block(name, text, pictures, [Table(("figure", "measured"), tuple(rows))])


def _beside_vllm(name: str, result: shapes.Vllm) -> Block:
    chosen = [
        Bar(f"{size} at once", ratio, result.spread[size])
        for size, ratio in result.plain_vs_vllm.items()
    ]
    title = f"{name}: plain decoding over vLLM"
    text = "Both wrote the same ids." if result.same_ids else "They wrote other ids."
    return Block(name, text, [plots.bars(title, chosen, "over vLLM")])


def concurrency(sources: Sequence[Source]) -> Section:
    """Planned for so many texts at once, over plain decoding of as many."""
    blocks = []
    for source in sources:
        if isinstance(source.result, shapes.Sweep):
            for target, found in source.result.targets.items():
                title = f"{target}, {source.name}"
                chosen = [
                    Bar(f"{size} at once", ratio, found.concurrency_spread.get(size))
                    for size, ratio in found.by_concurrency.items()
                ]
                blocks.append(Block(title, "", [plots.bars(f"{title}: at once", chosen)]))
    text = "Texts that run together, under the plans for so many (auto) over plain decoding (off)."
    return Section("concurrency", "Texts at once", text, blocks)


def curves(sources: Sequence[Source]) -> Section:
    """What bare forwards and draft steps cost."""
    blocks = [
        _curves(source.name, source.result.curves_ms)
        for source in sources
        if isinstance(source.result, shapes.Engine) and source.result.curves_ms
    ]
    text = "Bare calls, nothing else running. A flat line is what makes guesses cheap to check."
    return Section("curves", "What calls cost", text, blocks)


def _curves(name: str, held: shapes.Curves) -> Block:
    """Forwards by rows, and draft steps by sequences."""
    forwards: dict[str, list[tuple[float, float]]] = {}
    for shape, ms in held.forward.items():
        sequences, rows = _shape(shape)
        forwards.setdefault(f"{sequences} sequences", []).append((sequences * rows, ms))
    steps: dict[str, list[tuple[float, float]]] = {}
    for precision, by_shape in held.draft.items():
        for shape, ms in by_shape.items():
            layers, _, rest = shape.partition(", ")
            steps.setdefault(f"{layers}, {precision}", []).append((_shape(rest)[0], ms))
    return Block(
        name,
        f"A row of the stock model takes {held.stock:.1f} ms.",
        [
            plots.lines(f"{name}: target forwards", forwards, "rows of all sequences", "ms"),
            plots.lines(f"{name}: draft steps", steps, "sequences", "ms"),
        ],
    )


def _shape(words: str) -> tuple[int, int]:
    """ "2 × 4" → (2, 4)."""
    sequences, _, rows = words.partition(" × ")
    return int(sequences), int(rows)
