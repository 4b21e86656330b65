"""`sdic export`: a model in the formats of others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from sdic_plugin.checkpoints.folder import DEFAULT_MODEL, resolve_model
from sdic_plugin.checkpoints.output import ONNX, REMOTE_CODE, WEB, check_output
from sdic_plugin.commands.common import check_generator_model, load_generator
from sdic_plugin.commands.framework import Arguments, Commands
from sdic_plugin.commands.options import MODELS, GeneratorModel, Model, OutFolder, Overwrite
from sdic_plugin.errors import SDICError, listed, shorten
from sdic_plugin.utils.files import check_output_file


@dataclass(kw_only=True)
class RosinalityArguments(Arguments):
    """Options of `sdic export rosinality`."""

    model: GeneratorModel = DEFAULT_MODEL
    out: Annotated[Path, typer.Option(help="file to write (.pt)")]
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace the file if it is there")] = False


@dataclass(kw_only=True)
class FolderArguments(Arguments):
    """Options of `sdic export remote-code` and `sdic export onnx`."""

    model: Model = DEFAULT_MODEL
    out: OutFolder
    overwrite: Overwrite = False


@dataclass(kw_only=True)
class WebArguments(FolderArguments):
    """Options of `sdic export web`."""

    weights: Annotated[
        Literal["float32", "float16", "int8"], typer.Option(help="how weights are stored; they compute in float32")
    ] = "float16"
    runtime: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="npm's package onnxruntime-web, unpacked; by default it is fetched"),
    ] = None


def register(commands: Commands) -> None:
    """Add `sdic export`."""
    formats = Commands("write a model in the format of other tools")
    formats.command(
        "rosinality",
        "the generator as a rosinality checkpoint (g_ema)",
        ["sdic export rosinality --model cat --out cat.pt"],
    )(rosinality)
    formats.command(
        "remote-code",
        "a repository that diffusers runs without this package",
        ["sdic export remote-code --model my_model --out remote"],
    )(remote_code)
    formats.command(
        "onnx",
        r"ONNX graphs and how to combine them (extra \[onnx])",
        ["sdic export onnx --model my_model --out graphs"],
    )(onnx)
    formats.command(
        "web",
        r"a static site that edits photos in the visitor's browser (extra \[onnx])",
        ["sdic export web --model my_model --out site", "python -m http.server --directory site"],
    )(web)
    commands.group("export", formats, MODELS)


def rosinality(options: RosinalityArguments) -> int:
    """Run `sdic export rosinality`; a discriminator beside the generator comes along."""
    check_output_file(options.out)
    if options.out.exists() and not options.overwrite:
        raise SDICError(f"There is a file {shorten(str(options.out))} already: name another one, or give --overwrite.")
    check_generator_model(options.model)
    options.prepare_process()

    from sdic_plugin.checkpoints.components import find_model, has_component, load_component
    from sdic_plugin.conversion.export.rosinality import export_rosinality
    from sdic_plugin.models import StyleGAN2Discriminator

    folder = find_model(options.model)
    generator = load_generator(options.model)
    discriminator = None
    if has_component(folder, "discriminator"):
        discriminator = load_component(StyleGAN2Discriminator, folder, "discriminator")
    export_rosinality(generator, options.out, discriminator)
    print(f"{options.out}: {'g_ema, d' if discriminator else 'g_ema'}, in rosinality's layout")
    return 0


def remote_code(options: FolderArguments) -> int:
    """Run `sdic export remote-code`."""
    check_output(options.out, options.overwrite, REMOTE_CODE, [options.model])
    resolve_model(options.model)
    options.prepare_process()

    from sdic_plugin.conversion.export.remote_code import export_remote_code
    from sdic_plugin.pipeline.loading import load_pipeline

    files = export_remote_code(load_pipeline(options.model), options.out, options.overwrite)
    print(f"{options.out}: a pipeline with its own code ({', '.join(files)})")
    return 0


def onnx(options: FolderArguments) -> int:
    """Run `sdic export onnx`."""
    check_output(options.out, options.overwrite, ONNX, [options.model])
    resolve_model(options.model)
    options.prepare_process()

    from sdic_plugin.conversion.export.onnx import export_onnx
    from sdic_plugin.pipeline.loading import load_pipeline

    differences = export_onnx(load_pipeline(options.model), options.out, options.overwrite)
    listed = ", ".join(f"{name} {value:.1e}" for name, value in differences.items())
    print(f"{options.out}: ONNX graphs; largest difference between ONNX Runtime and PyTorch: {listed}")
    return 0


def web(options: WebArguments) -> int:
    """Run `sdic export web`."""
    read: list[str | Path] = [options.model, *([] if options.runtime is None else [options.runtime])]
    check_output(options.out, options.overwrite, WEB, read)
    resolve_model(options.model)
    if options.runtime is not None and not options.runtime.is_dir():
        raise SDICError(f"--runtime is {shorten(str(options.runtime))}, which is no folder: give one.")
    options.prepare_process()

    from sdic_plugin.conversion.export.web import LARGEST_DOWNLOAD, export_web
    from sdic_plugin.pipeline.loading import load_pipeline

    name = Path(options.model).resolve().name
    site = export_web(
        load_pipeline(options.model), options.out, name, options.weights, options.runtime, options.overwrite
    )
    print(
        f"{options.out}: a site of which visitors download {site.download / 1e6:.1f} MB, and "
        f"{site.webgpu / 1e6:.1f} MB more where their browser has WebGPU; weights as {options.weights} change "
        f"pictures by {site.difference:.2f} grey levels"
    )
    if site.left_out:
        print(f"The page cannot show {listed(site.left_out)}: it shows edits that add a direction to the latents.")
    if site.download > LARGEST_DOWNLOAD:
        print(f"That is more than {LARGEST_DOWNLOAD / 1e6:.0f} MB: --weights int8 makes it smaller.")
    print(f"To see it: python -m http.server --directory {options.out}")
    return 0
