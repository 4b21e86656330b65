"""Every reader of this package on damaged and hostile files: what comes of it, and what it takes.

`PYTHONPATH=tests python -m testing.hostile_files --count 400` mutates a sound file of each kind 400 times, reads the
result, gives the training stages 1,600 sets of settings and the page 2,400 hostile requests (`hostile_requests.py`),
and prints the figures of the docs. A reader may read a file or refuse it with one sentence of `SDICError`;
anything else counts as a failure: another exception, a file written, a process started, a connection made, code run.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import pickle
import random
import re
import shutil
import sys
import tempfile
import threading
import types
import typing
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from diffusers.utils import logging
from PIL import Image
from testing import checkpoints, nvlabs_files
from testing.tiny_models import make_pipeline

from hub_cards.cats64.dicn_tuning import TuningConfig
from sdic_plugin import DirectionEdit, SDICError, SDICInversion, SDICPipeline, load_image, read_edits, write_edits
from sdic_plugin.checkpoints.folder import read_header
from sdic_plugin.conversion import convert
from sdic_plugin.edits.array_files import read_arrays
from sdic_plugin.images.cache import open_images
from sdic_plugin.images.reading import MAX_PIXELS
from sdic_plugin.training.compensation import CompensationTrainingConfig
from sdic_plugin.training.config import load_config
from sdic_plugin.training.encoder import EncoderTrainingConfig
from sdic_plugin.training.generator_config import GeneratorTrainingConfig
from sdic_plugin.training.transport import TransportTrainingConfig

WEIGHTS = "diffusion_pytorch_model.safetensors"
MEMORY_BOUND = 64 * 2**20
"""What reading any of these small files may add to the memory of the process."""
PICTURE_BOUND = MEMORY_BOUND + 8 * MAX_PIXELS
"""The same for pictures, whose headers alone say how large they are: the largest one, decoded and copied once."""
WEB_PAGE = b"<!DOCTYPE html><html><head><title>404</title></head><body>Not found</body></html>"
FORBIDDEN_EVENTS = {
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.system",
    "pty.spawn",
    "socket.connect",
    "subprocess.Popen",
    "ctypes.dlopen",
}


@dataclasses.dataclass(frozen=True)
class Reader:
    """A kind of file, and what reads it.

    Attributes:
        sample: Writes a sound file into a folder and returns its path.
        read: Reads a file; the second argument is an empty folder for what it writes.
    """

    sample: Callable[[Path], Path]
    read: Callable[[Path, Path], object]


# Sound files.


def rosinality(folder: Path, **options: object) -> Path:
    return checkpoints.save({"g_ema": checkpoints.small_generator()}, folder / "g.pt", **options)


def flat_checkpoint(folder: Path) -> Path:
    state = {key: tensor.contiguous() for key, tensor in checkpoints.small_generator().items()}
    safetensors.torch.save_file(state, folder / "g.safetensors")
    return folder / "g.safetensors"


def picture(folder: Path, suffix: str) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / f"a{suffix}")
    return folder / f"a{suffix}"


def zip_of_pictures(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "pictures.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for i in range(3):
            stream = io.BytesIO()
            Image.fromarray(np.full((24, 24, 3), 80 * i, np.uint8)).save(stream, "PNG")
            archive.writestr(f"{i}.png", stream.getvalue())
    return folder / "pictures.zip"


def edits(folder: Path) -> Path:
    write_edits([DirectionEdit("turn", tensors={"direction": torch.ones(10, 16)})], folder / "edits.safetensors")
    return folder / "edits.safetensors"


def arrays(folder: Path, suffix: str) -> Path:
    """A direction of another tool, as NumPy, PyTorch or (without a suffix) pickle writes it."""
    path, values = folder / f"direction{suffix}", np.linspace(0, 1, 160, dtype=np.float32).reshape(10, 16)
    if suffix == ".npy":
        np.save(path, values)
    elif suffix == ".npz":
        np.savez(path, direction=values)
    elif suffix == ".pt":
        torch.save(torch.from_numpy(values), path)
    else:
        path.write_bytes(pickle.dumps(values))
    return path


def inversion(folder: Path) -> Path:
    pipe = make_pipeline()
    pipe.invert(np.full((32, 32, 3), 90, np.uint8)).save(folder / "inversion.safetensors")
    return folder / "inversion.safetensors"


def model_file(name: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        make_pipeline(alignment={"left_eye": [0.3, 0.4]}).save_pretrained(folder / "model")
        return folder / "model" / name

    return write


def index_of_shards(folder: Path) -> Path:
    make_pipeline().save_pretrained(folder / "model", max_shard_size="4KB")
    return folder / "model" / "generator" / f"{WEIGHTS}.index.json"


def settings(folder: Path) -> Path:
    (folder / "a.toml").write_text('data = "a"\noutput = "b"\nmodel = "c"\nsteps = 3\nadam_betas = [0.9, 0.99]\n')
    return folder / "a.toml"


# Readers.


def read_settings(path: Path, _: Path) -> object:
    return load_config(EncoderTrainingConfig, path, [])


def read_model(path: Path, _: Path) -> object:
    folder = path.parent if path.name == "model_index.json" else path.parent.parent
    return SDICPipeline.from_pretrained(folder)


def read_checkpoint(path: Path, output: Path) -> object:
    return convert(path, output / "converted", overwrite=True)


def read_zip(path: Path, output: Path) -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pictures that cannot be read are left out with a warning
        return open_images(path, 16, cache=output / "cache")


READERS = {
    "checkpoint (.pt)": Reader(rosinality, read_checkpoint),
    "checkpoint (.pt, before PyTorch 1.6)": Reader(
        lambda folder: rosinality(folder, _use_new_zipfile_serialization=False), read_checkpoint
    ),
    "checkpoint (.safetensors)": Reader(flat_checkpoint, read_checkpoint),
    "NVlabs pickle (.pkl)": Reader(
        lambda folder: nvlabs_files.save(folder / "a.pkl", G_ema=nvlabs_files.make(nvlabs_files.Generator)),
        read_checkpoint,
    ),
    "model: weights": Reader(model_file(f"dicn/{WEIGHTS}"), read_model),
    "model: config.json": Reader(model_file("generator/config.json"), read_model),
    "model: model_index.json": Reader(model_file("model_index.json"), read_model),
    "model: index of shards": Reader(index_of_shards, read_model),
    "edits": Reader(edits, lambda path, _: read_edits(path)),
    **{
        f"edits of other tools ({suffix or 'pickle'})": Reader(
            lambda folder, suffix=suffix: arrays(folder, suffix), lambda path, _: read_arrays(path)
        )
        for suffix in (".npy", ".npz", ".pt", "")
    },
    "inversion": Reader(inversion, lambda path, _: SDICInversion.load(path)),
    "safetensors header": Reader(edits, lambda path, _: read_header(path)),
    **{
        f"picture ({suffix})": Reader(
            lambda folder, suffix=suffix: picture(folder, suffix), lambda path, _: load_image(path)
        )
        for suffix in (".png", ".jpg", ".webp", ".tif", ".bmp", ".gif")
    },
    "zip of pictures": Reader(zip_of_pictures, read_zip),
    "settings (.toml)": Reader(settings, read_settings),
}


# Damage.


def mutate(content: bytes, rng: random.Random) -> bytes:
    """Damage a file in one of many ways, sometimes twice."""
    for _ in range(rng.choice((1, 1, 2, 4))):
        content = rng.choice(MUTATIONS)(content, rng)
    return content


def _position(content: bytes, rng: random.Random) -> int:
    """A position; often near the start or the end, where headers and tables of contents stand."""
    reach = rng.choice((64, 1024, len(content)))
    position = rng.randrange(min(reach, len(content))) if content else 0
    return position if rng.random() < 0.6 else max(len(content) - 1 - position, 0)


def _truncate(content: bytes, rng: random.Random) -> bytes:
    return content[: _position(content, rng)]


def _flip_bits(content: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8, 64)) if content else 0):
        changed[_position(content, rng)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _overwrite(content: bytes, rng: random.Random) -> bytes:
    """Put in what lengths and counts overflow on, zeros, or noise."""
    position = _position(content, rng)
    piece = rng.choice((b"\xff" * 4, b"\xff" * 8, b"\x7f" + b"\xff" * 7, b"\0" * 8, b"\0" * 64, rng.randbytes(16)))
    return content[:position] + piece + content[position + len(piece) :]


def _change_number(content: bytes, rng: random.Random) -> bytes:
    """Change a decimal number in text, such as a shape, an offset or a setting."""
    numbers = list(re.finditer(rb"\d+", content[:20000]))
    if not numbers:
        return content
    match = rng.choice(numbers)
    number = rng.choice(
        (b"-1", b"0", b"1", b"65537", b"4294967296", b"9223372036854775807", b"1e400", b"NaN", b"null")
    )
    return content[: match.start()] + number + content[match.end() :]


def _change_word(content: bytes, rng: random.Random) -> bytes:
    """Replace a quoted word, such as a dtype, a key or a value."""
    words = list(re.finditer(rb'"[^"\n]{1,60}"', content[:20000]))
    if not words:
        return content
    match = rng.choice(words)
    word = rng.choice((b'"I64"', b'"BOOL"', b'"F8_E4M3"', b'"../../x"', b'""', b'"__class__"', b"[]", b"{}", b"true"))
    return content[: match.start()] + word + content[match.end() :]


def _remove(content: bytes, rng: random.Random) -> bytes:
    start, length = _position(content, rng), rng.choice((1, 8, 100, 4096))
    return content[:start] + content[start + length :]


def _repeat(content: bytes, rng: random.Random) -> bytes:
    start, length = _position(content, rng), rng.choice((1, 8, 100, 4096))
    return content[: start + length] + content[start:]


def _replace(content: bytes, rng: random.Random) -> bytes:
    return rng.choice((b"", WEB_PAGE, b"\0" * 1000, b"[" * 100_000, rng.randbytes(1000), content[::-1]))


MUTATIONS = (
    *(_truncate, _flip_bits, _flip_bits, _flip_bits, _overwrite, _overwrite, _change_number, _change_word),
    *(_remove, _repeat, _replace),
)


# Trying.


@dataclasses.dataclass
class Outcome:
    """What came of one kind of file.

    Attributes:
        read: Number of files that were read.
        refused: Number refused with one sentence.
        failures: What else happened, each with the damaged file's content.
        memory: The most that reading one added to the process, in bytes; None where it cannot be measured.
    """

    read: int = 0
    refused: int = 0
    failures: list[tuple[str, bytes]] = dataclasses.field(default_factory=list)
    memory: int | None = None


class Watch:
    """Notes what the process does that no reader may do, by Python's audit events."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.allowed: Path | None = None
        self.others: set[int | None] = set()
        sys.addaudithook(self._note)

    def _note(self, event: str, arguments: tuple) -> None:
        # Threads that were there before the reader may be another test's page; those that it starts count.
        if self.allowed is None or threading.get_ident() in self.others:
            return
        if event in FORBIDDEN_EVENTS:
            self.events.append(event)
        elif event == "exec" and not self._is_own_code(arguments[0]):
            self.events.append(f"exec of {arguments[0]}")
        elif event == "open" and isinstance(arguments[0], str | bytes) and self._is_foreign(arguments):
            self.events.append(f"open {arguments[0]!r} for writing")

    @staticmethod
    def _is_own_code(code: types.CodeType) -> bool:
        """Whether code is a module that lies on disk, or an annotation that the typing module evaluates."""
        if Path(code.co_filename).is_file():
            return True
        frame = sys._getframe(2)
        while frame is not None and Path(frame.f_code.co_filename) != Path(typing.__file__):
            frame = frame.f_back
        return frame is not None

    def _is_foreign(self, arguments: tuple) -> bool:
        name, mode, flags = arguments
        writing = any(c in str(mode) for c in "wax+") if mode else bool(flags & 3)
        return writing and not Path(str(name)).is_relative_to(self.allowed) and str(name) != "/dev/null"

    @contextlib.contextmanager
    def watching(self, allowed: Path) -> Iterator[None]:
        """Note events, except for writing below `allowed`."""
        self.others = {thread.ident for thread in threading.enumerate()} - {threading.get_ident()}
        self.events, self.allowed = [], allowed
        try:
            yield
        finally:
            self.allowed = None


