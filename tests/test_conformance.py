"""What diffusers' own testers ask of a pipeline and its models, by tests of our own.

diffusers' mixins are not installed with it; where DIFFUSERS_SRC names a source tree, `test_pipeline_mixin` runs the
pipeline's.
"""

from __future__ import annotations

import copy
import importlib
import inspect
import os
import sys
import unittest
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from tiny_models import CLASSES, COMPONENTS, example_inputs, make_model, make_pipeline

from sdic_plugin import SDICError, SDICPipeline

PHOTOS = np.linspace(0, 1, 2 * 32 * 32 * 3).reshape(2, 32, 32, 3)


def output(pipe: SDICPipeline) -> torch.Tensor:
    pipe.set_progress_bar_config(disable=True)
    return pipe(PHOTOS, output_type="pt").images


def first(result: object) -> torch.Tensor:
    """The first tensor of whatever a model returns."""
    if isinstance(result, torch.Tensor):
        return result
    return next(value for value in result.to_tuple() if value is not None)


# Models.


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("options", [{}, {"max_shard_size": "2KB"}, {"variant": "fp16"}])
def test_models_come_back_from_disk(tmp_path, name, options):
    model = make_model(name)
    model.save_pretrained(tmp_path, **options)
    if "max_shard_size" in options:
        assert len(list(tmp_path.glob("*-of-*.safetensors"))) > 1
    back = CLASSES[name].from_pretrained(tmp_path, variant=options.get("variant"), use_safetensors=True)
    assert not back.training and back.config["_class_name"] == CLASSES[name].__name__
    with torch.no_grad():
        assert torch.equal(first(back(*example_inputs(name))), first(model(*example_inputs(name))))


@pytest.mark.parametrize("name", CLASSES)
def test_models_are_made_from_their_configuration(name):
    model = make_model(name)
    again = CLASSES[name].from_config(model.config)
    shapes = {key: tensor.shape for key, tensor in model.state_dict().items()}
    assert {key: tensor.shape for key, tensor in again.state_dict().items()} == shapes
    assert again.dtype == torch.float32 and again.num_parameters() == model.num_parameters()


@pytest.mark.parametrize("name", CLASSES)
def test_models_are_traced_by_torch_compile(name):
    """The whole graph, without a break; "eager" compiles nothing, so no compiler is needed here."""
    model = make_model(name)
    compiled = torch.compile(model, backend="eager", fullgraph=name != "encoder")
    with torch.no_grad():
        found, wanted = first(compiled(*example_inputs(name))), first(model(*example_inputs(name)))
    assert torch.allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("name", CLASSES)
def test_gradient_checkpointing_is_refused(name):
    """None of the models offers it, and each says so rather than ignoring the call."""
    with pytest.raises(ValueError, match="does not support gradient checkpointing"):
        make_model(name).enable_gradient_checkpointing()


@pytest.mark.parametrize("name", CLASSES)
def test_models_train_and_are_deterministic(name):
    model = make_model(name).train()
    inputs = example_inputs(name)
    loss = first(model(*inputs)).square().mean()
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad) or name in (
        "generator",  # its mapping network takes no part in a pass from W+
        "dicn",
    )
    model.eval()
    with torch.no_grad():
        assert torch.equal(first(model(*inputs)), first(model(*inputs)))


# The pipeline.


def test_a_pipeline_is_made_from_the_components_of_another():
    pipe = make_pipeline()
    assert set(pipe.components) == set(COMPONENTS)
    again = SDICPipeline(**pipe.components)
    assert torch.equal(output(again), output(pipe))


def test_the_signature_is_that_of_a_diffusers_pipeline():
    parameters = inspect.signature(SDICPipeline.__call__).parameters
    assert {"image", "generator", "latents", "output_type", "return_dict"} <= set(parameters)
    assert issubclass(SDICPipeline, DiffusionPipeline)
    assert "Examples:" in SDICPipeline.__call__.__doc__ and "```py" in SDICPipeline.__call__.__doc__
    for step in ("check_inputs", "prepare_image", "encode", "compensate", "synthesize"):
        assert callable(getattr(SDICPipeline, step))


