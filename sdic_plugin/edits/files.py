"""The file format of edits: one safetensors file per set, every name, family and default in its metadata.

Tensors are stored as `<edit>.<tensor>`; the metadata holds `format`, `generator_id`, `source`, `license` and `edits`,
a JSON object of one entry per edit with its family, space, layers, default strength, range and description.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from sdic_plugin.atomic import replacing_file
from sdic_plugin.edits.base import Edit
from sdic_plugin.edits.interfacegan import DirectionEdit
from sdic_plugin.errors import EditError

EDITS_FORMAT = "sdic-edits-1"
FAMILIES: dict[str, type[Edit]] = {"interfacegan": DirectionEdit}
ENTRY_KEYS = ("family", "space", "layers", "default_strength", "strength_range", "description")


def write_edits(
    edits: Sequence[Edit],
    path: str | os.PathLike,
    generator_id: str | None = None,
    source: str | None = None,
    license: str | None = None,
) -> None:
    """Write a set of edits to one file, whole or not at all.

    Args:
        edits: The edits; names must differ.
        path: The file, ending in .safetensors.
        generator_id: The generator they belong to (`generator.config.generator_id`).
        source: Where they come from.
        license: Their licence.

    Raises:
        EditError: If two edits have the same name.
    """
    path = Path(path)
    if len({edit.name for edit in edits}) != len(edits):
        raise EditError(f"Two edits of the set {path.name!r} have the same name: give each its own.")
    # A copy each, as safetensors refuses tensors that share memory.
    tensors = {
        f"{edit.name}.{key}": value.contiguous().clone() for edit in edits for key, value in edit.tensors.items()
    }
    entries = {edit.name: {key: getattr(edit, key) for key in ENTRY_KEYS} for edit in edits}
    metadata = {"format": EDITS_FORMAT, "edits": json.dumps(entries)}
    optional = {"generator_id": generator_id, "source": source, "license": license}
    metadata.update({key: value for key, value in optional.items() if value is not None})
    with replacing_file(path) as temporary:
        save_file(tensors, temporary, metadata=metadata)


def read_edits(path: str | os.PathLike) -> tuple[list[Edit], dict[str, str]]:
    """Read a set of edits.

    Returns:
        The edits, and the file's metadata (`generator_id`, `source`, `license` where known).

    Raises:
        EditError: If the file is no set of edits, is damaged, or an entry makes no sense.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}
    except (OSError, SafetensorError) as error:
        raise EditError(f"The edits {path} cannot be read ({error}): give a safetensors file of edits.") from error
    if metadata.get("format") != EDITS_FORMAT:
        raise EditError(
            f"The file {path} has the format {metadata.get('format')!r}, but edits have {EDITS_FORMAT!r}: give a file "
            "that this package wrote."
        )
    try:
        entries = json.loads(metadata["edits"])
        edits = [_read_edit(name, entry, tensors, path) for name, entry in entries.items()]
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, EditError):
            raise
        raise EditError(
            f"The edits {path} have damaged metadata ({error!r}): write or download the file again."
        ) from error
    return edits, {key: metadata[key] for key in ("generator_id", "source", "license") if key in metadata}


def _read_edit(name: str, entry: dict, tensors: dict[str, torch.Tensor], path: str | os.PathLike) -> Edit:
    family = FAMILIES.get(entry["family"])
    if family is None:
        raise EditError(
            f"The edit {name!r} in {path} is of the family {entry['family']!r}, but this version knows "
            f"{sorted(FAMILIES)}: update sdic_plugin."
        )
    own = {key[len(name) + 1 :]: tensor for key, tensor in tensors.items() if key.startswith(f"{name}.")}
    layers = entry.get("layers")
    low, high = entry["strength_range"]
    return family(
        name=name,
        space=entry["space"],
        layers=None if layers is None else (int(layers[0]), int(layers[1])),
        default_strength=float(entry["default_strength"]),
        strength_range=(float(low), float(high)),
        description=str(entry.get("description", "")),
        tensors=own,
    )
