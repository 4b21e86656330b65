"""What diffusers' own testers ask of a pipeline and its models, by tests of our own.

diffusers' mixins are not installed with it; where DIFFUSERS_SRC names a source tree, test_diffusers_mixins.py runs
them.
"""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch
from accelerate import cpu_offload_with_hook
from accelerate.hooks import AlignDevicesHook, add_hook_to_module, remove_hook_from_module
from diffusers import DiffusionPipeline
from testing.tiny_models import CLASSES, COMPONENTS, example_inputs, make_model, make_pipeline

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
    compiled = torch.compile(model, backend="eager", fullgraph=True)
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


def test_two_generators_are_not_offloaded():
    pipe, other = make_pipeline(), make_model("generator", seed=1)
    with pytest.raises(SDICError, match="has two generators"):
        pipe.with_generator(other).enable_model_cpu_offload(device="cpu")
    pipe.enable_model_cpu_offload(device="cpu")
    with pytest.raises(SDICError, match="are offloaded to the CPU"):
        pipe.with_generator(other)


def test_the_device_is_found_as_diffusers_finds_it():
    pipe = make_pipeline()

    def check(wanted):
        assert pipe._execution_device == DiffusionPipeline._execution_device.fget(pipe) == torch.device(wanted)

    check("cpu")
    cpu_offload_with_hook(pipe.encoder, "meta")
    check("meta")
    remove_hook_from_module(pipe.encoder, recurse=True)
    check("cpu")
    pipe.dicn.enable_group_offload(torch.device("cpu"), offload_type="leaf_level")
    hooks = [layer._diffusers_hook for layer in pipe.dicn.modules() if hasattr(layer, "_diffusers_hook")]
    offload = next(hook for registry in hooks if (hook := registry.get_hook("group_offloading")) is not None)
    offload.config.onload_device = torch.device("meta")
    check("meta")


@pytest.mark.parametrize("how", ["enable_sequential_cpu_offload", "enable_group_offload"])
def test_offload_by_layers_is_refused(how):
    """It fails in the middle of a pass; better to say so at once."""
    pipe = make_pipeline()
    with pytest.raises(SDICError, match="use enable_model_cpu_offload"):
        getattr(pipe, how)("cpu")
    with pytest.raises(ValueError, match="StyleGAN2Generator does not support group offloading"):
        pipe.generator.enable_group_offload("cpu")


@pytest.mark.parametrize("name", CLASSES)
def test_a_network_is_not_split_over_devices(tmp_path, name):
    make_model(name).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"does not support `device_map='auto'`"):
        CLASSES[name].from_pretrained(tmp_path, device_map="auto", use_safetensors=True)


@pytest.mark.parametrize("name", CLASSES)
def test_weights_stored_in_half_precision_are_computed_in_float32(name):
    """diffusers' layerwise casting."""
    model = make_model(name)
    with torch.no_grad():
        wanted = first(model(*example_inputs(name)))
        model.enable_layerwise_casting(storage_dtype=torch.float16, compute_dtype=torch.float32)
        found = first(model(*example_inputs(name)))
    assert found.dtype == torch.float32
    assert torch.allclose(found, wanted, atol=1e-2 * wanted.abs().max().item())


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
    # Each network alone is compiled above; here it is these two, so that the test does not take half a minute.
    for name in ("dicn", "generator"):
        component = getattr(pipe, name)
        if how == "wrapped":
            setattr(pipe, name, torch.compile(component, backend="eager"))
        else:
            component.compile(backend="eager")
    assert torch.allclose(output(pipe), wanted, atol=1e-5)
    pipe.save_pretrained(tmp_path / "model")
    assert torch.equal(output(SDICPipeline.from_pretrained(tmp_path / "model")), wanted)


def test_outputs_survive_the_hooks_that_device_map_adds():
    """accelerate rebuilds whatever a network returns, to move it to the device that the input came from."""
    pipe = make_pipeline()
    wanted = output(pipe)
    inversion = pipe.invert(PHOTOS)
    edited = pipe.edit(inversion, output_type="pt").images
    stopped = pipe.generator(inversion.latents, stop_at_features=True)
    for name in COMPONENTS:
        hook = AlignDevicesHook(execution_device="cpu", io_same_device=True)
        add_hook_to_module(getattr(pipe, name), hook)
    assert torch.equal(output(pipe), wanted)
    assert torch.equal(pipe.edit(pipe.invert(PHOTOS), output_type="pt").images, edited)
    again = pipe.generator(inversion.latents, stop_at_features=True)
    assert again.image is None and torch.equal(again.features, stopped.features)


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
