"""`sdic demo`: the demo page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from sdic_plugin.checkpoints.folder import DEFAULT_MODEL, resolve_model
from sdic_plugin.commands.framework import Arguments, Commands
from sdic_plugin.commands.options import MACHINE, Detector, DtypeOption, Model
from sdic_plugin.errors import SDICError


@dataclass(kw_only=True)
class DemoArguments(Arguments):
    """Options of `sdic demo`."""

    model: Model = DEFAULT_MODEL
    port: Annotated[int | None, typer.Option(help="of the page; by default a free one from 7860 on")] = None
    detector: Detector = None
    mcp: Annotated[
        bool, typer.Option("--mcp", help="serve tools for language models, too (MCP, at /gradio_api/mcp/)")
    ] = False
    dtype: DtypeOption = "float32"

    @property
    def keeps_memory(self) -> bool:
        """No: a server's memory must stay flat."""
        return False


def register(commands: Commands) -> None:
    """Add `sdic demo`."""
    commands.command("demo", "start the demo page", ["sdic demo", "sdic demo --model my_model --port 8000"], MACHINE)(
        demo
    )


def demo(options: DemoArguments) -> int:
    """Run `sdic demo`."""
    if options.port is not None and not 0 < options.port < 2**16:
        raise SDICError(f"--port is {options.port}, but ports are numbers from 1 to {2**16 - 1}.")
    resolve_model(options.model)
    options.prepare_process()

    from sdic_plugin.demo import launch

    launch(options.model, port=options.port, detector=options.detector, dtype=options.dtype, mcp=options.mcp)
    return 0
