"""`sdic export web` without a browser: what the site holds, what weights cost, and where the runtime comes from."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import shutil
import subprocess
import tarfile
from base64 import b64encode
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from testing.tiny_models import make_deep_pipeline, make_pipeline, make_smallest_pipeline

from sdic_plugin import DirectionEdit, SDICError
from sdic_plugin.benchmarks.static_site import serving_folder
from sdic_plugin.checkpoints.output import WEB, check_output
from sdic_plugin.conversion.export import export_web, small_weights, web, web_runtime
from sdic_plugin.conversion.export import onnx as onnx_export
from sdic_plugin.conversion.export.small_weights import free_picture_size, store_small
from sdic_plugin.conversion.export.web_notices import space_card
from sdic_plugin.conversion.export.web_runtime import RUNTIME_FILES, find_runtime
from sdic_plugin.edits.ganspace import GANSpaceEdit
from sdic_plugin.images.face_detection import BUNDLED

SOURCES = Path(__file__).parents[2] / "web"
EYES = {"left_eye": [0.3, 0.4], "right_eye": [0.7, 0.4]}


@pytest.fixture
def stand_in(monkeypatch):
    """The runtime's files by name, without their contents, which the export only passes on."""
    files = {name: name.encode() * 100 for name in RUNTIME_FILES}
    monkeypatch.setattr(web, "find_runtime", lambda folder: files)
    return files


def unpacked(folder: Path, entry: dict) -> bytes:
    content = (folder / entry["file"]).read_bytes()
    assert len(content) == entry["bytes"]
    return gzip.decompress(content)


# ------------------------------------------------------------------------------------------------ the site


@pytest.mark.slow
def test_the_site_holds_all_that_its_page_asks_for(tmp_path, stand_in):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    pipe = make_deep_pipeline(alignment={"rule": "ffhq"})
    pipe.add_edit(
        DirectionEdit("eye_size", layers=(0, 3), tensors={"direction": torch.randn(16)}, ends=("small", "large"))
    )
    target = {"component": torch.eye(16)[0], "mean": torch.zeros(16), "std": torch.ones(())}
    pipe.add_edit(GANSpaceEdit("target", tensors=target))
    pipe.notice = "# Whose data\n\nPhotos of A.\n"
    made = export_web(pipe, tmp_path / "site", name="tiny")
    folder = tmp_path / "site"
    site = json.loads((folder / "site.json").read_text(encoding="utf-8"))
    assert (site["format"], site["name"], site["image_size"]) == ("sdic-web-1", "tiny", [32, 32])
    assert site["alignment"] == {"rule": "ffhq", "eye_scale": 2.0, "mouth_scale": 1.8, "shift": 0.1}
    assert list(site["graphs"]) == ["encoder", "generator", "dipn", "dicn", "second_look", "second_look_2"]
    assert {step["graph"] for step in site["invert"] + site["render"]} == set(site["graphs"])
    for entry in site["graphs"].values():
        session = onnxruntime.InferenceSession(unpacked(folder, entry))
        assert {each.name: each.shape[1:] for each in session.get_inputs()} == entry["inputs"]
    (edit,) = site["edits"]["list"]
    assert (edit["label"], edit["group"], edit["ends"]) == ("Eye size", "Shape", ["small", "large"])
    directions, _ = onnx_export.latent_directions(pipe)
    assert unpacked(folder, site["edits"]) == directions["eye_size"].numpy().tobytes()
    assert made.left_out == ["target"] and 0 <= made.difference < 1
    assert len(onnxruntime.InferenceSession(unpacked(folder, site["detector"])).get_outputs()) == 12
    for provider in ("wasm", "webgpu"):
        runtime = site["runtime"][provider]
        binary = Path(runtime["binary"]["file"]).name.removesuffix(".gz")
        assert unpacked(folder, runtime["binary"]) == stand_in[binary]
        assert (folder / runtime["module"]).read_bytes() == stand_in[Path(runtime["module"]).name]
    page = {path.name: path.read_bytes() for path in web.PAGE.iterdir()}
    assert {name: (folder / name).read_bytes() for name in page} == page
    notices = (folder / "NOTICES.txt").read_text(encoding="utf-8")
    assert "lower precision.\n\nWhose data\n\nPhotos of A.\n\n---" in notices
    assert "Microsoft" in notices and "YuNet" in notices and "takes pictures of any size" in notices
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    beside = {"README.md", "NOTICES.txt", "runtime/LICENSE.txt"}
    assert made.download + made.webgpu == sum(size for name, size in sizes.items() if name not in beside)
    check_output(folder, overwrite=True, kind=WEB)  # all of it may be replaced by another export


def test_refusals_write_nothing(tmp_path, monkeypatch, stand_in):
    pipe = make_pipeline(alignment=EYES)
    with pytest.raises(SDICError, match="weights is 'int4', but must be one of float32, float16, int8"):
        export_web(pipe, tmp_path / "site", weights="int4")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(SDICError, match="not empty"):
        export_web(pipe, tmp_path / "full")
    with pytest.raises(SDICError, match=r"thesis\.txt, which no"):
        export_web(pipe, tmp_path / "full", overwrite=True)
    monkeypatch.setattr(onnx_export.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SDICError, match=r"sdic-plugin\[onnx\]"):
        export_web(pipe, tmp_path / "site")
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