def test_the_random_generator_changes_nothing():
    pipe = make_pipeline()
    images = [pipe(PHOTOS, output_type="pt", generator=torch.Generator().manual_seed(seed)).images for seed in (0, 1)]
    assert torch.equal(*images)


def test_model_offload():
    pipe = make_pipeline()
    wanted = output(pipe)
    pipe.enable_model_cpu_offload(device="cpu")
    assert torch.equal(output(pipe), wanted)
    assert torch.equal(output(pipe), wanted), "the second call too"


def test_sequential_offload_is_refused():
    """accelerate fails in the middle of a pass; better to say so at once."""
    with pytest.raises(SDICError, match="enable_model_cpu_offload"):
        make_pipeline().enable_sequential_cpu_offload(device="cpu")


def test_a_device_map(tmp_path):
    make_pipeline().save_pretrained(tmp_path / "model")
    pipe = SDICPipeline.from_pretrained(tmp_path / "model", device_map="cpu")
    assert torch.equal(output(pipe), output(make_pipeline()))


def test_a_sharded_save(tmp_path):
    make_pipeline().save_pretrained(tmp_path / "model", max_shard_size="4KB")
    assert torch.equal(output(SDICPipeline.from_pretrained(tmp_path / "model")), output(make_pipeline()))


@pytest.mark.parametrize("how", ["wrapped", "in place"])
def test_compiled_components(tmp_path, how):
    pipe = make_pipeline()
    wanted = output(pipe)
    for name in COMPONENTS:
        component = getattr(pipe, name)
        if how == "wrapped":
            setattr(pipe, name, torch.compile(component, backend="eager"))
        else:
            component.compile(backend="eager")
    assert torch.allclose(output(pipe), wanted, atol=1e-5)
    pipe.save_pretrained(tmp_path / "model")
    assert torch.equal(output(SDICPipeline.from_pretrained(tmp_path / "model")), wanted)


@pytest.mark.gpu
@pytest.mark.parametrize("how", ["model offload", "device_map", "compile"])
def test_on_a_gpu(tmp_path, how):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    pipe = make_pipeline()
    wanted = output(pipe)
    if how == "model offload":
        pipe.enable_model_cpu_offload()
    elif how == "device_map":
        pipe.save_pretrained(tmp_path / "model")
        pipe = SDICPipeline.from_pretrained(tmp_path / "model", device_map="balanced")
    else:
        pipe.to("cuda")
        pipe.generator.compile()
    assert torch.allclose(output(pipe).cpu(), wanted, atol=1e-2)


# diffusers' own.


def test_pipeline_mixin():
    source = Path(os.environ.get("DIFFUSERS_SRC", ""))
    if not os.environ.get("DIFFUSERS_SRC") or not (source / "tests" / "pipelines").is_dir():
        pytest.skip("DIFFUSERS_SRC does not name a diffusers source tree")
    sys.path.insert(0, str(source))
    try:
        common = importlib.import_module("tests.pipelines.test_pipelines_common")
    finally:
        sys.path.remove(str(source))

    class PipelineTests(common.PipelineTesterMixin, unittest.TestCase):
        pipeline_class = SDICPipeline
        params = frozenset({"image"})
        batch_params = frozenset({"image"})
        required_optional_params = frozenset({"generator", "output_type", "return_dict"})

        def get_dummy_components(self) -> dict:
            return copy.deepcopy(make_pipeline().components)

        def get_dummy_inputs(self, device: object, seed: int = 0) -> dict:
            image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(seed)).to(device)
            return {"image": image, "generator": torch.Generator().manual_seed(seed), "output_type": "np"}

    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(PipelineTests).run(result)
    assert result.testsRun > 0
    assert not result.failures and not result.errors, [str(test) for test, _ in result.failures + result.errors]
