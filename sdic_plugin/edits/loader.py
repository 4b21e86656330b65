"""Edits as adapters: loading sets of edits into a pipeline, in the manner of diffusers' LoRA loaders."""

from __future__ import annotations

import copy
import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Self, Unpack, cast

import torch

from sdic_plugin.checkpoints.folder import bundled_models
from sdic_plugin.checkpoints.hub import HUB_ERRORS, HubOptions, download_files, hub_reason
from sdic_plugin.edits.base import STYLE_SPACE, Code, Edit
from sdic_plugin.edits.files import read_edits, write_edits
from sdic_plugin.errors import EditError, cut_middle, shorten
from sdic_plugin.models import StyleGAN2Generator

EDITS_FOLDER = "edits"
MOST_NAMED = 20
"""How many edits a message lists."""

Strength = float | Sequence[float]
"""One strength for all images, or one per image."""


class EditsLoaderMixin:
    """Gives a pipeline with a `generator` named edits.

    The pipeline sets the attributes: the generator that the edits are for, the edits by name, and the strength of
    those that `set_edits` made active.
    """

    generator: StyleGAN2Generator
    _edits: dict[str, Edit]
    _active_edits: dict[str, Strength]

    def load_edits(
        self,
        source: str | os.PathLike[str],
        weight_name: str | None = None,
        adapter_name: str | None = None,
        strict: bool = True,
        resolution: int | None = None,
        **hub_options: Unpack[HubOptions],
    ) -> list[str]:
        """Load sets of edits, all or none; they do nothing until they are named, in `edit` or by `set_edits`.

        Args:
            source: A file; or a folder (its `edits/*.safetensors`, or its own *.safetensors), a bundled model's name,
                or a Hub id, in this order.
            weight_name: One file of the folder.
            adapter_name: Another name for the edit; of several edits, what their names then begin with.
            strict: Refuse edits that were made for another generator; False admits fine-tuned generators on the same
                latents, such as those that were grown.
            resolution: That of the generator which the edits were made for, in pixels, where this one was grown,
                shrunk or widened from it: the edits are resized (see `Edit.resized`). None for this one's.
            hub_options: `revision`, `token`, `cache_dir`, `local_files_only`, `force_download`.

        Returns:
            The names of the loaded edits.

        Raises:
            EditError: If there are none, they cannot be read, or they do not fit the generator.
        """
        found = []
        for path in find_edit_files(source, weight_name, **hub_options):
            edits, metadata = read_edits(path)
            if strict:
                check_generator(path.name, metadata.get("generator_id"), self.generator.config.generator_id)
            found += edits
        if adapter_name is not None:
            names = [adapter_name] if len(found) == 1 else [f"{adapter_name}_{edit.name}" for edit in found]
            found = [dataclasses.replace(edit, name=name) for edit, name in zip(found, names, strict=True)]
        if resolution is not None:
            found = [edit.resized(resolution, self.generator) for edit in found]
        for edit in found:
            edit.check_fits(self.generator)
        return [self.add_edit(edit) for edit in found]

    def add_edit(self, edit: Edit) -> str:
        """Add one edit (replacing one of the same name) and return its name; EditError if it does not fit."""
        edit.check_fits(self.generator)
        self._edits[edit.name] = edit
        return edit.name

    def with_edits(self, edits: Mapping[str, Edit], active: Mapping[str, Strength] | None = None) -> Self:
        """Return a pipeline that shares all networks with this one, and has these edits instead.

        Args:
            edits: By name, of this pipeline or of another on the same latents.
            active: Strength by name of those that are active; None for none.
        """
        shared = copy.copy(self)
        shared._edits, shared._active_edits = dict(edits), dict(active or {})
        return shared

    def set_edits(self, names: str | Sequence[str], weights: Strength | Sequence[Strength] | None = None) -> None:
        """Make edits active: `edit` and `__call__` then apply them whenever they are given no edits of their own.

        Args:
            names: One name or several; none at all (`[]`) makes every edit inactive.
            weights: Strength of each (a sequence among them gives one per image); None for their defaults.

        Raises:
            EditError: If a name is unknown, or the number of weights does not fit.
        """
        chosen = [names] if isinstance(names, str) else list(names)
        defaults = [self.find_edit(name).default_strength for name in chosen]
        strengths: Sequence[Strength]
        if weights is None:
            strengths = defaults
        elif isinstance(names, str):
            strengths = [cast(Strength, weights)]  # a sequence holds one per image then
        elif isinstance(weights, int | float):
            strengths = [weights] * len(chosen)
        else:
            strengths = weights
        if len(strengths) != len(chosen):
            raise EditError(f"{len(strengths)} weights were given for {len(chosen)} edits: give one each.")
        active = dict(zip(chosen, strengths, strict=True))
        self.check_strengths(active)
        self._active_edits = active

    def get_active_edits(self) -> dict[str, Strength]:
        """Return strength by name of the edits that `set_edits` made active."""
        return dict(self._active_edits)

    def get_list_edits(self) -> dict[str, Edit]:
        """Return the loaded edits by name."""
        return dict(self._edits)

    def delete_edits(self, names: str | Sequence[str]) -> None:
        """Remove edits by name; EditError for an unknown one."""
        for name in [names] if isinstance(names, str) else names:
            self._edits.pop(self.find_edit(name).name)
            self._active_edits.pop(name, None)

    def unload_edits(self) -> None:
        """Remove every edit."""
        self._edits.clear()
        self._active_edits.clear()

    def save_edits(
        self,
        folder: str | os.PathLike[str],
        weight_name: str = "edits.safetensors",
        names: str | Sequence[str] | None = None,
    ) -> None:
        """Write edits to `folder/weight_name` as one set, to be loaded by `load_edits`.

        Each keeps its own source and licence. Where one is unknown it stays so: the generator's need not be an edit's.

        Args:
            folder: Folder to write to; made if needed.
            weight_name: Name of the file in it, ending in .safetensors.
            names: One edit to write, or several; None for all that are loaded.

        Raises:
            EditError: If a name is unknown, or the file has another ending.
        """
        chosen = list(self._edits) if names is None else [names] if isinstance(names, str) else names
        edits = [self.find_edit(name) for name in chosen]
        write_edits(
            edits,
            Path(folder) / weight_name,
            generator_id=self.generator.config.generator_id,
            source=_common(edit.source for edit in edits),
            license=_common(edit.license for edit in edits),
        )

    def find_edit(self, name: str) -> Edit:
        """Return an edit by name; EditError names those there are."""
        if name not in self._edits:
            known = ", ".join(sorted(self._edits)[:MOST_NAMED]) or "none; load some with `load_edits`"
            more = f" and {len(self._edits) - MOST_NAMED} more" if len(self._edits) > MOST_NAMED else ""
            raise EditError(f"The edit {shorten(name)} is unknown; this pipeline has: {cut_middle(known, 200)}{more}.")
        return self._edits[name]

    def check_strengths(self, edits: Mapping[str, Strength]) -> None:
        """Raise EditError unless this is strength by name, of edits there are, each a number in or near its range."""
        if not isinstance(edits, Mapping):
            raise EditError(
                f"Edits were given as {shorten(edits)}, but a strength by name is needed, such as {{'warmth': 1.5}}."
            )
        for name, strength in edits.items():
            self.find_edit(name).strengths(strength)

    def apply_edits(self, latents: torch.Tensor, edits: Mapping[str, Strength]) -> Code:
        """Apply edits to W+ latents: those in W and W+ in the order given, then those in StyleSpace.

        Args:
            latents: W+, [B, num_styles, D].
            edits: Strength by name; a sequence gives one strength per image. The order matters only among edits with
                a target (`Edit.is_offset` is False).

        Returns:
            W+ latents, or, if an edit acts in StyleSpace, StyleSpace [B, C_i] per modulated layer: what
            `synthesize` renders.
        """
        in_style_space = {name: value for name, value in edits.items() if self.find_edit(name).space == STYLE_SPACE}
        for name, strength in edits.items():
            if name not in in_style_space:
                edit = self.find_edit(name)
                latents = edit.apply(latents, edit.strengths(strength, len(latents)))
        return self.apply_style_edits(self.generator.styles(latents), in_style_space) if in_style_space else latents

    def apply_style_edits(self, styles: Sequence[torch.Tensor], edits: Mapping[str, Strength]) -> list[torch.Tensor]:
        """Apply edits in StyleSpace to StyleSpace, [B, C_i] per modulated layer; EditError for edits in W and W+."""
        styles = list(styles)
        for name, strength in edits.items():
            edit = self.find_edit(name)
            if edit.space != STYLE_SPACE:
                raise EditError(
                    f"The edit {name!r} acts in the space {edit.space!r}, but StyleSpace was given, from which "
                    "latents cannot be found: apply it to the latents first."
                )
            styles = edit.apply_styles(styles, edit.strengths(strength, len(styles[0])))
        return styles


