"""What each result says, in a sentence per target."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import singledispatch

from s2d_ray.bench.spec_figures import PEERS
from s2d_ray.report import shapes
from s2d_ray.report.sources import Source

JUDGED = "cascade"
"""The plan as requests get it."""


def by_target(sources: Sequence[Source]) -> dict[str, list[str]]:
    """Sentences of all results, by the target they are about, in the order given."""
    found: dict[str, list[str]] = {}
    for source in sources:
        model = source.result.card.get("target", source.name).partition(": ")[0]
        for target, sentence in _say(source.result, model):
            found.setdefault(target, []).append(sentence)
    return found


@singledispatch
def _say(result: shapes.Result, model: str) -> Iterator[tuple[str, str]]:
    """model: what the card calls the target, for results that give it no name."""
    raise NotImplementedError(type(result))


@_say.register
def _(result: shapes.Spec, model: str) -> Iterator[tuple[str, str]]:
    for target, found in result.targets.items():
        ours = {plan: one for plan, one in found.plans.items() if plan not in PEERS}
        if not ours:
            continue
        plan = JUDGED if JUDGED in ours else next(iter(ours))
        one, groups = ours[plan], ours[plan].speedup.groups
        low, high = min(groups, key=groups.__getitem__), max(groups, key=groups.__getitem__)
        count = sum(found.questions.values())
        same = sum(each.identical for each in ours.values())
        texts = "all texts identical" if same == len(ours) else "TEXTS DIFFER"
        yield (
            target,
            f"{plan} makes {count} questions {one.speedup.overall:.2f} times as quick as plain "
            f"decoding ({found.plain.tokens_per_second:.1f} tokens/s): {low} "
            f"{groups[low]:.2f}, {high} {groups[high]:.2f}; {texts}.",
        )


@_say.register
def _(result: shapes.Sweep, model: str) -> Iterator[tuple[str, str]]:
    for target, found in result.targets.items():
        if one := found.by_plan.get("planned"):
            yield (
                target,
                f"The plan file's plans are {one.measured:.2f} times as quick as plain decoding; "
                f"{one.predicted:.2f} was predicted.",
            )


@_say.register
def _(result: shapes.Calibrate, model: str) -> Iterator[tuple[str, str]]:
    for target, classes in result.targets.items():
        told = [f"{task} {one.predicted_over_plain:.2f}" for task, one in classes.items()]
        yield target, f"Predicted of the best plans, over plain decoding: {', '.join(told)}."


@_say.register
def _(result: shapes.Evaluate, model: str) -> Iterator[tuple[str, str]]:
    for target, found in result.targets.items():
        told = [f"{one.agreement:.0%} (exit {layers})" for layers, one in found.exits.items()]
        yield target, f"The draft guesses {' and '.join(told)} of its tokens on held-out text."


@_say.register
def _(result: shapes.Training, model: str) -> Iterator[tuple[str, str]]:
    told = [f"{share:.0%} (exit {n})" for n, share in result.of_exits("agreed").items()]
    yield (
        model,
        f"Trained on {result.tokens:,} tokens, the draft agrees with {' and '.join(told)} of "
        "held-out tokens.",
    )


@_say.register
def _(result: shapes.Engine, model: str) -> Iterator[tuple[str, str]]:
    if result.plain_vs_generate is None:
        yield model, f"A forward of one row takes {result.forward_rows['1']:.2f} of a stock one."
        return
    yield (
        model,
        f"Plain decoding is {result.plain_vs_generate:.2f} times as quick as generate of "
        f"transformers; auto {result.speculation.get('auto', 1):.2f} times as quick as plain.",
    )


@_say.register
def _(result: shapes.Load, model: str) -> Iterator[tuple[str, str]]:
    model = result.card.get("model", model)
    for run in result.runs:
        yield (
            model,
            f"Of {run.requests} requests, {run.offered_per_s:g} a second, {run.answered} were "
            f"answered, {run.goodput_tokens_per_s:.1f} tokens a second in all.",
        )


@_say.register
def _(result: shapes.Router, model: str) -> Iterator[tuple[str, str]]:
    told = [f"{clients}: {cell.ratio[0]:.2f}" for clients, cell in result.whole.items()]
    yield "the router", f"Requests over those of a bare echo, by clients: {', '.join(told)}."


@_say.register
def _(result: shapes.Vllm, model: str) -> Iterator[tuple[str, str]]:
    told = [f"{ratio:.2f} with {size}" for size, ratio in result.plain_vs_vllm.items()]
    yield model, f"Plain decoding over vLLM, by texts at once: {', '.join(told)}."
