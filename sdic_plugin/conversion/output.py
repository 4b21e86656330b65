"""Writes a folder as a whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from sdic_plugin.atomic import check_output_folder, share_files
from sdic_plugin.errors import CheckpointError, SDICError, shorten

OWN_FILES = ("model_index.json", "config.json")
OWN_SUFFIXES = (".safetensors", ".safetensors.index.json")


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


@contextlib.contextmanager
def replacing_folder(output: Path) -> Iterator[Path]:
    """Give an empty folder beside `output`, which takes its place once the block is left without an error.

    Raises:
        CheckpointError: If writing fails; what was at `output` before is then still there, and nothing else.
    """
    output = output.resolve()
    temporary = output.with_name(f".{output.name}.{secrets.token_hex(4)}.partial")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        share_files(temporary)
        _swap(temporary, output)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"The output {output.name} could not be written ({error}): check the free space and the permissions of "
            "its folder."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _swap(temporary: Path, output: Path) -> None:
    """Put `temporary` in the place of `output`, or leave `output` as it was."""
    if not output.exists():
        temporary.rename(output)
        return
    previous = output.with_name(f".{output.name}.{secrets.token_hex(4)}.previous")
    output.rename(previous)
    try:
        temporary.rename(output)
    except BaseException:
        previous.rename(output)
        raise
    shutil.rmtree(previous, ignore_errors=True)
