"""Which folders a conversion or an export may write, and which it may replace."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdic_plugin.checkpoints.folder import NOTICE_NAME, PARTS_NAME, PIPELINE_CLASS, names_own_code, read_json
from sdic_plugin.errors import CheckpointError, SDICError, shorten
from sdic_plugin.utils.files import check_output_folder

OWN_FILES = ("model_index.json", "config.json", PARTS_NAME)
OWN_SUFFIXES = (".safetensors", ".safetensors.index.json")
ONNX_SUFFIXES = (".onnx", ".onnx.data", "sdic.json", NOTICE_NAME)
REMOTE_CODE_SUFFIXES = (".py", "README.md", NOTICE_NAME)
WEB_SUFFIXES = (".html", ".css", ".js", ".mjs", ".svg", ".gz", "site.json", "README.md", "NOTICES.txt", "LICENSE.txt")
"""How the files of exports end, beside those of a model."""

NETWORK_CLASSES = ("DICN", "DIPN", "E4EEncoder", "FeatureTransport", "StyleGAN2Discriminator", "StyleGAN2Generator")
"""What the configurations of our networks name as their class."""


@dataclass(frozen=True)
class OutputKind:
    """A kind of output folder, and how one that was written before is told from a folder of the user's own.

    Attributes:
        writer: What writes it, for messages ("conversion").
        suffixes: How its files end, beside those of a model.
        sign: The file that shows who wrote it, for messages.
        is_signed: Whether a folder holds that file.
    """

    writer: str
    suffixes: tuple[str, ...]
    sign: str
    is_signed: Callable[[Path], bool]


def _json_value(path: Path, key: str) -> Any:
    """An entry of a JSON file; None if there is no such entry, or no such file."""
    try:
        return read_json(path).get(key)
    except CheckpointError:
        return None


def _holds_model(folder: Path) -> bool:
    if _json_value(folder / "model_index.json", "_class_name") == PIPELINE_CLASS:
        return True
    return any(_json_value(path, "_class_name") in NETWORK_CLASSES for path in folder.glob("*/config.json"))


def _holds_remote_code(folder: Path) -> bool:
    return names_own_code(_json_value(folder / "model_index.json", "_class_name"))


def _has_format(file: str, start: str) -> Callable[[Path], bool]:
    return lambda folder: str(_json_value(folder / file, "format")).startswith(start)


MODEL = OutputKind("conversion", (), "model_index.json or config.json", _holds_model)
REMOTE_CODE = OutputKind("export of remote code", REMOTE_CODE_SUFFIXES, "model_index.json", _holds_remote_code)
ONNX = OutputKind("export to ONNX", ONNX_SUFFIXES, "sdic.json", _has_format("sdic.json", "sdic-onnx-"))
WEB = OutputKind("export of a site", WEB_SUFFIXES, "site.json", _has_format("site.json", "sdic-web-"))


def check_output(
    output: Path, overwrite: bool, kind: OutputKind = MODEL, sources: Sequence[str | os.PathLike[str]] = ()
) -> None:
    """Raise CheckpointError unless a conversion or an export may write to `output`.

    A folder that holds something is only replaced if `overwrite` is set, the same kind of writer has signed it, all of
    its files are such as that one writes, and none of them is read for the new ones: a mistyped path destroys nothing.

    Args:
        output: The folder.
        overwrite: Whether one that was written before may be replaced.
        kind: What will write to it.
        sources: Files and folders that are read; those that do not exist do not matter.
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
    _check_replaceable(output, kind, sources)


def _check_replaceable(output: Path, kind: OutputKind, sources: Sequence[str | os.PathLike[str]]) -> None:
    """Raise CheckpointError if something of the user's own, or of another writer's, would be lost."""
    source = next((path for path in sources if _lies_in(path, output)), None)
    if source is not None:
        raise CheckpointError(
            f"The output folder {output} holds {shorten(str(source))}, which is to be read, so it is not overwritten: "
            "choose another folder."
        )
    suffixes = (*OWN_SUFFIXES, *kind.suffixes)
    foreign = next((path for path in output.rglob("*") if not _may_be_own(path, suffixes)), None)
    if foreign is not None:
        raise CheckpointError(
            f"The output folder {output} holds {foreign.relative_to(output)}, which no {kind.writer} writes, so it is "
            "not overwritten: choose another folder."
        )
    if not kind.is_signed(output):
        raise CheckpointError(
            f"The output folder {output} was not written by an earlier {kind.writer}, as it lacks its {kind.sign}, so "
            "it is not overwritten: choose another folder."
        )


def _may_be_own(path: Path, suffixes: tuple[str, ...]) -> bool:
    return path.is_dir() or path.name in OWN_FILES or path.name.endswith(suffixes)


def _lies_in(path: str | os.PathLike[str], folder: Path) -> bool:
    """Whether a path leads into a folder, itself or through a link."""
    inner = folder.resolve()
    return os.path.exists(path) and any(
        each.is_relative_to(inner) for each in (Path(path).resolve(), Path(path).parent.resolve() / Path(path).name)
    )
