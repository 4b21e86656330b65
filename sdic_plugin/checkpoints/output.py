"""Writes a folder as a whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from sdic_plugin.checkpoints.folder import NOTICE_NAME
from sdic_plugin.errors import CheckpointError, SDICError, shorten
from sdic_plugin.utils.files import check_output_folder

OWN_FILES = ("model_index.json", "config.json")
OWN_SUFFIXES = (".safetensors", ".safetensors.index.json")
ONNX_SUFFIXES = (".onnx", ".onnx.data", "sdic.json", NOTICE_NAME)
REMOTE_CODE_SUFFIXES = (".py", "README.md", NOTICE_NAME)
WEB_SUFFIXES = (".html", ".css", ".js", ".mjs", ".svg", ".gz", "site.json", "README.md", "NOTICES.txt", "LICENSE.txt")
"""How the files of exports end, beside those of a model."""


def check_output(output: Path, overwrite: bool, own: tuple[str, ...] = ()) -> None:
    """Raise CheckpointError unless a conversion (or an export, whose files also end in `own`) may write to `output`.

    A folder that holds something is only replaced if `overwrite` is set and everything in it is a part of a converted
    model, so that a mistyped path destroys nothing else.
    """
    resolved = output.resolve()
    if resolved == Path.cwd() or resolved in Path.cwd().parents:
        raise CheckpointError(f"The output {output} is the folder you are in, or one above: name a folder of its own.")
    if os.path.isfile(output):
        raise CheckpointError(f"The output {output} is a file, but a folder will be written: choose another path.")
    try:
        check_output_folder(output)
        check_output_folder(resolved.parent)  # where it is written under another name first
    except SDICError as error:
        raise CheckpointError(f"The output {shorten(output.name)} could not be written: {error}") from error
    if not output.is_dir() or not any(output.iterdir()):
        return
    if not overwrite:
        raise CheckpointError(
            f"The output folder {output} is not empty: choose another one, or allow overwriting it (overwrite)."
        )
    foreign = next((path for path in output.rglob("*") if not _is_own(path) and not path.name.endswith(own)), None)
    if foreign is not None:
        raise CheckpointError(
            f"The output folder {output} holds {foreign.relative_to(output)}, which no conversion writes, so it is "
            "not overwritten: choose another folder."
        )


def _is_own(path: Path) -> bool:
    """Tell whether a conversion may have written this file or folder."""
    return path.is_dir() or path.name in OWN_FILES or path.name.endswith(OWN_SUFFIXES)
