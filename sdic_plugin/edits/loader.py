"""Edits as adapters: loading sets of edits into a pipeline, in the manner of diffusers' LoRA loaders."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from sdic_plugin.edits.base import Edit, strengths_per_image
from sdic_plugin.edits.files import read_edits, write_edits
from sdic_plugin.errors import EditError

EDITS_FOLDER = "edits"


class EditsLoaderMixin:
    """Gives a pipeline with a `generator` named edits."""

    _edits: dict[str, Edit]

    def load_edits(self, source: str | os.PathLike, weight_name: str | None = None, strict: bool = True) -> list[str]:
        """Load sets of edits, all or none.

        Args:
            source: A file, or a folder: its `edits/*.safetensors`, or its own *.safetensors.
            weight_name: One file of the folder.
            strict: Refuse edits that were made for another generator; False admits fine-tuned generators on the same
                latents.

        Returns:
            The names of the loaded edits.

        Raises:
            EditError: If there are none, or they do not fit the generator.
        """
        found = []
        for path in _edit_files(Path(source), weight_name):
            edits, metadata = read_edits(path)
            own_id = self.generator.config.generator_id
            made_for = metadata.get("generator_id")
            if strict and None not in (own_id, made_for) and own_id != made_for:
                raise EditError(
                    f"The edits {path.name} were made for the generator {made_for}, but this one is {own_id}: load "
                    "edits of this generator, or pass strict=False if it was fine-tuned from that one."
                )
            found += edits
        for edit in found:
            edit.check_fits(self.generator.num_styles, self.generator.config.style_width)
        return [self.add_edit(edit) for edit in found]

    def add_edit(self, edit: Edit) -> str:
        """Add one edit (replacing one of the same name) and return its name; EditError if it does not fit."""
        edit.check_fits(self.generator.num_styles, self.generator.config.style_width)
        self._edits[edit.name] = edit
        return edit.name

    def get_list_edits(self) -> dict[str, Edit]:
        """Return the loaded edits by name."""
        return dict(self._edits)

    def delete_edits(self, names: str | Sequence[str]) -> None:
        """Remove edits by name; EditError for an unknown one."""
        for name in [names] if isinstance(names, str) else names:
            self._edits.pop(self.find_edit(name).name)

    def unload_edits(self) -> None:
        """Remove every edit."""
        self._edits.clear()

    def save_edits(self, folder: str | os.PathLike, weight_name: str = "edits.safetensors") -> None:
        """Write the loaded edits to `folder/weight_name` as one set."""
        config = self.generator.config
        write_edits(
            list(self._edits.values()),
            Path(folder) / weight_name,
            generator_id=config.generator_id,
            source=config.source,
            license=config.license,
        )

    def find_edit(self, name: str) -> Edit:
        """Return an edit by name; EditError names those there are."""
        if name not in self._edits:
            known = ", ".join(sorted(self._edits)) or "none; load some with `load_edits`"
            raise EditError(f"The edit {name!r} is unknown; this pipeline has: {known}.")
        return self._edits[name]

    def apply_edits(self, latents: torch.Tensor, edits: Mapping[str, float | Sequence[float]]) -> torch.Tensor:
        """Apply edits to W+ latents [B, num_styles, D], in the order given; one strength, or one per image."""
        for name, strength in edits.items():
            latents = self.find_edit(name).apply(latents, strengths_per_image(name, strength, len(latents)))
        return latents


def _edit_files(source: Path, weight_name: str | None) -> list[Path]:
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise EditError(
            f"The edits {source} do not exist: give a file, or a folder that holds *.safetensors of edits."
        )
    folder = source / EDITS_FOLDER if (source / EDITS_FOLDER).is_dir() else source
    files = [folder / weight_name] if weight_name else sorted(folder.glob("*.safetensors"))
    if not files or not files[0].is_file():
        raise EditError(f"The folder {source} holds no {weight_name or 'edits (*.safetensors)'}: name one that does.")
    return files
