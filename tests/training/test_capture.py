"""A loss with its gradients as one graph: what it gives, what it leaves alone, and when it is compiled."""

import dataclasses
import json
import sysconfig

import pytest
import torch
from PIL import Image
from torch import nn

from sdic_plugin import StyleGAN2Discriminator, StyleGAN2Generator
from sdic_plugin.errors import SDICError
from sdic_plugin.training import capture
from sdic_plugin.training.capture import CapturedLoss, resolve_compile
from sdic_plugin.training.compensation import CompensationTrainingConfig, train_compensation
from sdic_plugin.training.encoder import EncoderTrainingConfig, train_encoder
from sdic_plugin.training.generator import train_generator
from sdic_plugin.training.generator_config import GeneratorTrainingConfig
from sdic_plugin.training.losses import r1_penalty

CPU = torch.device("cpu")
needs_compiler = pytest.mark.skipif(capture.compiler_problem(CPU) is not None, reason="needs a C++ compiler")


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("SDIC_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A generator and a discriminator of 32 px, and a folder of pictures."""
    folder = tmp_path_factory.mktemp("base")
    torch.manual_seed(0)
    sizes = {"resolution": 32, "channels": {"4": 8, "8": 8, "16": 8, "32": 8}}
    generator = StyleGAN2Generator(**sizes, style_width=16, mapping_layers=2, feature_resolution=16)
    generator.estimate_w_avg(500)
    generator.save_pretrained(folder / "generator")
    StyleGAN2Discriminator(**sizes).save_pretrained(folder / "discriminator")
    (folder / "photos").mkdir()
    for i in range(8):
        pixels = torch.randint(0, 256, (32, 32, 3), generator=torch.Generator().manual_seed(i), dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(folder / "photos" / f"{i}.png")
    return folder


@pytest.fixture
def interpreted(monkeypatch):
    """Run the captured graph as it is: what tracing decides, without a minute of compiling."""
    monkeypatch.setattr(torch, "compile", lambda graph, **options: graph)


@pytest.fixture
def judge():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Softplus(), nn.Flatten(), nn.Linear(4 * 36, 1))


def penalized(judge):
    def loss(images, extra, weight):
        penalty = r1_penalty(judge, images)
        scores = judge(images)
        return scores.mean() + weight * penalty + sum(each.mean() for each in extra), {"penalty": penalty}

    return loss


def test_captured_gradients_are_those_of_autograd_with_second_derivatives(judge, interpreted):
    function, parameters = penalized(judge), list(judge.parameters())
    captured = CapturedLoss(function, parameters, [judge], CPU)
    for seed in range(2):  # the first call traces, the second runs the graph alone
        images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
        before = {name: value.clone() for name, value in judge.state_dict().items()}
        loss, outputs, gradients = captured(images, [images, images], weight=3)
        statistics = {name: value.clone() for name, value in judge.named_buffers()}
        judge.load_state_dict(before)
        expected, named = function(images, [images, images], weight=3)
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(outputs["penalty"], named["penalty"])
        for found, wanted in zip(gradients, torch.autograd.grad(expected, parameters), strict=True):
            torch.testing.assert_close(found, wanted)
        for name, value in judge.named_buffers():  # moved by one step, not by the tracing as well
            torch.testing.assert_close(statistics[name], value)
        assert not loss.requires_grad


def test_graphs_follow_the_weights_that_an_optimizer_moves(judge, interpreted):
    captured = CapturedLoss(penalized(judge), list(judge.parameters()), [judge], CPU)
    images = torch.randn(2, 3, 8, 8)
    first = captured(images, [], weight=1)[0].item()
    with torch.no_grad():
        judge[-1].bias.add_(1)
    assert captured(images, [], weight=1)[0].item() == pytest.approx(first + 1, abs=1e-5)


def test_every_shape_and_switch_has_its_own_graph(judge, interpreted):
    captured = CapturedLoss(penalized(judge), list(judge.parameters()), [judge], CPU)
    images = torch.randn(4, 3, 8, 8)
    losses = [captured(images[:count], [], weight=weight)[0].item() for count in (2, 4) for weight in (0, 5)]
    assert len({round(loss, 6) for loss in losses}) == 4
    with pytest.raises(RuntimeError):
        captured(torch.randn(2, 3, 9, 9), [], weight=0)


def test_parameters_without_influence_have_no_gradient(interpreted):
    used, unused = nn.Parameter(torch.ones(3)), nn.Parameter(torch.zeros(3))
    captured = CapturedLoss(lambda x: ((used * x).sum(), {}), [unused, used], [], CPU)
    _, _, (none, gradient) = captured(torch.arange(3.0))
    assert none is None and gradient.tolist() == [0, 1, 2]


def test_auto_compiles_long_runs_where_a_compiler_is(monkeypatch):
    monkeypatch.setattr(capture, "compiler_problem", lambda device: None)
    assert resolve_compile("auto", 10, "no", CPU) == "no"
    assert resolve_compile("auto", capture.WORTHWHILE_STEPS, "bf16", CPU) == "yes"
    assert resolve_compile("auto", capture.WORTHWHILE_STEPS, "fp16", CPU) == "no"
    assert resolve_compile("yes", 10, "no", CPU) == "yes"
    assert resolve_compile("no", 10**6, "no", CPU) == "no"
    with pytest.raises(SDICError, match=r"fp16.*set it to 'auto' or 'no'"):
        resolve_compile("yes", 10, "fp16", CPU)
    monkeypatch.setattr(capture, "compiler_problem", lambda device: "there is no C++ compiler such as g++")
    assert resolve_compile("auto", 10**6, "no", CPU) == "no"
    with pytest.raises(SDICError, match=r"no C\+\+ compiler"):
        resolve_compile("yes", 10, "no", CPU)


def test_a_machine_without_compiler_is_recognised(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert "there is no C++ compiler" in capture.compiler_problem(CPU)
    other = tmp_path / "another-compiler"
    other.touch()
    other.chmod(0o755)
    assert "there is no C++ compiler" in capture.compiler_problem(CPU)  # torch.compile looks for no other
    monkeypatch.setenv("CXX", str(other))
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    assert "Python's header files are missing" in capture.compiler_problem(CPU)
    (tmp_path / "Python.h").touch()
    assert capture.compiler_problem(CPU) is None


@needs_compiler
def test_a_compiler_that_fails_is_said(judge, monkeypatch, tmp_path):
    broken = tmp_path / "broken-compiler"
    broken.write_text('#!/bin/sh\n[ "$1" = --version ] && exec g++ --version\necho "disk full" >&2\nexit 1\n')
    broken.chmod(0o755)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", (None, str(broken)))
    captured = CapturedLoss(lambda x: (judge(x).mean(), {}), list(judge.parameters()), [judge], CPU)
    with pytest.raises(SDICError, match=r"torch.compile does not work on this machine \(.*\): set compile=no"):
        captured(torch.randn(2, 3, 8, 8))


# Whole stages. But for the last test, the graphs run as traced, not compiled.


def settings_of_run(base, output, compiled, **settings):
    values = {"data": str(base / "photos"), "output": str(output), "compile": compiled, "batch_size": 4, "steps": 4}
    values |= {"log_every": 1, "sample_every": 10, "checkpoint_every": 2, "decay_from": 1.0}
    return {**values, **settings}


def generator_config(base, output, compiled, **settings):
    special = {"resolution": 16, "style_width": 16, "mapping_layers": 2, "channels": {"4": 8, "8": 8, "16": 8}}
    special |= {"r1_every": 2, "r1_weight": 1.0, "augmentation": "diffaugment"}
    special |= {"path_length_weight": 2.0, "path_length_every": 2}
    return GeneratorTrainingConfig(**settings_of_run(base, output, compiled, **special, **settings))


def encoder_config(base, output, compiled):
    sizes = {"stage_channels": [8, 8, 8, 8], "stage_units": [1, 1, 1, 1], "head_channels": 8}
    special = {"model": str(base), "adversarial_weight": 0.1, "progressive_from": 0.0, "progressive_until": 0.3}
    return EncoderTrainingConfig(**settings_of_run(base, output, compiled, **sizes, **special))


def compensation_config(model, base, output, compiled):
    sizes = {"branch_channels": [8, 8, 8, 8, 8], "matching_channels": 4, "volume_channels": [4, 8, 8, 8]}
    sizes |= {"head_channels": 8, "condition_channels": 2, "condition_size": 16, "stem_channels": [8, 8]}
    weights = ("discrepancy", "edit_transfer", "synthetic_edit", "cycle", "adversarial")
    special = {f"{name}_weight": 0.1 for name in weights} | {"misalignment": 0.05, "ssim_weight": 0.1}
    return CompensationTrainingConfig(**settings_of_run(base, output, compiled, model=str(model), **sizes, **special))


def assert_same_figures(folders, names, rel=1e-3, abs=1e-4):
    for name in names:
        figures = [
            [line[name] for line in map(json.loads, (folder / "log.jsonl").read_text().splitlines()) if name in line]
            for folder in folders
        ]
        assert len(figures[0]) >= 4
        assert figures[1] == pytest.approx(figures[0], rel=rel, abs=abs), name


GENERATOR_FIGURES = ("loss", "discriminator", "logit_real", "r1", "path_length")


def test_generator_stage_learns_the_same_captured(tmp_path, base, interpreted):
    folders = {"no": tmp_path / "plain", "yes": tmp_path / "captured"}
    for compiled, folder in folders.items():
        train_generator(generator_config(base, folder, compiled))
    assert_same_figures(list(folders.values()), GENERATOR_FIGURES)


def test_encoder_and_compensation_learn_the_same_captured(tmp_path, base, interpreted):
    encoders = {"no": tmp_path / "plain", "yes": tmp_path / "captured"}
    for compiled, folder in encoders.items():
        model = train_encoder(encoder_config(base, folder, compiled))
    assert_same_figures(list(encoders.values()), ("loss", "pixel", "offsets", "adversarial", "latent_discriminator"))
    folders = {"no": tmp_path / "plain_dicn", "yes": tmp_path / "captured_dicn"}
    for compiled, folder in folders.items():
        train_compensation(compensation_config(model, base, folder, compiled))
    terms = ("loss", "pixel", "ssim", "discrepancy", "edit_transfer", "synthetic_edit", "cycle", "adversarial")
    assert_same_figures(list(folders.values()), (*terms, "discriminator"), rel=3e-3)


def assert_resumes_to_the_same_bits(base, folder):
    """A captured run, stopped and resumed, ends where one does that was not stopped."""
    train_generator(generator_config(base, folder / "parts", "yes", steps=2))
    models = [train_generator(generator_config(base, folder / name, "yes")) for name in ("whole", "parts")]
    for part in ("generator", "discriminator"):
        files = [model / part / "diffusion_pytorch_model.safetensors" for model in models]
        assert files[0].read_bytes() == files[1].read_bytes()


@pytest.fixture
def one_thread():
    """With more, sums of tiny maps are not always taken in the same order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_captured_run_resumes_to_the_same_bits(tmp_path, base, interpreted, one_thread):
    assert_resumes_to_the_same_bits(base, tmp_path)


def test_a_run_of_an_earlier_version_goes_on_plainly(tmp_path, base):
    config = generator_config(base, tmp_path, "no", steps=2)
    train_generator(config)
    for path in [tmp_path / "config.json", *(tmp_path / "checkpoints").glob("*/checkpoint.json")]:
        content = json.loads(path.read_text())
        del content.get("settings", content)["compile"]
        path.write_text(json.dumps(content))
    train_generator(dataclasses.replace(config, compile="auto", steps=4))
    assert json.loads((tmp_path / "config.json").read_text())["compile"] == "no"


def test_a_captured_run_goes_on_where_nothing_compiles(tmp_path, base, interpreted, monkeypatch):
    train_generator(generator_config(base, tmp_path, "yes", steps=2))
    monkeypatch.setattr("sdic_plugin.training.trainer.compiler_problem", lambda device: "there is no C++ compiler")
    monkeypatch.setattr(capture, "compiler_problem", lambda device: "there is no C++ compiler")
    with pytest.warns(UserWarning, match="compile changed from 'yes' to 'no'"):
        train_generator(generator_config(base, tmp_path, "auto"))
    assert json.loads((tmp_path / "config.json").read_text())["compile"] == "no"


@pytest.mark.slow
@needs_compiler
def test_compiled_run_resumes_to_the_same_bits(tmp_path, base, one_thread):
    assert_resumes_to_the_same_bits(base, tmp_path)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
def test_generator_stage_learns_the_same_and_resumes_on_a_gpu(tmp_path, base):
    folders = {"no": tmp_path / "plain", "yes": tmp_path / "compiled"}
    for way, folder in folders.items():
        train_generator(generator_config(base, folder, way))
    assert_same_figures(list(folders.values()), GENERATOR_FIGURES, rel=2e-2, abs=2e-3)
    assert_resumes_to_the_same_bits(base, tmp_path / "resumed")


@pytest.mark.slow
@needs_compiler
def test_generator_stage_learns_the_same_compiled(tmp_path, base):
    folders = {"no": tmp_path / "plain", "yes": tmp_path / "compiled"}
    for compiled, folder in folders.items():
        train_generator(generator_config(base, folder, compiled))
    assert_same_figures(list(folders.values()), GENERATOR_FIGURES, rel=1e-2, abs=1e-3)
