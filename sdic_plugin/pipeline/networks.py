"""The networks of an SDIC pipeline and its edits: in folders, on the Hub, on devices. What they compute: `sdic`."""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from diffusers.configuration_utils import FrozenDict
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from torch import nn

from sdic_plugin.checkpoints.folder import NOTICE_NAME, PACKAGE, read_notices, resolve_model
from sdic_plugin.checkpoints.hub import download_model
from sdic_plugin.edits.files import read_edits
from sdic_plugin.edits.loader import EDITS_FOLDER, EditsLoaderMixin
from sdic_plugin.errors import CheckpointError, SDICError
from sdic_plugin.models import (
    DICN,
    DIPN,
    OPTIONAL_COMPONENTS,
    E4EEncoder,
    FeatureTransport,
    StyleGAN2Generator,
)
from sdic_plugin.pipeline.checks import check_components, check_finite_weights, check_fit, check_full_precision
from sdic_plugin.pipeline.fusing import check_move, fuse, refuse_device_map, refuse_if_fused
from sdic_plugin.pipeline.saving import check_model_folder, replacing_model, variant_to_load
from sdic_plugin.utils.precision import without_false_alarms

if TYPE_CHECKING:
    from sdic_plugin.hub import ModelFacts
    from sdic_plugin.pipeline.fusing import Network, Networks

logger = logging.getLogger(__name__)

HUB_NAMES = ("repo_id", "license", "private", "token", "commit_message", "revision")
"""Options of `save_pretrained` that are `push_to_hub`'s."""


class SDICPipelineConfig(FrozenDict):
    """What type checkers know of `SDICPipeline.config`, beside its networks' classes."""

    feature_edit: str
    alignment: dict[str, Any] | None
    subject: dict[str, Any] | None


