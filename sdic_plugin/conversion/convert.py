"""Checkpoints of other formats in, a pipeline folder (or single components) out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from sdic_plugin.checkpoints.folder import write_parts_settings
from sdic_plugin.checkpoints.key_map import StateDict, check_finite
from sdic_plugin.checkpoints.output import check_output
from sdic_plugin.checkpoints.readers import read_checkpoint
from sdic_plugin.conversion.e4e import build_encoder
from sdic_plugin.conversion.layout import build_discriminator, build_generator
from sdic_plugin.conversion.recognise import Part, Recognised, recognise
from sdic_plugin.conversion.report import ConversionReport, DroppedKey, WrittenPart
from sdic_plugin.conversion.sdic import build_dicn, build_dipn
from sdic_plugin.errors import CheckpointError
from sdic_plugin.images.face_alignment import read_template
from sdic_plugin.models import PIPELINE_COMPONENTS
from sdic_plugin.models.fingerprint import generator_fingerprint
from sdic_plugin.pipeline.checks import check_fit
from sdic_plugin.pipeline.sdic import SDICPipeline
from sdic_plugin.utils.files import replacing_folder

LOSSES = {"lpips": "perceptual network (LPIPS)", "identity": "identity network"}
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass
class Conversion:
    """State of a conversion: what was read, and the networks built so far.

    Attributes:
        parts: The parts of all files, the later file's where two have the same.
        report: What was done; filled step by step.
        networks: Our networks by component name.
        losses: Tensors of the loss networks, by name.
    """

    parts: dict[str, Part]
    report: ConversionReport
    networks: dict[str, Any] = field(default_factory=dict)
    losses: dict[str, StateDict] = field(default_factory=dict)

    def drop(self, file: str, keys: dict[str, str]) -> None:
        """List entries of a file as dropped, each with its reason."""
        self.report.dropped += [DroppedKey(file, key, reason) for key, reason in keys.items()]


def convert(
    files: Sequence[str | Path] | str | Path,
    output: str | Path,
    *,
    feature_resolution: int | None = None,
    content_rows: Sequence[int] | None = None,
    encoder_type: str | None = None,
    dtype: str | torch.dtype = "float32",
    variant: str | None = None,
    source: str | None = None,
    license: str | None = None,
    alignment: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> ConversionReport:
    """Convert published SDIC, e4e, pSp, rosinality and NVlabs StyleGAN2 checkpoints into a folder of ours.

    With encoder, DIPN, DICN and generator in the files, the folder is a pipeline for `SDICPipeline.from_pretrained`;
    otherwise it holds each component found in a folder of its own (`generator/` …). A discriminator goes to
    `discriminator/`, the loss networks of published checkpoints, under their own keys without the prefix, to
    `losses/lpips.safetensors` and `losses/identity.safetensors`. The folder appears as a whole or not at all.

    Args:
        files: One file or several; where two hold the same part, the later file's is taken.
        output: Folder to write.
        feature_resolution: Resolution of the generator's hook; by default a quarter of the encoder's image size, or
            without an encoder the published choice.
        content_rows: First and one-past-last image row of the picture, for generators of wide photos (cars:
            [64, 448]).
        encoder_type: "e4e" or "psp", to overrule what the file says.
        dtype: "float32", "float16" or "bfloat16", of the networks on disk.
        variant: Written into the weights' file names ("fp16"); None for plain names.
        source: Where the weights come from, for the generator's configuration; by default its file's name.
        license: The licence of the weights, for the generator's configuration.
        alignment: Template of the crops the model was trained on, kept in the pipeline's configuration:
            `{"rule": "ffhq"}`, or two eye points as `AlignmentTemplate.to_dict` gives them.
        overwrite: Replace a folder that an earlier conversion wrote.

    Returns:
        What was written, what was dropped and why, and what was assumed.

    Raises:
        CheckpointError: If a file cannot be read or holds something unknown, the parts do not fit each other, or the
            output cannot be written.
    """
    paths = [Path(file) for file in ([files] if isinstance(files, str | Path) else files)]
    if not paths:
        raise CheckpointError("No checkpoint was given, but at least one is needed: name the files to convert.")
    if content_rows is not None and len(content_rows) != 2:
        raise CheckpointError(
            f"content_rows is {list(content_rows)}, but must be two numbers: the picture's first row and one past its "
            "last."
        )
    dtype, output = _dtype(dtype), Path(output)
    template = None if alignment is None else read_template(alignment)
    check_output(output, overwrite, sources=paths)
    conversion = _read(paths, output, encoder_type)
    overrides: dict[str, object] = {
        "content_rows": None if content_rows is None else list(content_rows),
        "source": _without_folders(source),
        "license": license,
    }
    with torch.no_grad():
        _build(conversion, feature_resolution, overrides)
    check_fit(conversion.networks)
    _cast(conversion, dtype)
    with replacing_folder(output) as folder:
        _write(conversion, folder, variant, None if template is None else template.to_dict())
    return conversion.report


def _dtype(dtype: str | torch.dtype) -> torch.dtype:
    found = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if found is None or found not in DTYPES.values():
        raise CheckpointError(f"dtype is {dtype!r}, but must be one of {list(DTYPES)}.")
    return found


def _without_folders(source: str | None) -> str | None:
    """Reduce a local path to its last part: the folders of the author's machine do not belong in a published file."""
    if source is None or not Path(source).expanduser().is_absolute():
        return source
    return Path(source).name