@pytest.mark.slow
def test_weights_that_show_are_refused(tmp_path, monkeypatch, stand_in):
    pytest.importorskip("onnxscript")
    monkeypatch.setattr(web, "LARGEST_DIFFERENCE", 1e-9)
    monkeypatch.setattr(small_weights, "SMALLEST", 1)
    with pytest.raises(SDICError, match=r"int8 change the pictures by .* nothing was written"):
        export_web(make_smallest_pipeline(), tmp_path / "site", weights="int8")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("rule", ["continuous", "official"])
def test_pictures_of_the_check_are_the_pipelines(rule):
    pipe = make_pipeline(feature_edit=rule)
    pipe.add_edit(DirectionEdit("turn", tensors={"direction": torch.randn(16)}))
    graphs = onnx_export.pipeline_graphs(pipe)
    directions, left_out = onnx_export.latent_directions(pipe)
    description = json.loads(json.dumps(onnx_export.describe(pipe, graphs, directions, left_out)))

    def run(name, inputs):
        results = graphs[name].run({key: torch.from_numpy(inputs[key]) for key in graphs[name].inputs})
        return {key: tensor.numpy() for key, tensor in results.items()}

    unit = np.random.default_rng(0).random((2, 32, 32, 3), dtype=np.float32)
    offsets = [np.float32(0), directions["turn"].numpy()]
    image, official = unit.transpose(0, 3, 1, 2) * 2 - 1, rule == "official"
    found = web.rendered_pictures(description, image, offsets, run, official)
    inversion = pipe.invert(unit)
    for pictures, edits in zip(found, ({}, {"turn": 1.0}), strict=True):
        wanted = pipe.edit(inversion, edits=edits, output_type="pt").images.numpy() * 255
        assert np.abs(pictures - wanted).max() < 0.1


def test_what_the_page_is_told():
    pipe = make_pipeline(alignment=EYES, feature_edit="official")
    graphs = onnx_export.pipeline_graphs(pipe)
    site = web.describe_site(pipe, onnx_export.describe(pipe, graphs, {}, []), "tiny")
    assert (site["alignment"], site["feature_edit"], site["detector"]) == (EYES, "official", None)
    assert site["graphs"]["generator"]["inputs"]["weight"] == [1, 8, 8]
    # Every field that the page's own types name, and no other but the version.
    declared = re.search(r"export interface Site \{(.*?)\n\}", (SOURCES / "src/site.ts").read_text(), re.DOTALL)[1]
    fields = set(re.findall(r"^  (\w+):", declared, re.MULTILINE))
    assert set(site) == (fields - {"runtime"}) | {"sdic_plugin"}


# ------------------------------------------------------------------------------------------------ the page's files


def test_the_page_forbids_itself_other_hosts():
    html = (web.PAGE / "index.html").read_text(encoding="utf-8")
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', html)[1]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'" and rules["connect-src"] == "'self'"
    assert "unsafe-inline" not in policy and "http" not in policy
    for path in web.PAGE.iterdir():
        text = re.sub(r"http://(localhost:8000|www\.w3\.org/2000/svg)", "", path.read_text(encoding="utf-8"))
        assert "http://" not in text and "https://" not in text, path.name


@pytest.mark.skipif(shutil.which("node") is None, reason="Node is not installed")
@pytest.mark.skipif(not (SOURCES / "node_modules/esbuild").is_dir(), reason="run npm ci in web/ first")
def test_the_page_is_what_its_sources_build(tmp_path, monkeypatch):
    monkeypatch.setenv("SDIC_WEB_OUT", str(tmp_path / "built"))
    subprocess.run(["node", "build.mjs"], cwd=SOURCES, check=True)
    built = {path.name: path.read_bytes() for path in (tmp_path / "built").iterdir()}
    assert built == {path.name: path.read_bytes() for path in web.PAGE.iterdir()}


def test_the_card_is_a_static_spaces():
    free = 'Ours: "ask" us\n---'
    for name, license, wanted in (
        ("cats64", "apache-2.0", ("apache-2.0", None)),
        ("a", "MIT", ("mit", None)),
        ('a: "b"\n---', None, (None, None)),
        ("x", free, ("other", free)),
        ("x", "stylegan2-nvidia", ("other", "stylegan2-nvidia")),
    ):
        front = yaml.safe_load(re.split(r"^---$", space_card(name, license), flags=re.MULTILINE)[1])
        assert (front["sdk"], front["app_file"]) == ("static", "index.html")
        assert (front.get("license"), front.get("license_name")) == wanted
        assert len(front["short_description"]) <= 60
        assert front["custom_headers"]["cross-origin-opener-policy"] == "same-origin"


# ------------------------------------------------------------------------------------------------ weights


