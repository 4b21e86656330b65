"""Learning curves from the logs of runs."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from sdic_plugin import SDICError
from sdic_plugin.training.curves import draw_curves, main, read_curves


@pytest.fixture
def runs(tmp_path):
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        folder.mkdir()
        lines = [{"step": step, "loss": 2 / step, "pixel": 1 / step, "images_per_second": 9.0} for step in (1, 2, 3)]
        lines.append({"step": 3, "validation_psnr": 20.0})
        (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folders


def test_runs_follow_each_other(runs):
    curves = read_curves(runs)
    assert curves.parts == [0, 3]
    assert curves.validation == {"validation_psnr": [(3, 20.0), (6, 20.0)]}
    assert [step for step, _ in curves.losses["pixel"]] == [1, 2, 3, 4, 5, 6]
    assert curves.losses.keys() == {"pixel"}


def test_picture_shows_both_panels(runs, monkeypatch, tmp_path):
    monkeypatch.setattr("sys.argv", ["curves", *map(str, runs), "--out", str(tmp_path / "curves.png")])
    main()
    pixels = np.asarray(Image.open(tmp_path / "curves.png").convert("RGB"))
    assert pixels.shape == (420, 1100, 3)
    for half in (pixels[:, :550], pixels[:, 550:]):
        assert ((half != 255).any(axis=2) & (half.max(axis=2) > half.min(axis=2) + 60)).sum() > 200  # coloured lines
    assert [path.name for path in tmp_path.iterdir() if "tmp" in path.name] == []


def test_folder_without_a_log_is_named(tmp_path):
    with pytest.raises(SDICError, match=r"The log .*log.jsonl cannot be read .*give folders that `sdic train` wrote"):
        read_curves([tmp_path])
    (tmp_path / "log.jsonl").touch()
    with pytest.raises(SDICError, match=r"is empty"):
        draw_curves(read_curves([tmp_path]), tmp_path / "c.png")
