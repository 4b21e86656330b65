"""`sdic export`: a model in the formats of others."""

from __future__ import annotations

import argparse
from pathlib import Path

from sdic_plugin.utils.files import check_output_file


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Describe `sdic export`."""
    parser = commands.add_parser("export", help="write a model in the format of other tools")
    formats = parser.add_subparsers(dest="format", required=True, metavar="FORMAT")
    rosinality = formats.add_parser("rosinality", help="the generator as a rosinality checkpoint (g_ema)")
    rosinality.add_argument("--model", default="cats64", help="bundled name, folder (a generator is enough) or Hub id")
    rosinality.add_argument("--out", required=True, type=Path, help="file to write (.pt)")
    remote = formats.add_parser("remote-code", help="a repository that diffusers runs without this package")
    remote.add_argument("--model", default="cats64", help="bundled name, folder or Hub id")
    remote.add_argument("--out", required=True, type=Path, help="folder to write")
    onnx = formats.add_parser("onnx", help="five ONNX graphs and how to combine them (extra [onnx])")
    onnx.add_argument("--model", default="cats64", help="bundled name, folder or Hub id")
    onnx.add_argument("--out", required=True, type=Path, help="folder to write")
    for each in (remote, onnx):
        each.add_argument("--overwrite", action="store_true", help="replace what an earlier export wrote")


def run(options: argparse.Namespace) -> int:
    """Run `sdic export`."""
    return FORMATS[options.format](options)


def run_rosinality(options: argparse.Namespace) -> int:
    """Run `sdic export rosinality`; a discriminator beside the generator comes along."""
    from sdic_plugin.checkpoints.components import find_model, has_component, load_component
    from sdic_plugin.conversion.export.rosinality import export_rosinality
    from sdic_plugin.models import StyleGAN2Discriminator, StyleGAN2Generator

    check_output_file(options.out)
    folder = find_model(options.model)
    generator = load_component(StyleGAN2Generator, folder, "generator")
    discriminator = None
    if has_component(folder, "discriminator"):
        discriminator = load_component(StyleGAN2Discriminator, folder, "discriminator")
    export_rosinality(generator, options.out, discriminator)
    print(f"{options.out}: {'g_ema, d' if discriminator else 'g_ema'}, in rosinality's layout")
    return 0


def run_remote_code(options: argparse.Namespace) -> int:
    """Run `sdic export remote-code`."""
    from sdic_plugin.conversion.export.remote_code import export_remote_code
    from sdic_plugin.pipeline.loading import load_pipeline

    files = export_remote_code(load_pipeline(options.model), options.out, options.overwrite)
    print(f"{options.out}: a pipeline with its own code ({', '.join(files)})")
    return 0


def run_onnx(options: argparse.Namespace) -> int:
    """Run `sdic export onnx`."""
    from sdic_plugin.conversion.export.onnx import export_onnx
    from sdic_plugin.pipeline.loading import load_pipeline

    differences = export_onnx(load_pipeline(options.model), options.out, options.overwrite)
    listed = ", ".join(f"{name} {value:.1e}" for name, value in differences.items())
    print(f"{options.out}: ONNX graphs; largest difference between ONNX Runtime and PyTorch: {listed}")
    return 0


FORMATS = {"rosinality": run_rosinality, "remote-code": run_remote_code, "onnx": run_onnx}
