import json
import warnings

import pytest
import torch
from PIL import Image
from testing.trainer_run import make_config, make_trainer

from sdic_plugin.commands import cli
from sdic_plugin.errors import SDICError
from sdic_plugin.utils import precision
from sdic_plugin.utils.precision import bfloat16_pays, bfloat16_speedup, resolve_precision, warn_of_slow_bfloat16

CPU = torch.device("cpu")


@pytest.fixture(params=[3.0, 0.5], ids=["fast", "slow"])
def fast(request, monkeypatch) -> bool:
    """Let the measurement say that bfloat16 is three times as fast, or half as fast, as float32."""
    seconds = {torch.float32: request.param, torch.bfloat16: 1.0}
    monkeypatch.setattr(precision, "_seconds_of_product", seconds.__getitem__)
    bfloat16_speedup.cache_clear()
    yield request.param > 1
    bfloat16_speedup.cache_clear()


def test_auto_takes_bfloat16_where_it_is_faster(fast):
    assert resolve_precision("auto", CPU) == ("bf16" if fast else "no")
    assert resolve_precision("no", CPU) == "no"


def test_the_speed_is_measured_once_for_each_number_of_threads(monkeypatch):
    bfloat16_speedup.cache_clear()
    measured = []
    measure = precision._seconds_of_product
    monkeypatch.setattr(precision, "_seconds_of_product", lambda dtype: measured.append(dtype) or measure(dtype))
    speedup = bfloat16_speedup(1)
    assert 0.001 < speedup < 100 and bfloat16_speedup(1) == speedup
    assert measured == [torch.float32, torch.bfloat16]


def test_slow_bfloat16_is_warned_of_and_kept(fast):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert resolve_precision("bf16", CPU) == "bf16"
    assert len(caught) == (0 if fast else 1)
    assert all('multiplies 0.5 times as fast as in float32: set it to "auto"' in str(each.message) for each in caught)


def test_pipelines_in_slow_bfloat16_are_warned_of(fast, caplog):
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        warn_of_slow_bfloat16(dtype, CPU)
    assert [each.getMessage().split(",")[0] for each in caplog.records] == ([] if fast else ["bfloat16 was asked for"])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_commands_edit_and_demo_warn_once(pipe, tmp_path, monkeypatch, caplog, dtype):
    monkeypatch.setattr(precision, "bfloat16_pays", lambda device: False)
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
    assert not bfloat16_pays(torch.device("mps")) and resolve_precision("auto", torch.device("mps")) == "no"


def test_a_run_is_saved_with_the_precision_it_has(tmp_path):
    trainer = make_trainer(make_config(tmp_path, steps=1, mixed_precision="auto"))
    expected = "bf16" if precision.bfloat16_pays(CPU) else "no"
    assert trainer.config.mixed_precision == trainer.accelerator.mixed_precision == expected
    assert json.loads((tmp_path / "config.json").read_text())["mixed_precision"] == expected


def test_float16_is_for_gpus():
    """accelerate trains in float32 where a CPU is asked for it."""
    with pytest.raises(SDICError, match="only GPUs train in: give 'bf16', 'no' or 'auto'"):
        resolve_precision("fp16", CPU)
    assert resolve_precision("fp16", torch.device("cuda")) == "fp16"


def test_auto_means_the_same_when_a_run_goes_on(tmp_path, monkeypatch):
    make_trainer(make_config(tmp_path, steps=1, mixed_precision="auto"))
    before = json.loads((tmp_path / "config.json").read_text())["mixed_precision"]
    monkeypatch.setattr("sdic_plugin.utils.precision.bfloat16_pays", lambda device: before == "no")  # the other
    assert resolve_precision("auto", CPU) != before
    assert make_trainer(make_config(tmp_path, steps=1, mixed_precision="auto")).config.mixed_precision == before
