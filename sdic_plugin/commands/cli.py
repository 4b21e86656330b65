"""The `sdic` command; every subcommand only calls the library."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from sdic_plugin.commands import bench
from sdic_plugin.commands import edits as edits_command
from sdic_plugin.commands import export as export_command
from sdic_plugin.commands import push as hub_command
from sdic_plugin.errors import LONGEST_MESSAGE, SDICError, cut_middle, printable, reason_of, shorten
from sdic_plugin.pipeline.loading import load_pipeline
from sdic_plugin.utils.devices import check_device
from sdic_plugin.utils.files import check_output_folder
from sdic_plugin.utils.memory import keep_freed_memory
from sdic_plugin.utils.precision import DTYPES
from sdic_plugin.utils.terminal import printable_output
from sdic_plugin.version import __version__

if TYPE_CHECKING:
    from sdic_plugin.photos.photo import Photo, PhotoSummary
    from sdic_plugin.photos.processes import Processes
    from sdic_plugin.pipeline.sdic import SDICPipeline


class CommandParser(argparse.ArgumentParser):
    """Escapes what it quotes of its arguments, which a shell may have filled in with names of files."""

    def error(self, message: str) -> NoReturn:
        """Print the usage and the message, and leave with the code 2."""
        super().error(cut_middle(printable(message), LONGEST_MESSAGE))


def build_parser() -> argparse.ArgumentParser:
    """Describe every subcommand."""
    parser = CommandParser(prog="sdic", description="GAN inversion and editing with SDIC.")
    parser.add_argument("--version", action="version", version=f"sdic {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_photo_command(commands, "invert", "invert photos")
    edit = _add_photo_command(commands, "edit", "invert and edit photos")
    edit.add_argument(
        "--edit",
        action="append",
        default=[],
        metavar="NAME=STRENGTH[,…]",
        help="one edited picture per --edit; several edits joined by commas are combined in one picture",
    )
    edit.add_argument(
        "--sweep",
        action="append",
        default=[],
        metavar="NAME=FIRST:LAST:COUNT",
        help="an edit at many strengths, as a grid and a GIF; two are crossed; --edit is then in all pictures",
    )
    edit.add_argument(
        "--edits", action="append", default=[], metavar="SET", help="load more edits: file, folder, Hub id"
    )
    edit.add_argument("--compensation", type=float, default=1.0, help="how much detail to put back, 0 to 1")
    edit.add_argument(
        "--mask",
        help="picture whose white keeps the photo's detail and whose black trusts the edit; or auto: found per edit",
    )
    edit.add_argument("--feature-edit", choices=["continuous", "official"], help="rule for the features")
    _add_align(commands)
    _add_convert(commands)
    _add_train(commands)
    _add_evaluate(commands)
    _add_data(commands)
    _add_sample(commands)
    export_command.add_parser(commands)
    hub_command.add_parser(commands)
    edits_command.add_parser(commands)
    bench.add_parser(commands)
    demo = commands.add_parser("demo", help="start the demo page")
    demo.add_argument("--model", default="cats64", help="bundled name, folder or Hub id")
    demo.add_argument("--port", type=int, default=None)
    demo.add_argument("--detector", metavar="FILE", help="YuNet's .onnx file, instead of the Hub's")
    demo.add_argument("--dtype", default="float32", choices=DTYPES, help="what the networks compute in")
    return parser


def _add_photo_command(commands: argparse._SubParsersAction, name: str, text: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text)
    parser.add_argument("photos", nargs="*", metavar="PHOTO", help="picture files or folders")
    parser.add_argument("--example", metavar="NAME", help="a photograph of scikit-image: chelsea or astronaut")
    parser.add_argument("--model", default="cats64", help="bundled name, folder or Hub id")
    parser.add_argument("--out", required=True, type=Path, help="folder for the results")
    parser.add_argument("--eyes", metavar="X1,Y1,X2,Y2", help="the two eye centres, in pixels of the photo")
    parser.add_argument(
        "--face",
        nargs="?",
        const="largest",
        metavar="N",
        help="find the face with YuNet (extra [align]): the largest, or number N from the left, from 0 on",
    )
    parser.add_argument("--detector", metavar="FILE", help="YuNet's .onnx file, instead of the Hub's")
    parser.add_argument(
        "--paste-back",
        nargs="?",
        const="replace",
        choices=["replace", "difference"],
        help="also put results back into the photo: the crop itself (default), or only what the edit changed",
    )
    parser.add_argument("--refine-steps", type=int, default=0, metavar="N", help="optimise each inversion for N steps")
    parser.add_argument("--save-inversion", action="store_true", help="also write NAME_inversion.safetensors")
    parser.add_argument("--no-sheets", dest="sheets", action="store_false", help="write no NAME_sheet.png")
    parser.add_argument(
        "--skip-existing",
        action="store_true",
        help="leave out photos whose files are all there, made of the same photo with the same settings",
    )
    parser.add_argument("--batch-size", type=int, default=8, metavar="N", help="photos computed together")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, mps …")
    parser.add_argument("--dtype", default="float32", choices=DTYPES, help="what the networks compute in")
    return parser


def _add_align(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("align", help="crop photos as a model's training pictures were")
    parser.add_argument("photos", nargs="+", metavar="PHOTO", help="picture files or folders")
    parser.add_argument("--model", help="folder, bundled name or Hub id whose template to take; without one, FFHQ's")
    parser.add_argument("--size", type=int, help="width of the crop in pixels; by default the model's, or 1024")
    parser.add_argument("--eyes", metavar="X1,Y1,X2,Y2", help="the two eye centres, in pixels of the photo")
    parser.add_argument("--face", default="largest", metavar="N", help="largest, all, or number N from the left")
    parser.add_argument("--detector", metavar="FILE", help="YuNet's .onnx file, instead of the Hub's")
    parser.add_argument("--out", required=True, type=Path, help="folder for NAME.png and NAME.json")


def _add_convert(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("convert", help="convert SDIC, e4e, pSp, rosinality and NVlabs checkpoints")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--out", required=True, type=Path, help="folder to write")
    parser.add_argument("--feature-resolution", type=int, help="resolution of the feature map that is compensated")
    parser.add_argument("--content-rows", nargs=2, type=int, metavar=("FIRST", "LAST"), help="rows of wide photos")
    parser.add_argument("--encoder-type", choices=["e4e", "psp"], help="overrule what the file says")
    parser.add_argument("--dtype", default="float32", choices=DTYPES)
    parser.add_argument("--variant", help="variant in the weights' file names, such as fp16")
    parser.add_argument("--source", help="where the weights come from, for the model's card")
    parser.add_argument("--license", help="licence of the weights, for the model's card")
    parser.add_argument("--alignment", choices=["ffhq"], help="crop the model was trained on, so that faces are found")
    parser.add_argument("--overwrite", action="store_true", help="replace what an earlier conversion wrote")


def _add_train(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("train", help="train a generator, an encoder, or DIPN and DICN")
    parser.add_argument("stage", choices=["generator", "encoder", "compensation"])
    parser.add_argument("--config", metavar="FILE", help="TOML settings, or the name of a recipe of this package")
    parser.add_argument("--from", dest="model", metavar="MODEL", help="folder, bundled name or Hub id to build on")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="overrides one setting")


def _add_evaluate(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("evaluate", help="measure inversion and edits on held-out images")
    parser.add_argument("--model", default="cats64", help="bundled name, folder or Hub id")
    parser.add_argument("--data", required=True, help="folder or zip of images the model has not seen")
    parser.add_argument("--limit", type=int, help="number of images to use, from the first on")
    parser.add_argument("--full", action="store_true", help="every row, and edits far beyond their default strengths")
    parser.add_argument("--rows", nargs="+", default=[], metavar="ROW", help="more rows, as latents_only official")
    parser.add_argument(
        "--multiples", nargs="+", type=float, metavar="X", help="multiples of the edits' default strengths to measure"
    )
    parser.add_argument(
        "--optimize", nargs="+", default=[], metavar="SPACE:STEPS", help="rows by optimisation, such as w:100 w+:1000"
    )
    parser.add_argument("--optimize-images", type=int, default=64, metavar="N", help="number of images for those")
    parser.add_argument("--w-optimization", type=int, default=0, metavar="N", help="compare the encoder on N images")
    parser.add_argument("--lpips", metavar="FILE", help="weights for LPIPS (AlexNet), else those beside the model")
    parser.add_argument("--identity", metavar="FILE", help="weights for ID (ArcFace), else those beside the model")
    parser.add_argument("--inception", metavar="FILE", help="safetensors weights of FID's Inception-v3")
    parser.add_argument("--batch-size", type=int, default=8, help="images at a time")
    parser.add_argument("--device", default="cpu", help="cpu, cuda …")
    parser.add_argument("--out", type=Path, help="folder for figures, tables and plots, or a .json file")


def _add_data(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("data", help="rebuild a training set from its public source")
    parser.add_argument("name", choices=["cats64"])
    parser.add_argument("--source", required=True, help="folder with the public collection")
    parser.add_argument("--out", default=".", help="folder for the zips")


def _add_sample(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("sample", help="draw random pictures of a generator")
    parser.add_argument("--model", default="cats64", help="bundled name, folder (a generator is enough) or Hub id")
    parser.add_argument("--count", type=int, default=16, help="number of pictures")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first; the others follow on it")
    parser.add_argument("--seeds", metavar="1,2,5-9", help="the seeds themselves, instead of --count and --seed")
    parser.add_argument("--truncation", type=float, default=0.7, help="variety: 1 as trained, 0 the mean picture")
    parser.add_argument("--mixing", action="store_true", help="also mix the second half's styles into the first half")
    parser.add_argument("--mix-layers", metavar="FIRST:LAST", help="layers that are mixed; default: the finer half")
    parser.add_argument("--out", required=True, type=Path, help="folder for the pictures")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, mps …")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code (0 done, 1 some files failed, 2 wrong input)."""
    options = build_parser().parse_args(arguments)
    frugal = options.command == "demo" or getattr(options, "default_malloc", False)
    if arguments is None and not frugal:  # else the process is not this command's alone
        keep_freed_memory()
    with printable_output():
        try:
            if getattr(options, "device", None) is not None:
                check_device(options.device)
            return COMMANDS[options.command](options)
        except SDICError as error:
            print(f"sdic: {error}", file=sys.stderr)
            return 2
        except OSError as error:
            where = "" if error.filename is None else f" {shorten(str(error.filename))}"
            print(f"sdic: the system refused to read or write{where}: {reason_of(error)}.", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("sdic: stopped.", file=sys.stderr)
            return 130


def run_photos(options: argparse.Namespace) -> int:
    """Run `sdic invert` and `sdic edit`."""
    from tqdm.auto import tqdm

    from sdic_plugin.images.alignment import parse_eyes
    from sdic_plugin.photos.find import find_photos
    from sdic_plugin.photos.photo import load_example, needed_detector, parse_edits
    from sdic_plugin.photos.process import PhotoOptions, process_photos
    from sdic_plugin.photos.processes import Processes
    from sdic_plugin.pipeline.loading import fuse_where_it_pays
    from sdic_plugin.utils.files import check_output_folder
    from sdic_plugin.utils.precision import warn_of_slow_bfloat16

    check_output_folder(options.out)
    eyes = None if options.eyes is None else parse_eyes(options.eyes)
    if options.example is not None:
        if options.photos:
            raise SDICError(f"Both photos and --example {options.example} were given: give one of them.")
        photos = [load_example(options.example)]
    else:
        photos = find_photos(options.photos, eyes, options.out)
    options.detector = needed_detector(photos, options.face, options.detector)
    edits, processes = parse_edits(getattr(options, "edit", [])), Processes.of_environment()
    pipe = load_pipeline(options.model, options.dtype).to(processes.device(options.device))
    warn_of_slow_bfloat16(pipe.dtype, pipe.device)
    fuse_where_it_pays(pipe)
    for source in getattr(options, "edits", []):
        pipe.load_edits(source)
    count = len(processes.share(photos))
    with tqdm(total=count, unit="photo", disable=count <= 1 or processes.index > 0) as bar:
        if getattr(options, "sweep", []):
            summary = run_sweeps(options, pipe, photos, edits, bar.update, processes)
        else:
            settings = PhotoOptions(
                edits=edits,
                paste=options.paste_back,
                **{name: getattr(options, name) for name in PHOTO_OPTIONS if hasattr(options, name)},
            )
            summary = process_photos(pipe, photos, options.out, settings, bar.update, processes)
    summary = processes.join(summary)
    if processes.index == 0:
        report_photos(summary, options.out)
    return 1 if summary.failed else 0


PHOTO_OPTIONS = (
    "feature_edit",
    "compensation",
    "mask",
    "save_inversion",
    "sheets",
    "skip_existing",
    "refine_steps",
    "face",
    "detector",
    "batch_size",
)
"""Options of the command line that `PhotoOptions` has by the same names."""


def run_sweeps(
    options: argparse.Namespace,
    pipe: SDICPipeline,
    photos: Sequence[Photo],
    edits: Sequence[Mapping[str, float]],
    progress: Callable[[int], object],
    processes: Processes,
) -> PhotoSummary:
    """Run `sdic edit --sweep`."""
    from sdic_plugin.errors import EditError
    from sdic_plugin.photos.sweep import parse_sweep, sweep_photos

    if len(edits) > 1:
        raise EditError(f"--sweep takes one --edit at most, for all its pictures, but {len(edits)} were given.")
    sweeps = [parse_sweep(text) for text in options.sweep]
    names = ("skip_existing", "face", "detector", "compensation", "mask", "feature_edit")
    settings = {name: getattr(options, name) for name in names}
    common, steps = edits[0] if edits else {}, options.refine_steps
    return sweep_photos(pipe, photos, options.out, sweeps, common, steps, progress, processes=processes, **settings)


def report_photos(summary: PhotoSummary, output: Path) -> None:
    """Print what became of the photos."""
    for name, (before, after) in summary.figures.items():
        print(f"{printable(name)}: PSNR {before:.2f} dB initial, {after:.2f} dB inverted")
    for name, photo in summary.renamed.items():
        print(f"{printable(name)} is {printable(photo)}: results of another photo have the name without the number")
    skipped = f", {summary.skipped} photos were done already" if summary.skipped else ""
    print(f"{len(summary.written)} files written to {output}{skipped}")
    for name, note in summary.notes.items():
        print(f"warning: {printable(name)}: {note}", file=sys.stderr)
    for name, reason in summary.failed.items():
        print(f"failed: {printable(name)}: {printable(reason)}", file=sys.stderr)


def run_align(options: argparse.Namespace) -> int:
    """Run `sdic align`."""
    from sdic_plugin.images.alignment import parse_eyes
    from sdic_plugin.images.face_alignment import FFHQTemplate
    from sdic_plugin.photos.align import align_photos
    from sdic_plugin.photos.find import find_photos
    from sdic_plugin.photos.photo import model_template, needed_detector
    from sdic_plugin.photos.results import ALIGNED, EDITED
    from sdic_plugin.utils.files import check_output_folder

    check_output_folder(options.out)
    eyes = None if options.eyes is None else parse_eyes(options.eyes)
    photos = find_photos(options.photos, eyes, options.out, (EDITED, ALIGNED))
    options.detector = needed_detector(photos, options.face, options.detector)
    template, (height, width) = FFHQTemplate(), (1024, 1024)
    if options.model is not None:
        pipe = load_pipeline(options.model)
        template, (height, width) = model_template(pipe), pipe.image_size
    if options.size is not None:
        width, height = options.size, round(options.size * height / width)
    summary = align_photos(photos, options.out, template, width, height, options.face, options.detector)
    print(f"{len(summary.written)} files written to {options.out}")
    for name, reason in summary.failed.items():
        print(f"failed: {printable(name)}: {printable(reason)}", file=sys.stderr)
    return 1 if summary.failed else 0


def run_convert(options: argparse.Namespace) -> int:
    """Run `sdic convert`."""
    from sdic_plugin.conversion import convert, format_report

    names = (
        "feature_resolution",
        "content_rows",
        "encoder_type",
        "dtype",
        "variant",
        "source",
        "license",
        "overwrite",
    )
    alignment = None if options.alignment is None else {"rule": options.alignment}
    settings = {name: getattr(options, name) for name in names}
    report = convert(options.files, options.out, alignment=alignment, **settings)
    print(format_report(report))
    return 0


def run_train(options: argparse.Namespace) -> int:
    """Run `sdic train`."""
    from sdic_plugin.training.compensation import CompensationTrainingConfig, train_compensation
    from sdic_plugin.training.config import load_config
    from sdic_plugin.training.encoder import EncoderTrainingConfig, train_encoder
    from sdic_plugin.training.generator import train_generator
    from sdic_plugin.training.generator_config import GeneratorTrainingConfig

    stages = {
        "generator": (GeneratorTrainingConfig, train_generator),
        "encoder": (EncoderTrainingConfig, train_encoder),
        "compensation": (CompensationTrainingConfig, train_compensation),
    }
    config, train = stages[options.stage]
    assignments = [] if options.model is None else [f"model={json.dumps(options.model, ensure_ascii=False)}"]
    train(load_config(config, options.config, assignments + options.set))
    return 0


def run_evaluate(options: argparse.Namespace) -> int:
    """Run `sdic evaluate`."""
    from tqdm.auto import tqdm

    from sdic_plugin.commands.evaluate import EvaluationCommand, run_evaluation
    from sdic_plugin.evaluation import Optimization
    from sdic_plugin.evaluation.markdown import card_tables

    command = EvaluationCommand(
        model=options.model,
        data=options.data,
        limit=options.limit,
        full=options.full,
        rows=tuple(options.rows),
        multiples=None if options.multiples is None else tuple(options.multiples),
        optimizations=tuple(Optimization.parse(text) for text in options.optimize),
        optimization_images=options.optimize_images,
        w_optimization_images=options.w_optimization,
        lpips=options.lpips,
        identity=options.identity,
        inception=options.inception,
        batch_size=options.batch_size,
        out=options.out,
    )
    with tqdm(unit="photo", delay=1) as bar:
        pipe = load_pipeline(options.model).to(options.device)
        pipe.set_progress_bar_config(unit="photo", delay=1)  # of optimisations, which can take an hour
        done = run_evaluation(pipe, command, progress=lambda count: bar.update(count - bar.n))
    print(card_tables(done.report))
    for note in done.notes:
        print(f"note: {printable(note)}", file=sys.stderr)
    return 0


def run_data(options: argparse.Namespace) -> int:
    """Run `sdic data`."""
    from sdic_plugin.training.datasets.cats64 import rebuild_cats64

    summary = rebuild_cats64(options.source, options.out)
    for split, archive in summary.archives.items():
        print(f"{archive}: {summary.counts[split]} pictures")
    return 0


def run_sample(options: argparse.Namespace) -> int:
    """Run `sdic sample`."""
    from sdic_plugin.checkpoints.components import find_model, load_component
    from sdic_plugin.commands import parsing
    from sdic_plugin.evaluation.samples import mixing_sheet, save_samples
    from sdic_plugin.images.sheets import save_picture
    from sdic_plugin.models import StyleGAN2Generator, sampling

    check_output_folder(options.out)
    sampling.check_truncation(options.truncation)
    seeds = None if options.seeds is None else parsing.parse_seeds(options.seeds)
    sampling.check_seeds(range(options.seed, options.seed + options.count) if seeds is None else seeds)
    layers = None if options.mix_layers is None else parsing.parse_layers(options.mix_layers)
    generator = load_component(StyleGAN2Generator, find_model(options.model), "generator").eval().to(options.device)
    samples = sampling.sample(generator, options.count, options.seed, options.truncation, seeds)
    sheet = mixing_sheet(generator, samples, layers) if options.mixing or layers else None
    notes = {"generator_id": generator.config.generator_id, "truncation": f"{options.truncation:g}"}
    metadata = {key: value for key, value in notes.items() if value is not None}
    written = save_samples(samples, options.out, metadata)
    if sheet is not None:
        written.append(save_picture(sheet, options.out / "mixing.png"))
    print(f"{len(written)} files written to {options.out}")
    return 0


def run_demo(options: argparse.Namespace) -> int:
    """Run `sdic demo`."""
    if options.port is not None and not 0 < options.port < 2**16:
        raise SDICError(f"--port is {options.port}, but ports are numbers from 1 to {2**16 - 1}.")
    from sdic_plugin.demo import launch

    launch(options.model, port=options.port, detector=options.detector, dtype=options.dtype)
    return 0


COMMANDS = {
    "invert": run_photos,
    "edit": run_photos,
    "align": run_align,
    "convert": run_convert,
    "train": run_train,
    "evaluate": run_evaluate,
    "data": run_data,
    "sample": run_sample,
    "export": export_command.run,
    "push": hub_command.run,
    "edits": edits_command.run,
    "demo": run_demo,
    "bench": bench.run,
}


if __name__ == "__main__":
    sys.exit(main())
