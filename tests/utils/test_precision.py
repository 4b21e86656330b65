import json
import warnings

import pytest
import torch
from PIL import Image
from testing.trainer_run import make_config, make_trainer

from sdic_plugin.commands import cli
from sdic_plugin.errors import SDICError
from sdic_plugin.utils import precision
from sdic_plugin.utils.precision import computes_bfloat16, resolve_precision, warn_of_emulation

CPU = torch.device("cpu")


@pytest.fixture(params=[True, False], ids=["native", "emulated"])
def native(request, monkeypatch) -> bool:
    """Make torch believe that the CPU has bfloat16 instructions, or has none; this machine is one of the two."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: request.param)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    return request.param


def test_auto_takes_bfloat16_where_the_device_has_it(native):
    assert resolve_precision("auto", CPU) == ("bf16" if native else "no")
    assert resolve_precision("no", CPU) == "no"


def test_emulated_bfloat16_is_warned_of_and_kept(native):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert resolve_precision("bf16", CPU) == "bf16"
    assert len(caught) == (0 if native else 1)
    assert all('"auto"' in str(each.message) for each in caught)


def test_pipelines_in_emulated_bfloat16_are_warned_of(native, caplog):
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        warn_of_emulation(dtype, CPU)
    assert [each.getMessage().split(",")[0] for each in caplog.records] == (
        [] if native else ["bfloat16 was asked for"]
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_commands_edit_and_demo_warn_once(pipe, tmp_path, monkeypatch, caplog, dtype):
    monkeypatch.setattr(precision, "computes_bfloat16", lambda device: False)
    pipe.save_pretrained(tmp_path / "model")
    Image.new("RGB", (32, 32), "tan").save(tmp_path / "a.png")
    common = ["--model", str(tmp_path / "model"), "--dtype", dtype]
    assert cli.main(["edit", str(tmp_path / "a.png"), "--edit", "turn=1", "--out", str(tmp_path), *common]) == 0
    assert len(caplog.records) == (dtype == "bfloat16") and (tmp_path / "a_turn_+1.png").is_file()
    demo = pytest.importorskip("sdic_plugin.demo")
    monkeypatch.setattr(demo, "serve", lambda page, **options: page.close())
    caplog.clear()
    assert cli.main(["demo", *common]) == 0
    assert len(caplog.records) == (dtype == "bfloat16")


def test_devices_that_are_not_known_to_have_it_train_in_float32():
    assert not computes_bfloat16(torch.device("mps")) and resolve_precision("auto", torch.device("mps")) == "no"


def test_a_run_is_saved_with_the_precision_it_has(tmp_path):
    trainer = make_trainer(make_config(tmp_path, steps=1, mixed_precision="auto"))
    expected = "bf16" if precision.computes_bfloat16(CPU) else "no"
    assert trainer.config.mixed_precision == trainer.accelerator.mixed_precision == expected
    assert json.loads((tmp_path / "config.json").read_text())["mixed_precision"] == expected


def test_float16_is_for_gpus():
    """accelerate trains in float32 where a CPU is asked for it."""
    with pytest.raises(SDICError, match="only GPUs train in: give 'bf16', 'no' or 'auto'"):
        resolve_precision("fp16", CPU)
    assert resolve_precision("fp16", torch.device("cuda")) == "fp16"