class SDICNetworks(EditsLoaderMixin, DiffusionPipeline):
    """An encoder, DIPN, DICN and a generator that fit each other, and edits: loaded, saved, shared, put on devices.

    Args:
        encoder: e4e, finds W+ latents.
        dipn: Predicts what the initial reconstruction lost.
        dicn: Puts it back into latents and features.
        generator: StyleGAN2.
        transport: Lets detail follow edits; None for the plain rule.

    Attributes:
        notice: What the model's NOTICE.md says, which is saved with it; None without one.

    Raises:
        SDICError: If a component is of the wrong class, lacks weights, or the components do not fit each other.
    """

    encoder: E4EEncoder
    dipn: DIPN
    dicn: DICN
    generator: StyleGAN2Generator
    transport: FeatureTransport | None
    notice: str | None
    config: SDICPipelineConfig

    model_cpu_offload_seq = "encoder->generator"  # type: ignore[assignment]  # diffusers declares None
    # These run between or within passes of the generator; they are small, so they stay on the device.
    _exclude_from_cpu_offload = ["dipn", "dicn", "transport"]  # noqa: RUF012
    _optional_components = list(OPTIONAL_COMPONENTS)  # noqa: RUF012

    def __init__(
        self,
        encoder: E4EEncoder,
        dipn: DIPN,
        dicn: DICN,
        generator: StyleGAN2Generator,
        transport: FeatureTransport | None = None,
    ) -> None:
        super().__init__()
        optional = {} if transport is None else {"transport": transport}
        check_components(encoder=encoder, dipn=dipn, dicn=dicn, generator=generator, **optional)
        check_fit({"encoder": encoder, "dicn": dicn, "generator": generator, **optional})
        self.register_modules(encoder=encoder, dipn=dipn, dicn=dicn, generator=generator, transport=transport)
        self._edits, self._active_edits = {}, {}
        self.notice = None
        self._inverting_generator: StyleGAN2Generator | None = None

    def register_to_config(self, **kwargs: Any) -> None:
        """Note values in the configuration; of a network it names this package, whichever file its class lives in."""
        super().register_to_config(**{name: _as_stored(value) for name, value in kwargs.items()})

    @property
    def components(self) -> dict[str, Any]:
        """The networks that this pipeline has, by name."""
        return {name: network for name, network in super().components.items() if network is not None}

    @property
    def inverting_generator(self) -> StyleGAN2Generator:
        """The generator that photos are inverted with; another than `generator` only after `with_generator`."""
        return self.generator if self._inverting_generator is None else self._inverting_generator

    # Sizes.

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the images the encoder sees."""
        size, resolution = self.encoder.config.image_size, self.generator.config.resolution
        first, last = self.generator.config.content_rows or (0, resolution)
        return (last - first) * size // resolution, size

    @property
    def output_rows(self) -> slice:
        """Rows of the generator's image that hold the picture."""
        return slice(*(self.generator.config.content_rows or (0, self.generator.config.resolution)))

    # Loading, saving and sharing.

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any) -> Self:
        """Load a pipeline and its edits; safetensors only, weights checked against the configuration first.

        Args:
            pretrained_model_name_or_path: An existing folder, else a bundled name ("cats64"), else a Hub id.
            kwargs: As for `DiffusionPipeline.from_pretrained`: `dtype` (a dict per component works; float32 by
                default), `variant` (needless where the weights are in one only), `device_map`, components to
                replace, and the Hub's options.

        Raises:
            CheckpointError: If the model is not found, damaged, or incomplete.
        """
        folder = resolve_model(pretrained_model_name_or_path)
        if folder is None:
            folder = Path(cls.download(str(pretrained_model_name_or_path), **kwargs))
        kwargs["variant"] = variant_to_load(folder, kwargs)
        check_model_folder(folder, kwargs)
        kwargs["use_safetensors"] = True
        if kwargs.get("dtype") is None and kwargs.get("torch_dtype") is None:
            kwargs["dtype"] = torch.float32
        pipe: Self = super().from_pretrained(str(folder), **kwargs)
        check_finite_weights(**pipe.components)
        pipe.notice = read_notices(folder)
        pipe._load_own_edits(folder, exchanged=kwargs.get("generator") is not None)
        return pipe

    def _load_own_edits(self, folder: Path, exchanged: bool) -> None:
        """Load a model's edits; with an exchanged generator, those that are not the other's alone."""
        for path in sorted((folder / EDITS_FOLDER).glob("*.safetensors")):
            made_for, own = read_edits(path)[1].get("generator_id"), self.generator.config.generator_id
            if exchanged and None not in (made_for, own) and made_for != own:
                logger.warning(
                    f"The edits {path.name} are those of the model's own generator and were left out: "
                    "load_edits(..., strict=False) loads them for one that was fine-tuned from it."
                )
            else:
                self.load_edits(path)

    @classmethod
    def download(cls, pretrained_model_name: str, **kwargs: Any) -> str:
        """Fetch a model from the Hub and return its folder; see `sdic_plugin.checkpoints.hub.download_model`."""
        return str(download_model(pretrained_model_name, **kwargs))

    # diffusers names more options, which all come through kwargs.
    def save_pretrained(  # type: ignore[override]
        self, save_directory: str | os.PathLike[str], push_to_hub: bool = False, **kwargs: Any
    ) -> None:
        """Save components, configuration, edits and notice; each file appears whole or not at all.

        Args:
            save_directory: The folder; made if needed. Files of another variant in it stay, other edits do not.
            push_to_hub: Also upload it, as `push_to_hub` does, which gets `repo_id` (by default the folder's name),
                `license` and the Hub's options from `kwargs`.
            kwargs: As for `DiffusionPipeline.save_pretrained` (`variant`, `max_shard_size` …).
        """
        refuse_if_fused(self.networks, "saved")
        if self._inverting_generator is not None:
            raise CheckpointError(
                "This pipeline renders with another generator than it inverts with, which a model folder cannot hold: "
                "save the original pipeline and the other generator, and call `with_generator` after loading."
            )
        target = Path(save_directory)
        upload = {name: kwargs.pop(name) for name in HUB_NAMES if name in kwargs}
        kwargs["safe_serialization"] = True
        with replacing_model(target, kwargs.get("variant")) as temporary:
            super().save_pretrained(temporary, **kwargs)
            if self._edits:
                self.save_edits(temporary / EDITS_FOLDER)
            if self.notice is not None:
                (temporary / NOTICE_NAME).write_text(self.notice, encoding="utf-8")
        if push_to_hub:
            self.push_to_hub(**{"repo_id": target.name, **upload})

    def push_to_hub(  # type: ignore[override]  # a licence comes second, for it must be given
        self,
        repo_id: str,
        license: str | None = None,
        *,
        model: str | os.PathLike[str] | None = None,
        **options: Any,
    ) -> str:
        """Upload the pipeline with its card and edits, in float32 and float16; see `sdic_plugin.hub.push_folder`.

        Args:
            repo_id: "user/name", or "name" alone for one of your own.
            license: Of the weights; must be given, and be the one that the generator's configuration records.
            model: Folder the pipeline was loaded from, whose discriminator, loss networks and notice go along.
            options: Of `push_folder`: `evaluation`, `examples`, `base_model`, `private`, `token` …

        Returns:
            Address of the commit.

        Raises:
            SDICError: If a network is in half precision, or as `push_folder` does.
        """
        # What uploads is imported where something is uploaded; a repository of remote code has it not.
        from sdic_plugin.hub import check_license, push_folder

        facts = self.model_facts()
        check_license(license, facts.license, facts.source)
        check_full_precision(**self.components)
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return push_folder(folder, facts, repo_id, license, extras=model, **options)

    def push_edits_to_hub(self, repo_id: str, license: str | None = None, **options: Any) -> str:
        """Upload the loaded edits alone; see `sdic_plugin.hub.push_edits`.

        Args:
            repo_id: "user/name", or "name" alone for one of your own.
            license: Of the edits; must be given, and be the one that the generator's configuration records.
            options: Of `push_edits`: `source`, `examples`, `base_model`, `private`, `token` …

        Returns:
            Address of the commit.
        """
        from sdic_plugin.hub import push_edits

        config = self.generator.config
        known = {
            "generator_id": config.generator_id,
            "source": config.source,
            "recorded_license": config.license,
        }
        return push_edits(list(self._edits.values()), repo_id, license, **{**known, **options})

    def model_facts(self) -> ModelFacts:
        """What a card says of this model."""
        from sdic_plugin.hub import ModelFacts

        config, (height, width) = self.generator.config, self.image_size
        return ModelFacts(
            resolution=config.resolution,
            style_width=config.style_width,
            image_size=width,
            image_height=height,
            output_height=self.output_rows.stop - self.output_rows.start,
            alignment=self.config.alignment,
            source=config.source,
            license=config.license,
            edits=list(self.get_list_edits().values()),
        )

    # Fused convolutions, devices and dtypes.

    @property
    def networks(self) -> list[Network]:
        """Every network once, also the generator that photos are inverted with where that is another one."""
        networks = [self.encoder, self.dipn, self.dicn, self.generator, self.transport, self._inverting_generator]
        return [network for network in networks if network is not None]

    @property
    def _execution_device(self) -> torch.device:
        """As diffusers finds it, which asks every layer of every network several times for hooks it may have.

        Without any, the first network's device says it: for a small model, diffusers' search takes a tenth of an edit.
        """
        layers = (layer for network in self.networks for layer in network.modules())
        if any("_hf_hook" in vars(layer) or "_diffusers_hook" in vars(layer) for layer in layers):
            return super()._execution_device
        return next(self.encoder.parameters()).device

    def fuse_convolutions(self) -> None:
        """Fold BatchNorms into convolutions and pack the weights: faster bfloat16 on the CPU, until unfused.

        Pictures stay the same within the rounding of bfloat16. While fused, the weights are put away: reading,
        setting, saving, loading, training, moving or casting them raises an error. Copies and pickles of the networks
        are not fused. Networks in another dtype are left alone.

        Raises:
            SDICError: If no network is in bfloat16 on the CPU, or this CPU computes none, or a network is being
                trained, offloaded or mapped to devices.
        """
        refuse_device_map(getattr(self, "hf_device_map", None))
        generators = [self.generator, *([] if self._inverting_generator is None else [self._inverting_generator])]
        networks: Networks = {
            "encoder": [self.encoder],
            "dipn": [self.dipn],
            "dicn": [self.dicn],
            "generator": generators,
            "transport": [] if self.transport is None else [self.transport],
        }
        fuse(networks, self.generator, self.image_size)

    def unfuse_convolutions(self) -> None:
        """Bring every weight back as it was; does nothing to a pipeline that is not fused."""
        for network in self.networks:
            network.unfuse_convolutions()

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move or cast every network, as `DiffusionPipeline.to` does; refused while convolutions are fused."""
        check_move(self.networks, *args, **kwargs)
        with without_false_alarms():
            super().to(*args, **kwargs)
        if self._inverting_generator is not None:
            nn.Module.to(self._inverting_generator, self.generator.device, self.generator.dtype)
        return self

    def enable_model_cpu_offload(self, *args: Any, **kwargs: Any) -> None:
        """Keep one network at a time on the device, as `DiffusionPipeline.enable_model_cpu_offload` does.

        Raises:
            SDICError: While convolutions are fused.
        """
        refuse_if_fused(self.networks, "offloaded")
        if self._inverting_generator is not None:
            raise SDICError(
                "This pipeline has two generators (with_generator), and offloading moves one: offload a pipeline with "
                "a single one, or move all of this one with `to`."
            )
        super().enable_model_cpu_offload(*args, **kwargs)

    def enable_sequential_cpu_offload(self, *args: Any, **kwargs: Any) -> None:
        """Refused: accelerate's hooks on every layer do not fit networks of which one layer reads another's weights.

        Raises:
            SDICError: Always.
        """
        raise SDICError(
            "Sequential offload does not work with these networks: use enable_model_cpu_offload(), which keeps one "
            "network at a time on the device."
        )

    def enable_group_offload(self, *args: Any, **kwargs: Any) -> None:
        """Refused: the generator calls its layers itself, so hooks of groups of layers would never fetch them.

        Raises:
            SDICError: Always.
        """
        raise SDICError(
            "Group offload does not work with the generator: use enable_model_cpu_offload(), which keeps one network "
            "at a time on the device."
        )


def _as_stored(value: Any) -> Any:
    """What model_index.json says of a network: ["sdic_plugin", class]; anything else as it is."""
    is_own = isinstance(value, tuple) and len(value) == 2 and str(value[0]).startswith(f"{PACKAGE}.")
    return (PACKAGE, value[1]) if is_own else value
