"""Options that every command of `s2d kube` takes."""

from __future__ import annotations

from typing import Annotated

import typer

Context = Annotated[str | None, typer.Option("--context", help="A context of the kubeconfig.")]
Namespace = Annotated[
    str | None, typer.Option("--namespace", "-n", help="By default the context's.")
]
As = Annotated[str | None, typer.Option("--as", help="Act as another user.")]
Force = Annotated[bool, typer.Option("--force", help="Take fields over from others.")]
