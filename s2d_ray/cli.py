"""The `s2d` command. Each sub-command parses, calls and prints; heavy imports wait inside it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from s2d_ray import __version__
from s2d_ray.advice.cli import advise
from s2d_ray.engine.messages import Mode
from s2d_ray.errors import ConfigError, S2DError
from s2d_ray.observe.cli import dashboards
from s2d_ray.report.cli import report
from s2d_ray.simulate.cli import simulate
from s2d_ray.train import cli as train_commands
from s2d_ray.tuning import cli as tuning_commands
from s2d_ray.verdict.cli import verdict

app = typer.Typer(
    name="s2d",
    help="Sorted Speculative Decoding on Ray Serve: one shared draft, many exact targets.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

CONFIG_HELP = "A config file; by default the quickstart's: two targets and one draft."


def default_config() -> Path:
    """The quickstart's config: beside the package in a checkout, inside it once installed."""
    package = Path(__file__).resolve().parent
    checkout = package.parent / "deployments" / "quickstart.yaml"
    return checkout if checkout.exists() else package / "quickstart.yaml"


def parse_thresholds(text: str) -> tuple[float, ...]:
    """ "0.5,0.3" → (0.5, 0.3). Raises typer.BadParameter for anything else."""
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is not a list of numbers such as 0.5,0.5", param_hint="--exit-thresholds"
        ) from None
    if not all(0 <= value <= 1 for value in values):
        raise typer.BadParameter(
            "every threshold must lie between 0 and 1", param_hint="--exit-thresholds"
        )
    return values


def parse_targets(words: list[str]) -> dict[str, str]:
    """["a=SOURCE"] → {"a": "SOURCE"}. Raises typer.BadParameter for other words."""
    targets: dict[str, str] = {}
    for word in words:
        name, mark, source = word.partition("=")
        if not (name and mark and source) or name in targets:
            raise typer.BadParameter(
                f"{word!r} is no name of its own and a source, such as small=path/to/folder",
                param_hint="--target",
            )
        targets[name] = source
    return targets


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"s2d-ray {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    pass


@app.command()
def serve(
    config: Annotated[Path | None, typer.Argument(help=CONFIG_HELP)] = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port to use instead of the config's.")
    ] = None,
    ready_file: Annotated[
        Path | None,
        typer.Option(help='Written once all targets answer: {"url": ..., "pid": ...}.'),
    ] = None,
) -> None:
    """Serve a config on this machine, in a Ray of its own, until Ctrl-C or `s2d stop`."""
    from s2d_ray.serve import launcher

    launcher.serve(config or default_config(), port, ready_file)


@app.command()
def stop() -> None:
    """End the run of `s2d serve`, or what is left of one that was killed."""
    from s2d_ray.serve import run_file

    run_file.stop(run_file.default_path(), lambda line: typer.echo(f"s2d: {line}"))


@app.command()
def init(
    target: Annotated[
        list[str],
        typer.Option(metavar="NAME=SOURCE", help="A model to serve, and its name; repeatable."),
    ],
    out: Annotated[Path, typer.Option(help="The config file to write; it must not exist.")],
    draft: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE",
            help="Folder of a trained draft, or the model to cut one from; by default the "
            "smallest target.",
        ),
    ] = None,
) -> None:
    """Write a first config for your own models, from what their files say."""
    from s2d_ray.config import parse_config
    from s2d_ray.first_config import first_config, is_trained_draft, next_steps
    from s2d_ray.serve.checks import check_config

    targets = parse_targets(target)
    text = first_config(targets, draft)
    if troubles := check_config(parse_config(text, str(out))):
        raise ConfigError("\n".join(troubles))
    try:
        with out.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise ConfigError(f"--out: {out}: {error.strerror}; name another file") from None
    steps = next_steps(out, next(iter(targets)), is_trained=is_trained_draft(draft))
    typer.echo(f"{out}: written; what is left to you:\n{steps}")