WATCH = Watch()


def is_sentence(message: str) -> bool:
    """Whether a message is one sentence on one line, of a length that people read."""
    return message.endswith(".") and not re.search(r"\. [A-Z]|\n", message) and len(message) < 1000


def try_file(reader: Reader, path: Path, output: Path) -> tuple[str, str]:
    """Read one file: ("read", ""), ("refused", message) or ("failed", what happened)."""
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir()
    with WATCH.watching(output):
        try:
            reader.read(path, output)
            result = ("read", "")
        except SDICError as error:
            result = ("refused", str(error)) if is_sentence(str(error)) else ("failed", f"no sentence: {error}")
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            result = ("failed", f"{type(error).__name__}: {error}")
    if WATCH.events:
        return "failed", f"did {sorted(set(WATCH.events))}"
    if result[0] != "read" and any(not path.name.endswith(".lock") for path in output.rglob("*") if path.is_file()):
        return "failed", f"left files: {sorted(path.name for path in output.rglob('*'))}"
    return result


def peak_memory(reset: bool = False) -> int | None:
    """The process's largest resident size in bytes, since the last reset; None where Linux's /proc is not there."""
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) * 1024


def fuzz(reader: Reader, count: int, seed: int = 0) -> Outcome:
    """Read `count` mutations of a reader's sound file."""
    outcome, rng = Outcome(), random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path, output = reader.sample(folder), folder / "output"
        content = path.read_bytes()
        kind, message = first = try_file(reader, path, output)  # imports what is needed, too
        kind, message = first if kind == "read" else ("failed", message)
        kind, message = try_file(reader, path, output)
        if kind != "read":
            raise AssertionError(f"The sound file is not read: {message}")
        for _ in range(count):
            damaged = mutate(content, rng)
            path.write_bytes(damaged)
            before = peak_memory(reset=True)
            kind, message = try_file(reader, path, output)
            after = peak_memory()
            if before is not None and after is not None:
                outcome.memory = max(outcome.memory or 0, after - before)
            if kind == "failed":
                outcome.failures.append((message, damaged))
            else:
                setattr(outcome, kind, getattr(outcome, kind) + 1)
    return outcome


