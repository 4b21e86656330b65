"""Fixtures that several test files share."""

from __future__ import annotations

import os
import re
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from testing import checkpoints
from testing.hub_server import TOKEN, HubServer
from testing.tiny_models import make_pipeline
from testing.trainer_run import run_and_save
from testing.trainer_runs import KINDS, final, finish, one_thread, start

from sdic_plugin import DirectionEdit, SDICInversion, SDICPipeline


def share_cores() -> None:
    """Give each of several test processes (pytest-xdist) its share of the cores, and what it starts as well."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if workers > 1:
        threads = max(1, (os.cpu_count() or 1) // workers)
        for variable in ("OMP_NUM_THREADS", "OPENCV_FOR_THREADS_NUM"):
            os.environ.setdefault(variable, str(threads))
        torch.set_num_threads(threads)


share_cores()


def pytest_configure(config: pytest.Config) -> None:
    """Give out files in their order, and know the markers of diffusers' testers.

    (test_diffusers_mixins.py runs those where their source is at hand.)
    """
    config.option.loadscopereorder = False  # pytest-xdist's own order goes by the number of tests
    utilities = Path(os.environ.get("DIFFUSERS_SRC", "")) / "tests" / "testing_utils.py"
    if os.environ.get("DIFFUSERS_SRC") and utilities.is_file():
        for name in sorted(set(re.findall(r"pytest\.mark\.(\w+)", utilities.read_text(encoding="utf-8")))):
            config.addinivalue_line("markers", f"{name}: of diffusers")


LONGEST_FIRST = (
    "test_demo_browser.py",
    "test_parity.py",
    "test_demo.py",
    "test_fine_tune.py",
    "test_tools.py",
    "test_quickstart.py",
    "test_results.py",
    "test_demo_trust.py",
    "test_readme.py",
    "test_docs.py",
    "test_face_alignment.py",
    "test_hostile_files.py",
    "test_training.py",
    "test_hub.py",
    "test_trainer_processes.py",
    "test_packing.py",
    "test_conformance.py",
    "test_loading.py",
    "test_packaging.py",
    "test_toy_training.py",
    "test_inference.py",
    "test_training_generator.py",
    "test_subject_check.py",
)
"""Files that take longest: pytest-xdist gives whole files to its processes, which should end at about one time."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files that take longest first."""
    place = {name: index for index, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))


@pytest.fixture(autouse=True, scope="session")
def caches(tmp_path_factory):
    """Keep decoded training images out of the user's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SDIC_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def tiny_pipeline() -> SDICPipeline:
    """A pipeline of tiny networks: 32-pixel photos, a 64-pixel generator with 10 styles of width 16, hook at 8."""
    return make_pipeline()


@pytest.fixture
def photos() -> np.ndarray:
    """Three uint8 photos [3, 32, 32, 3] at the tiny encoder's size."""
    return np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)


@pytest.fixture
def pipe(tiny_pipeline: SDICPipeline) -> SDICPipeline:
    """The tiny pipeline with two edits, "turn" of all styles and "colour" of the last four."""
    rng = torch.Generator().manual_seed(5)
    tiny_pipeline.add_edit(DirectionEdit("turn", tensors={"direction": torch.randn(16, generator=rng)}))
    late = DirectionEdit("colour", layers=(6, 10), tensors={"direction": torch.randn(10, 16, generator=rng)})
    tiny_pipeline.add_edit(late)
    tiny_pipeline.set_progress_bar_config(disable=True)
    return tiny_pipeline


@pytest.fixture
def inversion(pipe: SDICPipeline, photos: np.ndarray) -> SDICInversion:
    """The inversion of the three photos."""
    return pipe.invert(photos)


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of training data outside the clone, named by SDIC_DATA; skips the test without it."""
    folder = Path(os.environ.get("SDIC_DATA", ""))
    if not os.environ.get("SDIC_DATA") or not folder.is_dir():
        pytest.skip("SDIC_DATA does not name a folder")
    return folder


@pytest.fixture
def sdic_state() -> dict[str, torch.Tensor]:
    return checkpoints.sdic_state()


@pytest.fixture
def small_generator() -> dict[str, torch.Tensor]:
    return checkpoints.small_generator()


@pytest.fixture
def small_discriminator() -> dict[str, torch.Tensor]:
    return checkpoints.small_discriminator()


@pytest.fixture(scope="session")
def two_processes(tmp_path_factory) -> Path:
    """Runs of two processes, one per kind."""
    folder = tmp_path_factory.mktemp("two")
    finish(start(2, *({"output": str(folder / kind), "settings": {}, **KINDS[kind]} for kind in KINDS)))
    assert final(folder / "none")["processes"] == 2
    return folder


@pytest.fixture(scope="session")
def one_process(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("one")
    with one_thread():
        for kind in ("none", "frozen", "live", "noise"):
            run_and_save(folder / kind, **{"settings": {}, **KINDS[kind]})
    return folder


@pytest.fixture(scope="module")
def cats64() -> SDICPipeline:
    """The bundled pipeline, each test file's own."""
    pipe = SDICPipeline.from_pretrained("cats64")
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The stand-in for the Hub, which the Hub's client believes to be the Hub; its cache is empty."""
    server = HubServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    # What the client reads from HF_ENDPOINT and its like when it is imported.
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no_token"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield server
    server.shutdown()
    server.server_close()
    thread.join()
