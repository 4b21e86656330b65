"""diffusers' own testers, run on the pipeline and its four networks.

They are not installed with diffusers: DIFFUSERS_SRC names a source tree (0.42 or later, with `testing_utils` in
tests/models and tests/pipelines). Without one everything here is skipped; test_conformance.py then tests the same
properties. What is overridden with a skip does not apply, for the reason given.
"""

from __future__ import annotations

import copy
import importlib
import os
import sys
from pathlib import Path

import pytest
import torch
from testing.tiny_models import CLASSES, CONFIGS, example_inputs, make_pipeline

from sdic_plugin import SDICPipeline

SOURCE = Path(os.environ.get("DIFFUSERS_SRC") or "unset")
if not all((SOURCE / "tests" / kind / "testing_utils").is_dir() for kind in ("models", "pipelines")):
    pytest.skip(
        "DIFFUSERS_SRC does not name a diffusers source tree with tests/{models,pipelines}/testing_utils",
        allow_module_level=True,
    )
sys.path.insert(0, str(SOURCE))
try:
    models = importlib.import_module("tests.models.testing_utils")
    pipelines = importlib.import_module("tests.pipelines.testing_utils")
finally:
    sys.path.remove(str(SOURCE))


class Network(models.BaseModelTesterConfig):
    """What the testers need to know; `name` is a key of tiny_models."""

    name: str
    main_input_name: str
    input_names: tuple[str, ...]

    @property
    def model_class(self) -> type:
        return CLASSES[self.name]

    def get_init_dict(self) -> dict:
        return copy.deepcopy(CONFIGS[self.name])

    def get_dummy_inputs(self) -> dict:
        return dict(zip(self.input_names, example_inputs(self.name), strict=True))


class Encoder(Network):
    name, main_input_name, input_names, output_shape = "encoder", "image", ("image",), (10, 16)


class DIPN(Network):
    name, main_input_name, input_names, output_shape = "dipn", "image", ("image", "initial"), (3, 32, 32)


class DICN(Network):
    name, main_input_name, output_shape = "dicn", "discrepancy", (10, 8, 8)
    input_names = ("discrepancy", "features", "latents")


class Generator(Network):
    name, main_input_name, input_names, output_shape = "generator", "latents", ("latents",), (3, 64, 64)


class OneResult:
    def test_outputs_equivalence(self):
        """The encoder and DIPN return their one tensor itself, so there is no dict to compare a tuple with."""
        model = self.model_class(**self.get_init_dict()).eval()
        with torch.no_grad():
            found, (wanted,) = model(**self.get_dummy_inputs()), model(**self.get_dummy_inputs(), return_dict=False)
        assert torch.equal(found, wanted)


class TestEncoder(Encoder, OneResult, models.ModelTesterMixin):
    pass


class TestDIPN(DIPN, OneResult, models.ModelTesterMixin):
    pass


class TestDICN(DICN, models.ModelTesterMixin):
    pass


class TestGenerator(Generator, models.ModelTesterMixin):
    pass


# One class each, as a tester's marker (its need of an accelerator) would hold for all tests of a class.
for network in (Encoder, DIPN, DICN, Generator):
    for tester in (models.TrainingTesterMixin, models.MemoryTesterMixin, models.TorchCompileTesterMixin):
        test_name = f"Test{network.__name__}{tester.__name__.removesuffix('TesterMixin')}"
        globals()[test_name] = type(test_name, (network, tester), {})


class Pipeline(pipelines.BasePipelineTesterConfig):
    pipeline_class = SDICPipeline
    output_shape = (3, 64, 64)
    required_input_params_in_call_signature = frozenset({"image", "edits", "latents"})
    batch_input_params = frozenset({"image"})
    optional_input_params = frozenset({"generator", "latents", "output_type", "return_dict"})

    def get_dummy_components(self) -> dict:
        return copy.deepcopy(make_pipeline().components)

    def get_dummy_inputs(self) -> dict:
        image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        return {"image": image, "generator": self.get_generator(0), "output_type": "pt"}


class TestPipeline(Pipeline, pipelines.PipelineTesterMixin):
    def test_inference_batch_single_identical(self):
        """There are no steps whose number would have to be copied."""
        super().test_inference_batch_single_identical(additional_params_copy_to_batched_inputs=[])


class TestPipelineMemory(Pipeline, pipelines.MemoryTesterMixin):
    def test_sequential_cpu_offload_forward_pass(self):
        pytest.skip("Sequential offload is refused with a sentence; see test_conformance.py.")

    test_sequential_offload_forward_pass_twice = test_sequential_cpu_offload_forward_pass
