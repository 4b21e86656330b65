"""The file format of edits: one safetensors file per set, every name, family and default in its metadata.

Tensors are stored as `<edit>.<tensor>`; the metadata holds `format`, `generator_id`, `source`, `license` and `edits`,
a JSON object of one entry per edit: family, space, layers, default strength, range and description, beside what only
some have: the family's own options (such as GANSpace's `rule`), a source or licence that is not the set's, and `ends`,
the names of what the smallest and the largest strength lead to (`["grey", "ginger"]`).
"""

from __future__ import annotations

import json
import operator
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from sdic_plugin.edits.base import Edit
from sdic_plugin.edits.ganspace import GANSpaceEdit
from sdic_plugin.edits.interfacegan import DirectionEdit
from sdic_plugin.edits.stylespace import StyleSpaceEdit
from sdic_plugin.errors import EditError, short_reason, shorten
from sdic_plugin.utils.files import check_edits_name, replacing_file

EDITS_FORMAT = "sdic-edits-1"
FAMILIES: dict[str, type[Edit]] = {
    "interfacegan": DirectionEdit,
    "sefa": DirectionEdit,
    "offset": DirectionEdit,
    "ganspace": GANSpaceEdit,
    "stylespace": StyleSpaceEdit,
    "styleclip": StyleSpaceEdit,
}
"""Class of each family's edits; "offset" is a plain difference of W+ latents."""
ENTRY_KEYS = ("family", "space", "layers", "default_strength", "strength_range", "description")
SET_KEYS = ("generator_id", "source", "license")


def write_edits(
    edits: Sequence[Edit],
    path: str | os.PathLike[str],
    generator_id: str | None = None,
    source: str | None = None,
    license: str | None = None,
) -> None:
    """Write a set of edits to one file, whole or not at all.

    Args:
        edits: The edits; names must differ.
        path: The file, ending in .safetensors.
        generator_id: The generator they belong to (`generator.config.generator_id`).
        source: Where they come from, unless they say so themselves.
        license: Their licence, unless they say so themselves.

    Raises:
        EditError: If two edits have the same name, or the file another ending.
    """
    path = Path(path)
    check_edits_name(path)
    if len({edit.name for edit in edits}) != len(edits):
        raise EditError(f"Two edits of the set {path.name!r} have the same name: give each its own.")
    # A copy each, as safetensors refuses tensors that share memory.
    tensors = {
        f"{edit.name}.{key}": value.contiguous().clone() for edit in edits for key, value in edit.tensors.items()
    }
    entries = {edit.name: _entry(edit, source, license) for edit in edits}
    metadata = {"format": EDITS_FORMAT, "edits": json.dumps(entries)}
    optional = {"generator_id": generator_id, "source": source, "license": license}
    metadata.update({key: value for key, value in optional.items() if value is not None})
    with replacing_file(path) as temporary:
        save_file(tensors, temporary, metadata=metadata)


def _entry(edit: Edit, source: str | None, license: str | None) -> dict[str, Any]:
    """What the metadata says of one edit; source and licence only where they are not the set's, ends where named."""
    entry = {key: getattr(edit, key) for key in (*ENTRY_KEYS, *edit.OPTIONS)}
    own = {"source": (edit.source, source), "license": (edit.license, license)}
    if edit.ends is not None:
        entry["ends"] = list(edit.ends)
    return entry | {key: mine for key, (mine, common) in own.items() if mine is not None and mine != common}


def read_edits(path: str | os.PathLike[str]) -> tuple[list[Edit], dict[str, str]]:
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
        raise EditError(
            f"The edits {path} cannot be read ({short_reason(error)}): give a safetensors file of edits."
        ) from error
    if metadata.get("format") != EDITS_FORMAT:
        raise EditError(
            f"The file {path} has the format {shorten(metadata.get('format'))}, but edits have {EDITS_FORMAT!r}: give "
            "a file that this package wrote, or bring one of another tool in with `sdic edits import`."
        )
    about = {key: metadata[key] for key in SET_KEYS if key in metadata}
    try:
        entries = json.loads(metadata["edits"])
        owned = _tensors_by_edit(entries.keys(), tensors)
        edits = [_read_edit(name, entry, owned[name], path, about) for name, entry in entries.items()]
    except EditError:
        raise
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise EditError(
            f"The edits {path} have damaged metadata ({type(error).__name__}: {short_reason(error)}): write or "
            "download the file again."
        ) from error
    return edits, about


def _tensors_by_edit(names: Sequence[str], tensors: dict[str, torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
    """Give each tensor `<edit>.<tensor>` to the edit with the longest name that fits: names may hold dots."""
    owned: dict[str, dict[str, torch.Tensor]] = {name: {} for name in names}
    for key, tensor in tensors.items():
        name = max((name for name in names if key.startswith(f"{name}.")), key=len, default=None)
        if name is not None:
            owned[name][key[len(name) + 1 :]] = tensor
    return owned


def _read_edit(
    name: str,
    entry: dict[str, Any],
    tensors: dict[str, torch.Tensor],
    path: str | os.PathLike[str],
    about: dict[str, str],
) -> Edit:
    family = FAMILIES.get(entry["family"])
    if family is None:
        raise EditError(
            f"The edit {shorten(name)} in {path} is of the family {shorten(entry['family'])}, but this version knows "
            f"{sorted(FAMILIES)}: update sdic_plugin."
        )
    layers = entry.get("layers")
    low, high = entry["strength_range"]
    said = {key: entry.get(key, about.get(key)) for key in ("source", "license")}
    return family(
        name=name,
        family=entry["family"],
        space=entry["space"],
        layers=None if layers is None else _layers(*layers),
        default_strength=float(entry["default_strength"]),
        strength_range=(float(low), float(high)),
        description=str(entry.get("description", "")),
        tensors=tensors,
        ends=entry.get("ends"),
        **{key: None if value is None else str(value) for key, value in said.items()},
        **{key: entry[key] for key in family.OPTIONS},
    )


def _layers(first: int, last: int) -> tuple[int, int]:
    return operator.index(first), operator.index(last)