def _read(paths: list[Path], output: Path, encoder_type: str | None) -> Conversion:
    """Read and recognise all files, and merge their parts."""
    conversion = Conversion({}, ConversionReport(output))
    report = conversion.report
    for path in paths:
        name = path.name if path.name not in report.kinds else str(path)
        found = recognise(read_checkpoint(path), name, encoder_type)
        report.kinds[name] = found.kind
        report.notes += found.notes
        conversion.drop(name, found.dropped)
        _merge(conversion, found)
    return conversion


def _merge(conversion: Conversion, found: Recognised) -> None:
    for name, part in found.parts.items():
        replaced = conversion.parts.get(name)
        if replaced is not None:
            conversion.report.notes.append(f"{name}: taken from {part.file}, not from {replaced.file}")
            reason = f"the {name} of {part.file} was taken instead"
            conversion.drop(replaced.file, {replaced.prefix + key: reason for key in replaced.state})
        conversion.parts[name] = part


def _build(conversion: Conversion, feature_resolution: int | None, overrides: dict[str, object]) -> None:
    """Build every network for which there is a part."""
    _build_encoder(conversion)
    _build_generator(conversion, feature_resolution, overrides)
    parts, networks = conversion.parts, conversion.networks
    if part := parts.get("dipn"):
        networks["dipn"], dropped = build_dipn(part.state)
        conversion.drop(part.file, dropped)
    if part := parts.get("dicn"):
        known = next((networks[name] for name in ("generator", "encoder") if name in networks), None)
        networks["dicn"], dropped = build_dicn(part.state, known.config.style_width if known else None)
        conversion.drop(part.file, dropped)
    if part := parts.get("discriminator"):
        networks["discriminator"], dropped = build_discriminator(part.layout, part.state, part.prefix)
        conversion.drop(part.file, dropped)
    for name in LOSSES:
        if part := parts.get(name):
            for key, tensor in part.state.items():
                check_finite(tensor, part.prefix + key, LOSSES[name])
            conversion.losses[name] = part.state


