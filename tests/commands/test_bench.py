"""`sdic bench`: figures of every part, printed and kept."""

from __future__ import annotations

import json

import pytest

from sdic_plugin.commands.cli import main


def test_bench_prints_and_keeps_its_figures(pipe, tmp_path, capsys):
    pipe.save_pretrained(tmp_path / "model")
    out = tmp_path / "bench.json"
    arguments = ["bench", "--model", str(tmp_path / "model"), "--repeats", "2", "--profile", "--out", str(out)]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert "| generator, straightforward |" in said and "Matrix rate" in said
    content = json.loads(out.read_text())
    parts = {part["name"]: part for part in content["parts"]}
    assert parts.keys() == {
        "encoder", "generator, straightforward", "generator, layer by layer", "generator", "DIPN", "DICN", "inversion",
        "inversion and an edit", "the same, published structure", "edit", "edit after the hook",
    }  # fmt: skip
    assert all(part["seconds"] > 0 and part["gmac"] > 0 for part in parts.values())
    assert parts["edit"]["gmac"] == parts["generator"]["gmac"]
    assert parts["edit after the hook"]["gmac"] < parts["edit"]["gmac"]
    assert parts["inversion and an edit"]["gmac"] == pytest.approx(
        sum(parts[name]["gmac"] for name in ("encoder", "DIPN", "DICN")) + 2 * parts["generator"]["gmac"]
    )
    assert {"stem", "stages.0", "heads.9"} <= content["layers"]["encoder"].keys()
    assert {"blocks.0.conv", "blocks.4.up_conv", "blocks.4.to_rgb"} <= content["layers"]["generator"].keys()
    assert parts["edit"]["float32_seconds"] is None
    assert main(["bench", "--resolution", "64"]) == 2
    assert "give 256, 512 or 1024" in capsys.readouterr().err


def test_bench_compares_with_float32_in_the_same_turns(pipe, tmp_path, capsys):
    pipe.save_pretrained(tmp_path / "model")
    out = tmp_path / "bench.json"
    arguments = [
        "bench",
        "--model",
        str(tmp_path / "model"),
        "--repeats",
        "1",
        "--dtype",
        "bfloat16",
        "--out",
        str(out),
    ]
    assert main([*arguments, "--against-float32"]) == 0
    assert "| float32, ms | times as fast |" in capsys.readouterr().out
    assert all(part["float32_seconds"] > 0 for part in json.loads(out.read_text())["parts"])
