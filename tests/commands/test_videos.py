"""`sdic edit` of a video: where it is told from photos, what it prints, and what is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from testing.tiny_models import make_pipeline
from testing.video_clips import frames_of, squares, write_clip

from sdic_plugin import DirectionEdit
from sdic_plugin.commands.cli import main


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    pipe = make_pipeline(alignment={"left_eye": [0.3, 0.4], "right_eye": [0.7, 0.4]})
    pipe.add_edit(DirectionEdit("turn", tensors={"direction": torch.ones(16)}))
    pipe.save_pretrained(folder)
    return folder


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_clip(tmp_path / "clip.mp4", squares(6))
    return tmp_path


def edit(model: Path, *words: str, source: str = "clip.mp4", out: str = "out.mp4") -> int:
    return main(["edit", source, "--model", str(model), "--edit", "turn=2", "--out", out, *words])


def test_a_video_is_edited(place, model, capsys):
    assert edit(model, "--eyes", "40,30,56,30") == 0
    assert capsys.readouterr().out == "out.mp4: 6 of 6 frames edited\n"
    assert len(frames_of(place / "out.mp4")) == 6
    assert edit(model, "--eyes", "40,30,56,30") == 2
    assert "already: name another one, or give --overwrite" in capsys.readouterr().err
    assert edit(model, "--overwrite") == 0
    said = capsys.readouterr()
    assert "warning: 'clip.mp4': the middle of each frame was edited; --eyes says where" in said.err


def test_a_preview_is_drawn(place, model, capsys):
    assert edit(model, "--preview", "2") == 0
    assert (place / "out_preview.png").is_file() and not (place / "out.mp4").exists()
    assert "out_preview.png shows" in capsys.readouterr().out


REFUSALS = {
    "no such": (["edit", "none.mp4"], "There is no video"),
    "not one": (["edit", "text.mp4"], "cannot be read as a video"),
    "several": (["edit", "clip.mp4", "clip.mp4"], "give one video at a time"),
    "with photos": (["edit", "clip.mp4", "a.png"], "give one video at a time"),
    "inverted": (["invert", "clip.mp4"], "`sdic edit` takes a video"),
    "several edits": (["edit", "clip.mp4", "--edit", "turn=1"], "takes one --edit, and 2 were given"),
    "for photos": (["edit", "clip.mp4", "--save-inversion"], "--save-inversion is for photos"),
    "for videos": (["edit", "a.png", "--overwrite"], "--overwrite is for videos"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_is_refused(place, model, capsys, name):
    (place / "text.mp4").write_text("no video")
    (place / "a.png").write_text("no picture")
    words, expected = REFUSALS[name]
    edits = [] if words[0] == "invert" else ["--edit", "turn=2"]
    assert main([*words, "--model", str(model), *edits, "--out", "out.mp4"]) == 2
    said = capsys.readouterr().err
    assert expected in said and len(said.splitlines()) == 1
    assert sorted(path.name for path in place.iterdir()) == ["a.png", "clip.mp4", "text.mp4"]


@pytest.mark.parametrize(("out", "expected"), [
    ("out.gif", "end it in one of .mp4"), ("out", "end it in one of .mp4"), ("clip.mp4", "would replace the video"),
    ("/proc/sdic/out.mp4", "cannot be made or written"),
])  # fmt: skip
def test_places_that_cannot_be_written(place, model, capsys, out, expected):
    assert edit(model, out=out) == 2
    assert expected in capsys.readouterr().err


def test_sound_that_the_format_cannot_hold(place, model, capsys):
    write_clip(place / "clip.mp4", squares(6), sound="aac")
    assert edit(model, out="out.webm") == 2
    assert "The sound is 'aac', which 'out.webm' cannot hold as it is: end the name in .mkv" in capsys.readouterr().err


def test_several_processes_are_one_too_many(place, model, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert edit(model) == 2
    assert "without torchrun" in capsys.readouterr().err


def test_pyav_is_missing(place, model, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "av", None)
    assert edit(model) == 2
    assert 'pip install "sdic-plugin[video]"' in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="sets a limit of POSIX")
def test_a_full_disk_keeps_what_is_done(place, model):
    write_clip(place / "clip.mp4", squares(60))
    program = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "from sdic_plugin.commands.cli import main\n"
        "from sdic_plugin.video import process, progress_folder\n"
        "process.PIECE_FRAMES = progress_folder.PIECE_FRAMES = 10\n"
        "limit = int(sys.argv.pop(1))\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    command = ["edit", "clip.mp4", "--model", str(model), "--edit", "turn=2", "--quality", "0", "--out", "out.mp4"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}

    def run(limit: int) -> subprocess.CompletedProcess:
        line = [sys.executable, "-c", program, str(limit), *command]
        return subprocess.run(line, cwd=place, capture_output=True, text=True, env=environment)

    stopped = run(60_000)
    assert stopped.returncode == 2 and "is full; what is done is kept in 'out.mp4.progress'" in stopped.stderr
    assert not (place / "out.mp4").exists() and list((place / "out.mp4.progress").glob("piece_*.nut"))
    done = run(10**9)
    assert done.returncode == 0 and "were done already" in done.stdout
    assert len(frames_of(place / "out.mp4")) == 60
