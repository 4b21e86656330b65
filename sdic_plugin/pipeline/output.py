"""What the pipeline returns: the inversion of a photo, and rendered images."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from diffusers.utils import BaseOutput
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from sdic_plugin.errors import CheckpointError, listed, short_reason, shorten
from sdic_plugin.utils.devices import check_device
from sdic_plugin.utils.files import replacing_file

INVERSION_FORMAT = "sdic-inversion-3"
OLD_FORMATS = ("sdic-inversion-1", "sdic-inversion-2")
"""Without `generator_id`; the first one had no `reference_skip_image`, which the others may lack."""


@dataclass
class SDICInversion:
    """Everything that is computed once per photo; edits start from here.

    B images of height H and width W; the generator has side R, feature map [C, r, r], num_styles N, style width D.

    Attributes:
        image: The photo as the encoder saw it, [B, 3, H, W] in [-1, 1].
        latents: W+ found by the encoder, [B, N, D].
        initial: Initial reconstruction, [B, 3, R, R], unclamped.
        features: The generator's features for `latents`, [B, C, r, r].
        discrepancy: What the initial reconstruction lost, [B, 3, H, W], unbounded.
        compensated_latents: w⁺, [B, N, D].
        compensated_features: F⁺, [B, C, r, r].
        reference_features: The generator's features for `compensated_latents`, [B, C, r, r].
        reference_skip_image: What its ToRGB layers gave before them, [B, 3, r/2, r/2]; None in inversions that were
            saved before there was this. With it, edits that begin after the hook begin there.
        generator_id: The generator it was made with (`generator.config.generator_id`); None if unknown.
        transport_at_rest: What the transport gives for no edit, [B, C, r, r]; None without one, and in inversions that
            were read from a file, which do not have it: it is computed for each edit then.
        transport_key: Which transport that was, see `sdic_plugin.pipeline.rendering.module_key`.
    """

    image: torch.Tensor
    latents: torch.Tensor
    initial: torch.Tensor
    features: torch.Tensor
    discrepancy: torch.Tensor
    compensated_latents: torch.Tensor
    compensated_features: torch.Tensor
    reference_features: torch.Tensor
    reference_skip_image: torch.Tensor | None = None
    generator_id: str | None = None
    transport_at_rest: torch.Tensor | None = None
    transport_key: str | None = None

    def __repr__(self) -> str:
        """Shapes, dtype and device; the numbers are of no use to anyone."""
        kinds = sorted({f"{tensor.dtype} on {tensor.device}" for tensor in self.tensors().values()})
        count = f"{len(self)} image" if len(self) == 1 else f"{len(self)} images"
        lines = [f"{count}, {', '.join(kinds)}, generator {shorten(self.generator_id)}"]
        lines += [f"{name} {list(tensor.shape)}" for name, tensor in self.tensors().items()]
        return "SDICInversion(" + ",\n  ".join(lines) + ")"

    def __len__(self) -> int:
        """Number of images."""
        return self.image.shape[0]

    def __getitem__(self, index: int | slice | Sequence[int]) -> SDICInversion:
        """Take some of the images, as an inversion of their own."""
        if isinstance(index, int):
            if not -len(self) <= index < len(self):
                raise IndexError(f"Image {index} was asked for, but the inversion holds {len(self)}.")
            index = [index]
        return self._map(lambda tensor: tensor[index])

    @classmethod
    def cat(cls, inversions: Sequence[SDICInversion]) -> SDICInversion:
        """Join inversions of one generator into one batch.

        Raises:
            CheckpointError: If there is none, or they were made with several generators.
        """
        ids = {inversion.generator_id for inversion in inversions} - {None}
        if not inversions or len(ids) > 1:
            raise CheckpointError(
                f"{len(inversions)} inversions of {len(ids)} generators were to be joined: give one or more, all of "
                "one generator."
            )
        known = set.intersection(*(set(inversion.tensors()) for inversion in inversions))
        keys = {inversion.transport_key for inversion in inversions}
        if len(keys) > 1:
            known.discard("transport_at_rest")
        joined = {name: torch.cat([getattr(inversion, name) for inversion in inversions]) for name in known}
        return cls(**joined, generator_id=next(iter(ids), None), transport_key=keys.pop() if len(keys) == 1 else None)

    def repeat(self, count: int) -> SDICInversion:
        """Repeat an inversion of one image `count` times, without copying it: one edit per copy is one batch."""
        if len(self) != 1:
            raise CheckpointError(
                f"The inversion holds {len(self)} images, but one is repeated: take it by its index."
            )
        return self._map(lambda tensor: tensor.expand(count, *tensor.shape[1:]))

    def to(self, *args: Any, **kwargs: Any) -> SDICInversion:
        """Move to a device, or cast, as `torch.Tensor.to` does; returns a new inversion."""
        return self._map(lambda tensor: tensor.to(*args, **kwargs))

    def save(self, path: str | os.PathLike[str], notes: Mapping[str, str] | None = None) -> None:
        """Write all tensors to one safetensors file, whole or not at all.

        Args:
            path: The file.
            notes: More metadata for it.

        Raises:
            CheckpointError: If it holds no image.
            OSError: If it cannot be written, as on a full disk.
        """
        if not len(self):
            raise CheckpointError(f"The inversion for {shorten(str(path))} holds no image: give one of 1 or more.")
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.tensors().items()}
        tensors.pop("transport_at_rest", None)  # another pipeline's transport may be another
        metadata = {"format": INVERSION_FORMAT}
        if self.generator_id is not None:
            metadata["generator_id"] = self.generator_id
        try:
            with replacing_file(path) as temporary:
                save_file(tensors, temporary, metadata={**(notes or {}), **metadata})
        except SafetensorError as error:  # safetensors' own, of whatever the system said
            raise OSError(
                f"The inversion {path} cannot be written ({error}): make room, or choose another."
            ) from error

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: str | torch.device = "cpu") -> SDICInversion:
        """Read a file that `save` wrote, in this or an earlier version.

        Whether it belongs to a pipeline is checked by `SDICPipeline.load_inversion`, and by every edit.

        Raises:
            CheckpointError: If the file is no inversion, is damaged, or its tensors do not fit each other.
            SDICError: If there is no such device.
        """
        check_device(device)
        try:
            with safe_open(path, framework="pt", device=str(device)) as file:
                metadata = file.metadata() or {}
                tensors = {key: file.get_tensor(key) for key in file.keys()}
        except (OSError, SafetensorError) as error:
            raise CheckpointError(
                f"The inversion {path} cannot be read ({short_reason(error)}): give a file that `SDICInversion.save` "
                "wrote."
            ) from error
        not_kept = {"generator_id", "transport_at_rest", "transport_key"}
        names = {field.name for field in dataclasses.fields(cls)} - not_kept
        fits = tensors.keys() | {"reference_skip_image"} == names
        if metadata.get("format") not in (INVERSION_FORMAT, *OLD_FORMATS) or not fits:
            raise CheckpointError(
                f"The file {path} is no inversion: it has the format {shorten(metadata.get('format'))} and the "
                f"tensors [{listed(sorted(tensors))}], where {INVERSION_FORMAT!r} with {sorted(names)} is needed."
            )
        counts = {name: tensor.shape[0] if tensor.ndim else 0 for name, tensor in tensors.items()}
        if len(set(counts.values())) != 1 or 0 in counts.values():
            raise CheckpointError(
                f"The inversion {path} is damaged: its tensors hold {counts} images, but one count for all, 1 or "
                "more, is needed; save it again."
            )
        for name, tensor in tensors.items():
            axes = 3 if name.endswith("latents") else 4
            if tensor.ndim != axes or not tensor.is_floating_point() or not tensor.isfinite().all():
                raise CheckpointError(
                    f"The inversion {path} is damaged: {name!r} is {tensor.dtype} of shape {list(tensor.shape)}, but "
                    f"must be {axes} axes of finite numbers; save it again."
                )
        return cls(**tensors, generator_id=metadata.get("generator_id"))

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the tensors that there are, by name."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, torch.Tensor)}

    def _map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> SDICInversion:
        changed: dict[str, Any] = {name: function(tensor) for name, tensor in self.tensors().items()}
        return dataclasses.replace(self, **changed)


Images = TypeVar("Images")


@dataclass
class SDICPipelineOutput(BaseOutput, Generic[Images]):
    """Rendered images.

    Attributes:
        images: For output_type "pil" a list of images, for "np" an array [B, H, W, 3] in [0, 1], for "pt" a tensor
            [B, 3, H, W] in [0, 1], for "latent" the W+ latents [B, num_styles, D] that would have been rendered.
    """

    images: Images

    def __repr__(self) -> str:
        """How many pictures of which size, or the shape and dtype of an array."""
        if isinstance(self.images, list):
            sizes = sorted({f"{image.width}x{image.height}" for image in self.images})
            return f"SDICPipelineOutput(images: {len(self.images)} pictures of {' or '.join(sizes)})"
        if isinstance(self.images, np.ndarray | torch.Tensor):
            return f"SDICPipelineOutput(images: {list(self.images.shape)}, {self.images.dtype})"
        return super().__repr__()
