"""Model folders of a pipeline: checked before they are loaded, written whole; safetensors only."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from sdic_plugin.checkpoints.folder import (
    WEIGHTS_NAME,
    check_component,
    component_folders,
    lone_variant,
    strip_local_path,
)
from sdic_plugin.edits.loader import EDITS_FOLDER
from sdic_plugin.errors import CheckpointError, cut_middle
from sdic_plugin.models import ALL_COMPONENTS, OPTIONAL_COMPONENTS
from sdic_plugin.utils.files import share_files


def check_model_folder(folder: Path, options: Mapping[str, object]) -> None:
    """Check the weights of every component that is to be loaded from a folder, by their headers alone.

    Args:
        folder: The model.
        options: Of `from_pretrained`: its `variant`, and components that stand in for the folder's.

    Raises:
        CheckpointError: If a component is missing, of another class, or its weights do not fit its configuration.
    """
    listed = component_folders(folder)
    variant = options.get("variant")
    if variant and not any(folder.glob(f"*/{WEIGHTS_NAME}.{variant}*.safetensors")):
        raise CheckpointError(
            f"You are trying to load the model files of the `variant={variant}`, but {folder} has no safetensors "
            "weights of it: leave `variant` out, or name one that it has."
        )
    for name, component in ALL_COMPONENTS.items():
        if options.get(name) is not None or (name in OPTIONAL_COMPONENTS and name not in listed):
            continue
        if listed.get(name) != component.__name__:
            given = cut_middle(listed.get(name, "no class"), 100)
            raise CheckpointError(
                f"The model {folder} has {given} as its {name!r}, but {component.__name__} is needed: give an "
                "SDIC model."
            )
        check_component(folder / name, component, None if variant is None else str(variant))


def variant_to_load(folder: Path, options: Mapping[str, object]) -> object:
    """The variant that was asked for, or else the only one that networks without plain weights have; None for plain.

    Args:
        folder: The model.
        options: Of `from_pretrained`, see `check_model_folder`.
    """
    if options.get("variant"):
        return options["variant"]
    found = {lone_variant(folder / name) for name in ALL_COMPONENTS if options.get(name) is None} - {None}
    return found.pop() if len(found) == 1 else None


@contextmanager
def replacing_model(target: Path, variant: str | None) -> Iterator[Path]:
    """Give a folder to write a model to, whose files then take their places in another, each whole or not at all.

    Args:
        target: Where they go; made if needed. Files of another variant in it stay, other edits do not.
        variant: Of the weights that are written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as name:
        temporary = Path(name)
        yield temporary
        _leave_out_missing(temporary / "model_index.json")
        for path in temporary.rglob("*.json"):
            strip_local_path(path)
        share_files(temporary)
        _move_files(temporary, target, variant)


def _leave_out_missing(path: Path) -> None:
    """Let an index not name the components that there might be: it is that of earlier versions then."""
    index = json.loads(path.read_text(encoding="utf-8"))
    kept = {name: value for name, value in index.items() if name not in OPTIONAL_COMPONENTS or value[1] is not None}
    if kept != index:
        path.write_text(json.dumps(kept, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _move_files(source: Path, target: Path, variant: str | None) -> None:
    """Move a saved pipeline into its folder, replacing files; drop stale shards of its variant, and stale edits."""
    written = {path.relative_to(source) for path in source.rglob("*") if path.is_file()}
    for relative in sorted(written):
        (target / relative).parent.mkdir(parents=True, exist_ok=True)
        os.replace(source / relative, target / relative)
    suffix = f".{variant}" if variant else ""
    patterns = [f"{EDITS_FOLDER}/*.safetensors"]
    for component in {relative.parent for relative in written if len(relative.parts) == 2}:
        names = (f"*model{suffix}.safetensors", f"*model{suffix}-*-of-*.safetensors", f"*.index{suffix}.json")
        patterns += [f"{component}/{name}" for name in names]
    for path in {path for pattern in patterns for path in target.glob(pattern)}:
        if path.relative_to(target) not in written:
            path.unlink()