def _common(values: Iterable[str | None]) -> str | None:
    """The value that all share; None if they differ, or one is unknown."""
    found = set(values)
    return found.pop() if len(found) == 1 else None


def check_generator(name: str, made_for: str | None, own: str | None) -> None:
    """Raise EditError if a set says that it was made for another generator.

    Args:
        name: Name of the set, for the message.
        made_for: The generator's id in the set; None if it does not say.
        own: Id of the generator at hand; None if it does not say.
    """
    if own is not None and made_for is not None and own != made_for:
        raise EditError(
            f"The edits {cut_middle(name, 100)} were made for the generator {cut_middle(made_for, 40)}, but this one "
            f"is {own}: load edits of this generator, or pass strict=False if it was fine-tuned from that one."
        )


def find_edit_files(
    source: str | os.PathLike[str], weight_name: str | None = None, **hub_options: Unpack[HubOptions]
) -> list[Path]:
    """List the files of edits that a source names; see `EditsLoaderMixin.load_edits`.

    Raises:
        EditError: If there are none, or they cannot be fetched from the Hub.
    """
    path = Path(source)
    if path.is_file():
        return [path]
    if not path.is_dir():
        path = bundled_models().get(str(source)) or _download_edits(source, weight_name, **hub_options)
    folder = path / EDITS_FOLDER if (path / EDITS_FOLDER).is_dir() else path
    files = [folder / weight_name] if weight_name else sorted(folder.glob("*.safetensors"))
    if not files or not files[0].is_file():
        raise EditError(f"The folder {source} holds no {weight_name or 'edits (*.safetensors)'}: name one that does.")
    return files


def _download_edits(
    source: str | os.PathLike[str], weight_name: str | None, **hub_options: Unpack[HubOptions]
) -> Path:
    """Fetch the edits of a Hub repository, and nothing else of it; returns its folder."""
    name = str(source)
    if name.count("/") != 1 or name.startswith(("/", "./", "../", "~")) or name.endswith(".safetensors"):
        raise EditError(
            f"The edits {name} do not exist: give a file, a folder that holds *.safetensors of edits, a bundled "
            f"model's name ({', '.join(bundled_models())}) or a Hub id such as 'user/name'."
        )
    wanted = weight_name or "*.safetensors"
    # In patterns of the Hub, * crosses folders: without these, a model's weights came along.
    ignored = ["*/diffusion_pytorch_model*", "losses/*"]
    try:
        return download_files(name, [wanted, f"{EDITS_FOLDER}/{wanted}"], ignored, hub_options)
    except HUB_ERRORS as error:
        raise EditError(
            f"The edits {name!r} could not be fetched from the Hub ({hub_reason(error)}): check the name, your "
            "connection and your access, or give a local file."
        ) from error