@app.command()
def check(
    config: Annotated[Path, typer.Argument(help="The config file to check.")],
    diff: Annotated[
        Path | None,
        typer.Option(metavar="OLD", help="Also tell what each change from this config restarts."),
    ] = None,
) -> None:
    """Check a config file without starting anything."""
    from s2d_ray.config import load_config

    parsed = load_config(config)
    from s2d_ray.serve.checks import check_config

    if troubles := check_config(parsed):
        raise ConfigError("\n".join(troubles))
    typer.echo(f"{config}: well-formed; targets: {', '.join(parsed.targets)}")
    if diff is not None:
        from s2d_ray.serve.config_changes import config_changes

        changes = list(config_changes(load_config(diff), parsed))
        typer.echo("\n".join(map(str, changes)) or "nothing changes")


@app.command()
def chat(
    prompt: Annotated[
        str | None, typer.Argument(help="One question; without it, a conversation.")
    ] = None,
    url: Annotated[str, typer.Option(help="Where the API answers.")] = "http://127.0.0.1:8000",
    model: Annotated[
        str | None, typer.Option(help="The target to talk to; by default the first one listed.")
    ] = None,
    system: Annotated[str | None, typer.Option(help="A system message.")] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0, max=2, help="0 takes the likeliest token each time.")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Longest answer.")] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="The same seed gives the same text.")
    ] = None,
    mode: Annotated[
        Mode | None, typer.Option(help="Speculate as configured, never, or in every round.")
    ] = None,
    exit_thresholds: Annotated[
        str | None,
        typer.Option(
            metavar="P,P", help="One per sub-model but the deepest; below it the draft goes deeper."
        ),
    ] = None,
    stop_threshold: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="A proposal ends when its confidence falls below this."),
    ] = None,
    max_proposal: Annotated[
        int | None, typer.Option(min=0, help="Most tokens drafted per round.")
    ] = None,
    json_output: Annotated[
        bool, typer.Option("--json", help="Print the API's answer as JSON.")
    ] = False,
) -> None:
    """Talk to a target; each token is coloured by who drafted it."""
    from s2d_ray.chat import run_chat

    status = run_chat(
        url,
        model,
        prompt,
        system=system,
        temperature=temperature,
        max_tokens=max_tokens,
        seed=seed,
        mode=mode.value if mode else None,
        exit_thresholds=parse_thresholds(exit_thresholds) if exit_thresholds else None,
        stop_threshold=stop_threshold,
        max_proposal=max_proposal,
        json_output=json_output,
    )
    raise typer.Exit(status)


app.command()(train_commands.corpus)
app.command()(train_commands.train)
app.command("evaluate-draft")(train_commands.evaluate_draft)
app.command("pack-draft")(train_commands.pack_draft)
app.command()(simulate)
app.command()(dashboards)
app.command()(advise)
app.command()(tuning_commands.calibrate)
app.command()(tuning_commands.sweep)
app.command()(report)
app.command()(verdict)


_sub_commands = app.command(
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)


@_sub_commands
def models(context: typer.Context) -> None:
    """Fetch and list models (`s2d models --help`)."""
    from s2d_ray.models_cli import models_app

    _hand_on(models_app, context)


@_sub_commands
def tenant(context: typer.Context) -> None:
    """Say who may use the service (`s2d tenant --help`)."""
    from s2d_ray.tenants_cli import tenants_app

    _hand_on(tenants_app, context)


@_sub_commands
def bench(context: typer.Context) -> None:
    """Measure on this machine (`s2d bench --help`)."""
    from s2d_ray.bench.cli import bench_app

    _hand_on(bench_app, context)


@_sub_commands
def kube(context: typer.Context) -> None:
    """Apply to Kubernetes, and look at it (`s2d kube --help`)."""
    from s2d_ray.kube.cli import kube_app

    def check_document(document: Any) -> list[str]:
        from s2d_ray.serve.strict import troubles_of

        return troubles_of(document)

    _hand_on(kube_app, context, check_document)


def _hand_on(inner: typer.Typer, context: typer.Context, handed: object = None) -> None:
    """Let another app parse the words behind a command."""
    command: Any = typer.main.get_command(inner)
    command(args=context.args, prog_name=f"s2d {context.info_name}", obj=handed)


def main() -> None:
    """Run the command. A mistake of the user's is one line on stderr and status 2."""
    try:
        app()
    except S2DError as error:
        for line in error.message.splitlines():
            print(f"s2d: {line}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
