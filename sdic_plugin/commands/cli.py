"""The `sdic` command: one module per command, each of which only calls the library."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from sdic_plugin.commands import (
    align,
    bench,
    convert,
    data,
    demo,
    edits,
    evaluate,
    export,
    photos,
    push,
    sample,
    train,
)
from sdic_plugin.commands.framework import Commands, Job, UsageError, usage_message
from sdic_plugin.errors import SDICError, sentence_of
from sdic_plugin.utils.terminal import printable_output
from sdic_plugin.version import __version__


@functools.cache
def build_commands() -> Any:
    """Return the command line as typer builds it, with every command."""
    commands = Commands(
        "GAN inversion and editing with SDIC.",
        ["sdic edit --example chelsea --model cats64 --edit warmth=1.5 --out out", "sdic COMMAND --help"],
        root=True,
    )
    commands.app.callback()(_root)
    for module in (photos, align, convert, train, evaluate, data, sample, export, push, edits, bench, demo):
        module.register(commands)
    return typer.main.get_command(commands.app)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"sdic {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="show the version and exit")
    ] = False,
) -> None:
    """Take the options of `sdic` itself."""


def read_arguments(arguments: Sequence[str] | None = None) -> Job | int:
    """Read the arguments of the command line, or those of the process.

    Returns:
        What to do, or the exit code after help, the version or a complaint.
    """
    try:
        job = build_commands().main(args=arguments, prog_name="sdic", standalone_mode=False)
    except UsageError as error:
        print(usage_message(error), file=sys.stderr)
        return 2
    return job if isinstance(job, Job) else int(job or 0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code (0 done, 1 some files failed, 2 wrong input, 130 stopped)."""
    job = read_arguments(arguments)
    if isinstance(job, int):
        return job
    job.options.own_process = arguments is None
    with printable_output():
        return _run(job.run)


def _run(job: Callable[[], int]) -> int:
    """Do the work of a command; errors of the user's making are one sentence each."""
    try:
        return job()
    except (SDICError, OSError) as error:
        print(f"sdic: {sentence_of(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("sdic: stopped.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
