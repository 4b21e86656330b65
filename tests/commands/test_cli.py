"""Every command with options and places that make no sense: one sentence, the code 2, and before the work."""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from testing.tiny_models import make_pipeline
from testing.video_clips import squares, write_clip

from sdic_plugin import DirectionEdit, write_edits
from sdic_plugin.commands.cli import build_commands, main
from sdic_plugin.utils.terminal import printable_output


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with a tiny model, a photo, photos in a folder, a direction and a set of edits."""
    folder = tmp_path_factory.mktemp("place")
    pipe = make_pipeline()
    pipe.add_edit(DirectionEdit("turn", tensors={"direction": torch.ones(16)}))
    pipe.save_pretrained(folder / "model")
    (folder / "photos").mkdir()
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(folder / "photos" / "a.png")
    write_clip(folder / "clip.mp4", squares(3))
    np.save(folder / "direction.npy", np.ones(16, np.float32))
    np.save(folder / "zero.npy", np.zeros(16, np.float32))
    np.save(folder / "latents.npy", np.ones((2, 10, 16), np.float32))
    (folder / "scores.csv").write_text("seed,age\n1,2\n-3,4\n")
    return folder


COMMANDS = {
    "invert": "invert photos/a.png --model model --out out",
    "edit": "edit photos/a.png --model model --out out --edit turn=1",
    "sweep": "edit photos/a.png --model model --out out --sweep turn=0:1:3",
    "video": "edit clip.mp4 --model model --out out/clip.mp4 --edit turn=1",
    "sample": "sample --model model --out out",
    "evaluate": "evaluate --model model --data photos --out out",
    "bench": "bench --model model --out out/bench.json",
    "random bench": "bench --out out/bench.json",
    "import": "edits import direction.npy --family interfacegan --out out/set.safetensors",
    "import latents": "edits import latents.npy --family latents --out out/set.safetensors",
    "import component": "edits import direction.npy --family sefa --out out/set.safetensors",
    "find ganspace": "edits find --method ganspace --model model --out out/set.safetensors --count 2 --samples 50",
    "find sefa": "edits find --method sefa --model model --out out/set.safetensors --count 2",
    "find by measure": "edits find --method interfacegan --model model --measure warmth --out out/set.safetensors",
    "find by table": "edits find --method interfacegan --model model --scores scores.csv --out out/set.safetensors",
    "show": "edits show model/edits --model model --out out/sheet.png",
    "export rosinality": "export rosinality --model model --out out/a.pt",
    "export remote-code": "export remote-code --model model --out out",
    "export onnx": "export onnx --model model --out out",
    "export web": "export web --model model --out out",
    "convert": "convert model/generator/diffusion_pytorch_model.safetensors --out out",
    "data": "data cats64 --source photos --out out",
    "demo": "demo --model model",
}
"""Commands that are sound, but for what a test adds."""

COUNTS = ("-1", "0", "99999999999", "9" * 5000, "nan", "1e3", "", "\x1b[31m")
FLOATS = ("nan", "inf", "1e400", "1e30", "much", "")
OPTIONS = {
    "invert": {"--batch-size": ("-1", "0", "nan"), "--refine-steps": ("-1", "nan")},
    "edit": {
        "--compensation": ("nan", "-0.1", "1.1", "inf"),
        "--edit": (
            "turn=nan",
            "turn=1e30",
            "turn=-301",
            "turn=1,turn=2",
            "turn",
            "\x1b[31m=1",
            "nose=1",
            "turn=1e400",
        ),
        "--batch-size": ("-1", "0"),
    },
    "sweep": {
        "--sweep": (
            "turn=1:1e30:3",
            "turn=0:1:99999999999",
            "turn=nan:1:3",
            "turn=0:1:1",
            "turn=0:1:-3",
            "nose=0:1:3",
        ),
        "--edit": ("turn=1", "turn=nan"),
    },
    "video": {
        "--preview": ("-1", "0", "65", "nan", "99999999999"),
        "--smoothing": (*FLOATS[:3], "-0.1", "11"),
        "--gap": (*FLOATS[:3], "-0.1", "11"),
        "--quality": ("-1", "52", "nan"),
        "--edit": ("turn=1", "turn=nan"),
        "--sweep": ("turn=0:1:3",),
        "--paste-back": ("replace",),
        "--example": ("chelsea",),
        "--face": ("nose",),
        "--eyes": ("1,2,3", "1,2,1,2", "9999,1,2,3"),
        "--compensation": ("nan", "1.1"),
        "--out": ("out", "out.gif", "clip.mp4", "photos"),
    },
    "sample": {
        "--count": COUNTS,
        "--seed": ("-1", "9" * 30, "nan"),
        "--seeds": ("1-99999999999", "-1", "5-1", "1-", "", "9" * 5000, "0-9" + "9" * 30, "a", "1,,2", "\x1b[31m"),
        "--truncation": FLOATS,
        "--mix-layers": ("0:0", "-1:4", "4:99999999999", "4", "nan:4", "9" * 5000 + ":3"),
    },
    "evaluate": {
        "--limit": ("-1", "0", "nan"),
        "--multiples": FLOATS,
        "--optimize": ("w:0", "w:-1", "w:nan", "w:99999999999", "v:10", "w:" + "9" * 5000, "w"),
        "--w-optimization": ("-1", "nan"),
        "--edit-truth": ("-1", "nan"),
        "--part": ("0/2", "3/2", "1", "/", "1/0", "-1/2", "1/99999", "\x1b[31m"),
        "--batch-size": ("-1", "0", "nan"),
        "--rows": ("\x1b[31m",),
    },
    "bench": {"--repeats": COUNTS[:-3], "--batch-size": COUNTS, "--threads": COUNTS},
    "random bench": {"--resolution": ("-1", "0", "100", "129", "99999999999")},
    "import": {
        "--strength": ("nan", "inf", "1e400", "much"),
        "--layers": ("3", "2:1", "-1:2", "9" * 5000 + ":3"),
        "--name": ("a=b", "\x1b[31m", "a" * 1000),
    },
    "import latents": {"--index": ("-1", "2", "99999999999", "nan"), "--minus": ("9" * 30, "-1", "x", "avg", "\x1b")},
    "import component": {"--component": ("a=-1", "a=99999999999", "a=nan", "a", "a=" + "9" * 5000, "\x1b=1")},
    "find ganspace": {
        "--count": ("-1", "0", "99999999999"),
        "--samples": ("-1", "0", "3", "99999999999"),
        "--seed": ("-1",),
        "--seeds": ("-1", "9" * 30),
    },
    "find sefa": {"--count": ("-1", "0", "99999999999"), "--layers": ("2:1", "0:99999999999", "x")},
    "find by measure": {"--samples": ("-1", "0", "1", "99999999999"), "--measure": ("warmth", "no:thing", "\x1b[31m")},
    "find by table": {"--truncation": FLOATS},
    "show": {"--seeds": ("-1", "nan", "9" * 30)},
    "convert": {"--feature-resolution": ("-1", "0", "nan", "99999999999"), "--dtype": ("int8",)},
    "demo": {"--port": ("-1", "0", "65536", "99999999999", "nan")},
}
CASES = [(name, option, value) for name, options in OPTIONS.items() for option, values in options.items()
         for value in values]  # fmt: skip


def run(arguments: list[str], capsys: pytest.CaptureFixture) -> tuple[int, str]:
    """Run a command; returns its exit code and what it wrote to stderr."""
    return main(arguments), capsys.readouterr().err


def check_refusal(code: int, message: str) -> None:
    """One sentence, short and fit for a terminal."""
    assert code == 2
    (last,) = message.rstrip("\n").splitlines()
    assert last.startswith("sdic") and last.isprintable() and len(last) < 700, message
    assert "Traceback" not in message and "\x1b" not in message


@pytest.mark.parametrize(("name", "option", "value"), CASES, ids=lambda text: repr(text)[:30])
def test_options_that_make_no_sense(place, monkeypatch, capsys, name, option, value):
    monkeypatch.chdir(place)
    check_refusal(*run([*COMMANDS[name].split(), f"{option}={value}"], capsys))
    assert not (place / "out").exists()


USELESS = {
    "video": ["--eyes 1,2,3,4 --face largest"],
    "find ganspace": ["--measure warmth", "--labelled photos", "--fit svm", "--folders a=b,c", "--truncation 1"],
    "find sefa": ["--scores scores.csv", "--apart", "--by age", "--labels a.csv", "--latents a.safetensors"],
    "find by measure": ["--count 3"],
    "import": ["--component smile=3", "--preset ffhq", "--rule offset", "--index 1", "--text smile", "--threshold 1"],
    "import latents": ["--component smile=3", "--preset cars"],
    "import component": ["--preset ffhq", "--component smile=3 --name laugh", "--minus avg"],
    "import preset": ["--strength 2", "--range -1 1", "--layers 0:2", "--ends a b", "--description good", "--name a"],
}
"""Options that do nothing in a command."""


@pytest.mark.parametrize(("name", "options"), [(name, each) for name, cases in USELESS.items() for each in cases])
def test_options_that_do_nothing_are_refused(place, monkeypatch, capsys, name, options):
    monkeypatch.chdir(place)
    preset = "edits import pca.pt --family ganspace --preset ffhq --out out/set.safetensors"
    command = {**COMMANDS, "import preset": preset}[name]
    code, message = run([*command.split(), *options.split()], capsys)
    check_refusal(code, message)
    option = options.split()[-2 if "--face" in options or "laugh" in options else 0]
    assert f"{option} " in message and ("leave it out" in message or "give one of them" in message)
    assert not (place / "out" / "set.safetensors").exists()


def test_content_rows_that_make_no_sense(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    for first, last in (("-1", "5"), ("448", "64"), ("0", "99999999999"), ("5", "5")):
        check_refusal(*run([*COMMANDS["convert"].split(), "--content-rows", first, last], capsys))
    check_refusal(*run([*COMMANDS["import"].split(), "--range", "1", "-1"], capsys))
    check_refusal(*run([*COMMANDS["import"].split(), "--range", "nan", "1"], capsys))


def test_a_direction_of_zeros_is_not_imported(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    code, message = run(COMMANDS["import"].replace("direction.npy", "zero.npy").split(), capsys)
    check_refusal(code, message)
    assert "zero everywhere it acts, so it would change nothing" in message and not (place / "out").exists()


@pytest.mark.parametrize("name", ["invert", "edit", "sample", "evaluate", "bench"])
@pytest.mark.parametrize("device", ["cuda:99", "nonsense", "meta", "\x1b[31m", pytest.param(
    "cuda", marks=pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has one"))])  # fmt: skip
def test_devices_that_are_not_there(place, monkeypatch, capsys, name, device):
    monkeypatch.chdir(place)
    code, message = run([*COMMANDS[name].split(), "--device", device], capsys)
    check_refusal(code, message)
    assert "is not usable here: give cpu" in message and not (place / "out").exists()


def test_no_other_command_takes_a_device():
    commands = {name: getattr(each, "commands", {"": each}) for name, each in build_commands().commands.items()}
    taking = {
        name
        for name, leaves in commands.items()
        if any("--device" in param.opts for leaf in leaves.values() for param in leaf.params)
    }
    assert taking == {"invert", "edit", "sample", "evaluate", "bench"}


OWN_CHECKS = ("invert", "edit", "sweep", "demo")
"""Commands whose places are checked elsewhere, or that write none."""


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in OWN_CHECKS])
@pytest.mark.parametrize("folder", ["photos/a.png", "/proc/sdic", "x" * 300, "\x1b[31m" + "x" * 300])
def test_places_that_cannot_be_written_are_refused_before_the_work(place, monkeypatch, capsys, name, folder):
    monkeypatch.chdir(place)
    words = COMMANDS[name].split()
    at = words.index("--out") + 1
    words[at] = words[at].replace("out", folder, 1)
    started = time.perf_counter()
    code, message = run(words, capsys)
    check_refusal(code, message)
    assert "cannot be" in message or "is a file" in message
    if name == "evaluate":
        assert time.perf_counter() - started < 1, "not after all its work"


def test_evaluate_notices_before_it_loads_anything(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    code, message = run("evaluate --model nowhere --data nothing --out photos/a.png".split(), capsys)
    check_refusal(code, message)
    assert "cannot be made or written" in message
    code, message = run("evaluate --model nowhere --data nothing --out photos/a.png/b.json".split(), capsys)
    check_refusal(code, message)
    assert "cannot be written" in message


# What reaches the terminal.

HOSTILE = "a\u202e\u2066b"
"""What a name may hold, though a terminal would show something else."""


def test_names_out_of_files_reach_no_terminal(place, tmp_path, monkeypatch, capsys):
    edit = DirectionEdit(
        HOSTILE, description="\x1b]0;owned\x07" + "\x1b[2J" * 100, source="\x1b[31m\n", license="\x9b31m",
        tensors={"direction": torch.ones(16)},
    )  # fmt: skip
    path = tmp_path / "\x1b[31mred.safetensors"
    write_edits([edit], path, generator_id="\x1b[5m\rx")
    assert main(["edits", "show", str(path)]) == 0
    assert main(["edits", "show", str(tmp_path / "\x1b[31mnone")]) == 2
    assert main(["invert", str(tmp_path / "\x1b[31m.png"), "--model", str(place / "model"), "--out",
                 str(tmp_path / "\x1b[31mout")]) == 1  # fmt: skip
    output = capsys.readouterr()
    for text in (output.out, output.err):
        assert "\\x1b" in text
        assert all(line.isprintable() for line in text.replace("\r", "").splitlines()), text
    assert max(map(len, output.out.splitlines())) < 700


def test_no_stream_of_a_command_passes_escape_sequences_on(capsys):
    before = sys.stdout, sys.stderr
    handler = logging.StreamHandler(sys.stderr)
    logger = logging.getLogger("a library")
    logger.addHandler(handler)
    try:
        with printable_output():
            print("\x1b[31mred\ttab")
            print("\x1b[A is not tqdm's", file=sys.stderr)
            logger.error("\x1b[2J")
            sys.stderr.write("\x1b[A\x1b[A")
            sys.stdout.writelines(["a\n", "\x9b\n"])
    finally:
        logger.removeHandler(handler)
    output = capsys.readouterr()
    assert output.out == "\\x1b[31mred\ttab\na\n\\x9b\n"
    assert output.err == "\\x1b[A is not tqdm's\n\\x1b[2J\n\x1b[A\x1b[A"
    assert (sys.stdout, sys.stderr) == before and handler.stream is before[1]
