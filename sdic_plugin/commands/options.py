"""Options that several commands share, and what a shell proposes for them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from sdic_plugin.checkpoints.folder import bundled_models

PHOTOS, MODELS, MACHINE = "Photos and edits", "Models", "This machine"
"""Groups of commands in the help."""
FACES, WRITING, COMPUTING, RECORDS = "Finding the subject", "What is written", "Computing", "What is recorded"
"""Groups of options in the help of several commands."""

Dtype = Literal["float32", "float16", "bfloat16"]


def bundled_names(incomplete: str) -> list[str]:
    """Names of bundled models that begin so, for a shell's completion."""
    return [name for name in bundled_models() if name.startswith(incomplete)]


Model = Annotated[str, typer.Option(help="bundled name, folder or Hub id", autocompletion=bundled_names)]
GeneratorModel = Annotated[
    str, typer.Option(help="bundled name, folder (a generator is enough) or Hub id", autocompletion=bundled_names)
]
OutFolder = Annotated[Path, typer.Option(help="folder to write")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="replace what an earlier export wrote")]
Eyes = Annotated[
    str | None,
    typer.Option(metavar="X1,Y1,X2,Y2", help="the two eye centres, in pixels of the photo", rich_help_panel=FACES),
]
Detector = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="YuNet's .onnx file, instead of the package's", rich_help_panel=FACES),
]
DtypeOption = Annotated[Dtype, typer.Option(help="what the networks compute in", rich_help_panel=COMPUTING)]
Device = Annotated[str, typer.Option(help="cpu, cuda, mps …", rich_help_panel=COMPUTING)]
Layers = Annotated[str | None, typer.Option(metavar="FIRST:LAST", help="styles the edit acts on; default: all")]