STAGES = (
    GeneratorTrainingConfig,
    EncoderTrainingConfig,
    CompensationTrainingConfig,
    TransportTrainingConfig,
    TuningConfig,
)
SETTINGS = (
    "", "none", "True", "true", "no", "off", "0", "1", "8", "0.5", "-1", "4.0", "1e300", "-1e-300", "nan", "inf",
    "9" * 5000, "x" * 5000, "[]", "[0, 0]", "[0.5, 0.9]", "[0.9, nan]", "[" * 5000, "{}", "{4 = 8}", "{4 = -8, 8 = 1}",
    "2024-01-01", "/dev/zero", "../..", "\x1b[31m", '"bf16"', '["colour", "colour"]', "adaptive", "dataset:", "x",
    "1\nsteps = 2", "=", "'", '"""',
)  # fmt: skip


def fuzz_settings(count: int, seed: int = 0) -> Outcome:
    """Give random settings random values, several at once, as the command line would."""
    outcome, rng = Outcome(), random.Random(seed)
    for _ in range(count):
        stage = rng.choice(STAGES)
        names = [*(each.name for each in dataclasses.fields(stage)), "nothing", ""]
        assignments = [] if stage is TuningConfig else ["data=a", "output=b"]
        for name in rng.choices(names, k=rng.choice((1, 1, 2, 3))):
            text = rng.choice(SETTINGS)
            text = mutate(text.encode(), rng).decode("latin-1") if rng.random() < 0.3 else text
            assignments.append(f"{name}={text}" if rng.random() < 0.98 else text)
        try:
            load_config(stage, None, assignments)
            outcome.read += 1
        except SDICError as error:
            outcome.refused += 1
            if len(str(error)) > 400 or not str(error).isprintable():
                outcome.failures.append((f"no sentence: {error}", repr(assignments).encode()))
        except Exception as error:
            outcome.failures.append((f"{type(error).__name__}: {error}"[:300], repr(assignments).encode()))
    return outcome


def print_row(name: str, outcome: Outcome) -> None:
    """Print a row of the table; what failed, on standard error."""
    memory = "–" if outcome.memory is None else f"{outcome.memory / 2**20:.0f} MiB"
    tried = outcome.refused + outcome.read + len(outcome.failures)
    print(
        f"| {name} | {tried} | {outcome.refused} | {outcome.read} | {len(outcome.failures)} | {memory} |", flush=True
    )
    for message, _ in outcome.failures[:10]:
        print(f"{name}: {message}", file=sys.stderr)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1000, help="mutations per kind of file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="only kinds of files with this in their name")
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    print("| file | tried | refused with a sentence | read | anything else | memory |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, reader in READERS.items():
        if options.only and options.only not in name:
            continue
        print_row(name, fuzz(reader, options.count, options.seed))
    if not options.only or "settings" in options.only:
        print_row("settings of the stages", fuzz_settings(4 * options.count, options.seed))
    if not options.only or "page" in options.only:
        from testing.hostile_requests import fuzz_page

        for name, outcome in fuzz_page(options.count, options.seed).items():
            print_row(name, outcome)


if __name__ == "__main__":
    main()