def _build_encoder(conversion: Conversion) -> None:
    part = conversion.parts.get("encoder")
    if part is None:
        return
    average, generator = part.average, conversion.parts.get("generator")
    if average is None and generator is not None and generator.average is not None:
        average = generator.average
        conversion.report.notes.append(f"{part.file} has no latent_avg, so the mean w of {generator.file} was taken")
    if average is None:
        raise CheckpointError(
            f"{part.file} has no 'latent_avg' beside its weights, so the encoder's latents would lack their mean: "
            "give the original checkpoint, or add the generator's own file, which holds it."
        )
    conversion.networks["encoder"], dropped = build_encoder(part.state, average, part.progressive, part.prefix)
    conversion.drop(part.file, dropped)


def _build_generator(conversion: Conversion, feature_resolution: int | None, overrides: dict[str, object]) -> None:
    part, report = conversion.parts.get("generator"), conversion.report
    if part is None:
        given = {"feature_resolution": feature_resolution, **overrides}
        if useless := [name for name, value in given.items() if value is not None]:
            raise CheckpointError(
                f"{useless[0]} is a value of the generator, but {list(report.kinds)} hold none: add the generator's "
                "file, or leave the value out."
            )
        return
    encoder = conversion.networks.get("encoder")
    if feature_resolution is None and encoder is not None:
        feature_resolution = encoder.config.image_size // 4
    if feature_resolution is not None:
        overrides["feature_resolution"] = feature_resolution
    overrides["source"] = overrides["source"] or Path(part.file).name
    built = build_generator(part.layout, part.state, part.average, part.prefix, **overrides)
    generator = built.generator
    generator.register_to_config(generator_id=generator_fingerprint(generator))
    conversion.networks["generator"] = generator
    conversion.drop(part.file, built.dropped)
    report.notes += [f"{part.file} has {lack}" for lack in built.assumed]
    if generator.num_styles == 16 and encoder is not None and overrides["content_rows"] is None:
        report.notes.append(
            "the generator makes 512x512 images: if its photos are wider than tall (the car models), convert again "
            "with content_rows 64 448"
        )


def _cast(conversion: Conversion, dtype: torch.dtype) -> None:
    """Bring the networks to the dtype they are written in; the id of the generator stays that of the source."""
    if dtype == torch.float32:
        return
    for name, network in conversion.networks.items():
        network.to(dtype)
        for key, tensor in network.state_dict().items():
            check_finite(tensor, key, f"{name}, cast to {str(dtype).removeprefix('torch.')},")


def _write(conversion: Conversion, folder: Path, variant: str | None, alignment: dict[str, Any] | None) -> None:
    """Write all networks below `folder`, and list them in the report."""
    networks, report = conversion.networks, conversion.report
    report.is_pipeline = all(name in networks for name in PIPELINE_COMPONENTS)
    if report.is_pipeline:
        parts = {name: networks[name] for name in PIPELINE_COMPONENTS}
        SDICPipeline(**parts, alignment=alignment).save_pretrained(folder, variant=variant)
    elif alignment is not None:
        write_parts_settings(folder, {"alignment": alignment})
    for name, network in networks.items():
        if not (report.is_pipeline and name in PIPELINE_COMPONENTS):
            network.save_pretrained(folder / name, variant=variant)
        size = sum(parameter.numel() for parameter in network.parameters())
        part = conversion.parts[name]
        report.components.append(WrittenPart(name, type(network).__name__, size, part.file, _used(conversion, part)))
    for name, state in conversion.losses.items():
        target = f"losses/{name}.safetensors"
        (folder / "losses").mkdir(exist_ok=True)
        save_file({key: tensor.clone().contiguous() for key, tensor in state.items()}, folder / target)
        size = sum(tensor.numel() for tensor in state.values())
        report.components.append(WrittenPart(target, LOSSES[name], size, conversion.parts[name].file, len(state)))


def _used(conversion: Conversion, part: Part) -> int:
    """Number of tensors of a part that were not dropped."""
    dropped = {entry.key for entry in conversion.report.dropped if entry.file == part.file}
    return sum(part.prefix + key not in dropped for key in part.state)