@pytest.fixture
def convolution(tmp_path) -> Path:
    """A graph of one convolution, with a channel of zeros and one of large numbers."""
    onnx = pytest.importorskip("onnx")
    weight = np.random.default_rng(0).standard_normal((16, 8, 3, 3), dtype=np.float32)
    weight[0], weight[1] = 0, weight[1] * 100
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node("Conv", ["image", "weight"], ["features"], pads=[1, 1, 1, 1])],
        "convolution",
        [helper.make_tensor_value_info("image", kind, [1, 8, 16, 16])],
        [helper.make_tensor_value_info("features", kind, [1, 16, 16, 16])],
        [onnx.numpy_helper.from_array(weight, "weight")],
    )
    opset = helper.make_opsetid("", 18)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=10), tmp_path / "whole.onnx")
    return tmp_path / "whole.onnx"


@pytest.mark.parametrize(
    ("weights", "tolerance", "share"), [("float32", 0, 1), ("float16", 1e-3, 2), ("int8", 0.02, 4)]
)
def test_small_weights_answer_as_whole_ones(convolution, weights, tolerance, share):
    onnxruntime = pytest.importorskip("onnxruntime")
    small = convolution.with_name("small.onnx")
    store_small(convolution, small, weights)
    image = np.random.default_rng(1).standard_normal((1, 8, 16, 16), dtype=np.float32)
    whole, found = (
        onnxruntime.InferenceSession(str(path)).run(None, {"image": image})[0] for path in (convolution, small)
    )
    size = np.abs(whole).max(axis=(0, 2, 3), keepdims=True) + 1e-6
    assert np.abs((found - whole) / size).max() <= tolerance
    assert (tolerance == 0) == bool((found == whole).all())
    assert small.stat().st_size < convolution.stat().st_size / share + 600


def test_the_detector_takes_pictures_of_any_size(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    free_picture_size(BUNDLED, tmp_path / "free.onnx")
    fixed, free = (onnxruntime.InferenceSession(str(path)) for path in (BUNDLED, tmp_path / "free.onnx"))
    picture = np.random.default_rng(0).uniform(0, 255, (1, 3, 640, 640)).astype(np.float32)
    pairs = zip(fixed.run(None, {"input": picture}), free.run(None, {"input": picture}), strict=True)
    assert all(np.allclose(first, second, atol=1e-5) for first, second in pairs)
    assert free.run(["kps_8"], {"input": picture[:, :, :96, :320]})[0].shape == (1, 12 * 40, 10)


# ------------------------------------------------------------------------------------------------ the runtime


@pytest.fixture
def small_package(tmp_path, monkeypatch):
    """A package of small files on a server of this machine, in the place of npm's; yields its folder."""
    content = {name: f"stands for {name}".encode() for name in RUNTIME_FILES}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, data in content.items():
            member = tarfile.TarInfo(f"package/dist/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    package = buffer.getvalue()
    (tmp_path / "npm").mkdir()
    (tmp_path / "npm" / "package.tgz").write_bytes(package)
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in content.items()}
    monkeypatch.setattr(web_runtime, "RUNTIME_FILES", digests)
    monkeypatch.setattr(web_runtime, "PACKAGE_SHA512", b64encode(hashlib.sha512(package).digest()).decode())
    monkeypatch.setenv("SDIC_CACHE", str(tmp_path / "cache"))
    with serving_folder(tmp_path / "npm") as url:
        monkeypatch.setattr(web_runtime, "PACKAGE_URL", f"{url}package.tgz")
        yield content


def test_the_runtime_is_fetched_once(small_package, tmp_path):
    assert find_runtime() == small_package
    (tmp_path / "npm" / "package.tgz").unlink()
    assert find_runtime() == small_package
    damaged = next((tmp_path / "cache").rglob("*.wasm"))
    damaged.write_bytes(b"")
    with pytest.raises(SDICError, match=r"could not be fetched .*--runtime"):  # a damaged cache is not used
        find_runtime()


def test_another_package_is_refused(small_package, tmp_path):
    (tmp_path / "npm" / "package.tgz").write_bytes(b"something else")
    with pytest.raises(SDICError, match="its digest differs"):
        find_runtime()
    assert not (tmp_path / "cache").exists()


def test_the_runtime_of_a_folder(small_package, tmp_path):
    for place in ("itself", "package", "unpacked"):
        folder = tmp_path / place / {"itself": "", "package": "dist", "unpacked": "package/dist"}[place]
        folder.mkdir(parents=True)
        for name, data in small_package.items():
            (folder / name).write_bytes(data)
        assert find_runtime(tmp_path / place) == small_package
    (folder / next(iter(RUNTIME_FILES))).write_bytes(b"another version")
    with pytest.raises(SDICError, match=r"is not that of ONNX Runtime Web 1\.30\.0"):
        find_runtime(tmp_path / "unpacked")
    (tmp_path / "itself" / "ort-wasm-simd-threaded.wasm").unlink()
    with pytest.raises(SDICError, match=r"ort-wasm-simd-threaded\.wasm .* cannot be read"):
        find_runtime(tmp_path / "itself")
    with pytest.raises(SDICError, match="holds no ONNX Runtime Web"):
        find_runtime(tmp_path / "npm")
