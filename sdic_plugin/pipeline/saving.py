"""How a pipeline is loaded, saved and shared: folders, bundled models and the Hub; safetensors only."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from sdic_plugin.checkpoints.folder import (
    WEIGHTS_NAME,
    check_component,
    component_folders,
    resolve_model,
    strip_local_path,
)
from sdic_plugin.checkpoints.hub import download_model
from sdic_plugin.edits.loader import EDITS_FOLDER
from sdic_plugin.errors import CheckpointError, cut_middle
from sdic_plugin.models import PIPELINE_COMPONENTS
from sdic_plugin.pipeline.checks import check_finite_weights
from sdic_plugin.pipeline.fusing import refuse_if_fused
from sdic_plugin.utils.files import share_files

if TYPE_CHECKING:
    from sdic_plugin.pipeline.sdic import SDICPipeline


class SavingMixin:
    """Gives a pipeline with edits its folder format."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: object) -> SDICPipeline:
        """Load a pipeline and its edits; safetensors only, weights checked against the configuration first.

        Args:
            pretrained_model_name_or_path: An existing folder, else a bundled name ("cats64"), else a Hub id.
            kwargs: As for `DiffusionPipeline.from_pretrained`: `dtype` (a dict per component works; float32 by
                default), `variant`, `device_map`, components to replace, and the Hub's options.

        Raises:
            CheckpointError: If the model is not found, damaged, or incomplete.
        """
        folder = resolve_model(pretrained_model_name_or_path)
        if folder is None:
            folder = Path(cls.download(str(pretrained_model_name_or_path), **kwargs))
        cls._check_folder(folder, kwargs)
        kwargs["use_safetensors"] = True
        if kwargs.get("dtype") is None and kwargs.get("torch_dtype") is None:
            kwargs["dtype"] = torch.float32
        pipe = super().from_pretrained(str(folder), **kwargs)
        check_finite_weights(**pipe.components)
        if any((folder / EDITS_FOLDER).glob("*.safetensors")):
            pipe.load_edits(folder)
        return pipe

    @classmethod
    def _check_folder(cls, folder: Path, options: Mapping[str, object]) -> None:
        """Check the weights of every component that is to be loaded from the folder."""
        listed = component_folders(folder)
        variant = options.get("variant")
        if variant and not any(folder.glob(f"*/{WEIGHTS_NAME}.{variant}*.safetensors")):
            raise CheckpointError(
                f"You are trying to load the model files of the `variant={variant}`, but {folder} has no safetensors "
                "weights of it: leave `variant` out, or name one that it has."
            )
        for name, component in PIPELINE_COMPONENTS.items():
            if options.get(name) is not None:
                continue
            if listed.get(name) != component.__name__:
                given = cut_middle(listed.get(name, "no class"), 100)
                raise CheckpointError(
                    f"The model {folder} has {given} as its {name!r}, but {component.__name__} is needed: give an "
                    "SDIC model."
                )
            check_component(folder / name, component, variant)

    @classmethod
    def download(cls, pretrained_model_name: str, **kwargs: object) -> str:
        """Fetch a model from the Hub and return its folder; see `sdic_plugin.checkpoints.hub.download_model`."""
        return str(download_model(pretrained_model_name, **kwargs))

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs: object) -> None:
        """Save components, configuration and edits; each file appears whole or not at all.

        Args:
            save_directory: The folder; made if needed. Files of another variant in it stay, other edits do not.
            push_to_hub: Also upload it, as `push_to_hub` does, which gets `repo_id` (by default the folder's name),
                `license` and the Hub's options from `kwargs`.
            kwargs: As for `DiffusionPipeline.save_pretrained` (`variant`, `max_shard_size` …).
        """
        refuse_if_fused(self, "saved")
        if self._inverting_generator is not None:
            raise CheckpointError(
                "This pipeline renders with another generator than it inverts with, which a model folder cannot hold: "
                "save the original pipeline and the other generator, and call `with_generator` after loading."
            )
        target = Path(save_directory)
        names = ("repo_id", "license", "private", "token", "commit_message", "revision")
        upload = {name: kwargs.pop(name) for name in names if name in kwargs}
        target.parent.mkdir(parents=True, exist_ok=True)
        kwargs["safe_serialization"] = True
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as temporary:
            super().save_pretrained(temporary, **kwargs)
            if self._edits:
                self.save_edits(Path(temporary) / EDITS_FOLDER)
            for path in Path(temporary).rglob("*.json"):
                strip_local_path(path)
            share_files(Path(temporary))
            _move_files(Path(temporary), target, kwargs.get("variant"))
        if push_to_hub:
            self.push_to_hub(**{"repo_id": target.name, **upload})

    def push_to_hub(self, repo_id: str, license: str | None = None, **options: object) -> str:
        """Upload the pipeline with its card and edits; see `sdic_plugin.hub.push_model`.

        Args:
            repo_id: "user/name".
            license: Of the weights; must be given.
            options: Of `push_model`: `evaluation`, `examples`, `base_model`, `private`, `token` …

        Returns:
            Address of the commit.
        """
        from sdic_plugin.hub import push_model

        return push_model(self, repo_id, license, **options)

    def push_edits_to_hub(self, repo_id: str, license: str | None = None, **options: object) -> str:
        """Upload the loaded edits alone; see `sdic_plugin.hub.push_edits`."""
        from sdic_plugin.hub import push_edits

        config = self.generator.config
        known = {
            "generator_id": config.generator_id,
            "source": config.source,
            "recorded_license": config.license,
        }
        return push_edits(list(self._edits.values()), repo_id, license, **{**known, **options})


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
