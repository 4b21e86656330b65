"""A static site that inverts and edits photos in the visitor's browser; needs the extra [onnx].

The page's programs come with the package (`web_page/`, built from `web/` of the repository), the graphs are those of
`export_onnx` with weights stored small, and the files of ONNX Runtime Web are put beside them, so that the site asks
nothing of other hosts. `site.json` describes the model to the page.
"""

from __future__ import annotations

import gzip
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from sdic_plugin.checkpoints.output import WEB, check_output
from sdic_plugin.conversion.export.onnx import DESCRIPTION, DIRECTIONS, check_onnx_installed, export_onnx
from sdic_plugin.conversion.export.small_weights import WEIGHT_TYPES, WeightType, free_picture_size, store_small
from sdic_plugin.conversion.export.web_notices import space_card, written_notices
from sdic_plugin.conversion.export.web_runtime import RUNTIME_LICENSE, RUNTIME_VERSION, find_runtime
from sdic_plugin.edits.naming import edit_group, edit_title
from sdic_plugin.errors import SDICError
from sdic_plugin.images.face_alignment import is_of_faces, read_template
from sdic_plugin.images.face_detection import BUNDLED as YUNET
from sdic_plugin.models.sampling import sample
from sdic_plugin.pipeline.sdic import SDICPipeline
from sdic_plugin.utils.files import replacing_folder
from sdic_plugin.version import __version__

FORMAT = "sdic-web-1"
SITE = "site.json"
PAGE = Path(__file__).parent / "web_page"
NOT_IN_PAGE = ("mapping",)
"""Graphs that the page has no use for."""
LARGEST_DIFFERENCE = 1.0
"""Mean difference, in grey levels, that smaller weights may make."""
CHECKED_PICTURES = 4
LARGEST_DOWNLOAD = 40_000_000
"""Bytes that a visitor should have to download at most."""

Run = Callable[[str, dict[str, np.ndarray]], dict[str, np.ndarray]]


@dataclass(frozen=True)
class WebExport:
    """What was written.

    Attributes:
        download: Bytes that a visitor's browser fetches.
        webgpu: Bytes that it fetches on top where it tries WebGPU.
        difference: Largest mean difference, in grey levels of 255, that the stored weights make to the inversion or an
            edit of `CHECKED_PICTURES` random pictures.
        left_out: Edits that the page cannot show, as no direction of latents expresses them.
    """

    download: int
    webgpu: int
    difference: float
    left_out: list[str]


def export_web(
    pipe: SDICPipeline,
    output: str | Path,
    name: str = "model",
    weights: WeightType = "float16",
    runtime: str | Path | None = None,
    overwrite: bool = False,
) -> WebExport:
    """Write the site, whole or not at all.

    Args:
        pipe: Any SDIC pipeline, not fused.
        output: Folder to write.
        name: What the page calls the model.
        weights: How weights are stored: "float16" (half the download), "int8" (a quarter), or "float32".
        runtime: Folder with ONNX Runtime Web; None fetches it, see `find_runtime`.
        overwrite: Replace what an earlier export wrote.

    Raises:
        CheckpointError: If the folder may not be written, or the pipeline cannot be exported.
        SDICError: If ONNX is not installed, ONNX Runtime Web cannot be had, or the weights' rounding shows.
    """
    if weights not in WEIGHT_TYPES:
        raise SDICError(f"weights is {weights!r}, but must be one of {', '.join(WEIGHT_TYPES)}.")
    output = Path(output)
    check_output(output, overwrite, WEB, [] if runtime is None else [runtime])
    check_onnx_installed()
    files = find_runtime(runtime)
    with tempfile.TemporaryDirectory() as temporary, replacing_folder(output) as folder:
        graphs = Path(temporary)
        export_onnx(pipe, graphs / "whole")
        description = json.loads((graphs / "whole" / DESCRIPTION).read_text(encoding="utf-8"))
        (graphs / "small").mkdir()
        for each in description["graphs"].values():
            store_small(graphs / "whole" / each["file"], graphs / "small" / each["file"], weights)
        difference = _picture_difference(pipe, description, graphs)
        if not difference <= LARGEST_DIFFERENCE:
            raise SDICError(
                f"Weights stored as {weights} change the pictures by {difference:.2g} grey levels on average, where "
                f"{LARGEST_DIFFERENCE:g} is allowed: nothing was written; store them larger (weights)."
            )
        return _write_site(pipe, folder, graphs, description, files, name, difference)


def _write_site(
    pipe: SDICPipeline,
    folder: Path,
    graphs: Path,
    description: dict[str, Any],
    runtime: dict[str, bytes],
    name: str,
    difference: float,
) -> WebExport:
    shutil.copytree(PAGE, folder, dirs_exist_ok=True)
    for subfolder in ("model", "runtime"):
        (folder / subfolder).mkdir()
    site = describe_site(pipe, description, name)
    for graph, entry in site["graphs"].items():
        content = (graphs / "small" / description["graphs"][graph]["file"]).read_bytes()
        entry.update(_packed(folder, f"model/{graph}.onnx.gz", content))
    rows = load_file(graphs / "whole" / DIRECTIONS) if site["edits"]["list"] else {}
    content = b"".join(rows[each["name"]].astype("<f4").tobytes() for each in site["edits"]["list"])
    site["edits"].update(_packed(folder, "model/edits.bin.gz", content))
    if is_of_faces(pipe.config.alignment):
        free_picture_size(YUNET, graphs / "yunet.onnx")
        site["detector"] = _packed(folder, "model/yunet.onnx.gz", (graphs / "yunet.onnx").read_bytes())
    site["runtime"] = {"version": RUNTIME_VERSION} | {
        provider: {
            "module": f"runtime/{module}",
            "binary": _packed(folder, f"runtime/{binary}.gz", runtime[binary]),
        }
        for provider, module, binary in (
            ("wasm", "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"),
            ("webgpu", "ort.webgpu.bundle.min.mjs", "ort-wasm-simd-threaded.asyncify.wasm"),
        )
    }
    for provider in ("wasm", "webgpu"):
        module = site["runtime"][provider]["module"]
        (folder / module).write_bytes(runtime[Path(module).name])
    (folder / "runtime" / "LICENSE.txt").write_text(RUNTIME_LICENSE, encoding="utf-8")
    (folder / "NOTICES.txt").write_text(
        written_notices(name, site, is_of_faces(pipe.config.alignment), pipe.notice), encoding="utf-8"
    )
    (folder / "README.md").write_text(space_card(name, site["license"]), encoding="utf-8")
    (folder / SITE).write_text(json.dumps(site, indent=1) + "\n", encoding="utf-8")
    gpu = [site["runtime"]["webgpu"]["binary"]["file"], site["runtime"]["webgpu"]["module"]]
    unsent = {"README.md", "NOTICES.txt", "runtime/LICENSE.txt", *gpu}
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    download = sum(size for path, size in sizes.items() if path not in unsent)
    left_out = sorted(description["directions"]["left_out"])
    return WebExport(download, sum(sizes[path] for path in gpu), difference, left_out)


def feature_rule(pipe: SDICPipeline) -> str:
    """Rule for the features of an edit: that of the pipeline, but "continuous" where its graphs have a transport."""
    return pipe.config.feature_edit if pipe.transport is None else "continuous"


def describe_site(pipe: SDICPipeline, description: dict[str, Any], name: str) -> dict[str, Any]:
    """Content of `site.json` but for its files: what `web/src/site.ts` declares.

    Args:
        pipe: The pipeline.
        description: Its `sdic.json`.
        name: What the page calls it.
    """
    edits, template = pipe.get_list_edits(), pipe.config.alignment
    return {
        "format": FORMAT,
        "sdic_plugin": __version__,
        "name": name,
        "license": description["license"],
        "source": description["source"],
        "image_size": list(pipe.image_size),
        "output_rows": description["output_rows"],
        "feature_edit": feature_rule(pipe),
        "alignment": None if template is None else read_template(template).to_dict(),
        "graphs": {
            graph: {"inputs": {key: shape[1:] for key, shape in values["inputs"].items()}}
            for graph, values in description["graphs"].items()
            if graph not in NOT_IN_PAGE
        },
        "invert": description["invert"],
        "render": description["render"],
        "edits": {
            "list": [
                {
                    "name": each,
                    "label": edit_title(edits[each]),
                    "group": edit_group(edits[each], pipe.generator.num_styles),
                    "description": edits[each].description,
                    "ends": edits[each].ends,
                    "range": list(edits[each].strength_range),
                    "default": edits[each].default_strength,
                }
                for each in description["directions"]["strengths"]
            ]
        },
        "detector": None,
    }


def _packed(folder: Path, name: str, content: bytes) -> dict[str, Any]:
    """Write a file with gzip, the same bytes each time; return its entry in `site.json`."""
    packed = gzip.compress(content, mtime=0)
    (folder / name).write_bytes(packed)
    return {"file": name, "bytes": len(packed)}


# ------------------------------------------------------------------------------------------------ what rounding does


def _picture_difference(pipe: SDICPipeline, description: dict[str, Any], graphs: Path) -> float:
    """Largest mean difference, in grey levels, between the pictures of the graphs in `whole` and in `small`."""
    drawn = sample(pipe.generator, CHECKED_PICTURES).images[:, :, pipe.output_rows].clamp(-1, 1)
    image = pipe.image_processor.preprocess(drawn / 2 + 0.5).numpy()
    directions = load_file(graphs / "whole" / DIRECTIONS) if description["directions"]["strengths"] else {}
    offsets: list[np.ndarray | np.floating] = [np.float32(0)]
    for name, strength in description["directions"]["strengths"].items():
        offsets.append(np.float32(strength["default"]) * directions[name])
    official = feature_rule(pipe) == "official"
    whole, small = (
        rendered_pictures(description, image, offsets, _in_onnx_runtime(graphs / part, description), official)
        for part in ("whole", "small")
    )
    means = [float(np.abs(first - second).mean()) for first, second in zip(whole, small, strict=True)]
    return float(np.max(means))  # NaN if one is


def rendered_pictures(
    description: dict[str, Any],
    image: np.ndarray,
    offsets: Sequence[np.ndarray | np.floating],
    run: Run,
    official: bool = False,
) -> list[np.ndarray]:
    """Invert pictures and render edits with what `sdic.json` says and something that runs its graphs.

    Args:
        description: Content of `sdic.json`.
        image: [B, 3, H, W] in [-1, 1].
        offsets: What each edit adds to the latents.
        run: Runs a graph, by its name, on inputs by theirs.
        official: Follow the rule "official" rather than "continuous".

    Returns:
        For each offset [B, 3, H, W] in [0, 255].
    """
    known = {"image": image}
    _follow(description["invert"], description, known, run)
    shape = description["graphs"]["generator"]["inputs"]["weight"][1:]
    known["weight"] = np.ones((len(image), *shape), dtype=np.float32)
    first, last = description["output_rows"]
    pictures, reference = [], known["reference_features"]
    for offset in offsets:
        # Without an edit there is nothing to follow: both rules are then the inversion.
        known["reference_features"] = known["features"] if official and np.any(offset) else reference
        known["edited_latents"] = known["compensated_latents"] + offset
        _follow(description["render"], description, known, run)
        pictures.append((known["output"][:, :, first:last] / 2 + 0.5).clip(0, 1) * 255)
    return pictures


def _follow(steps: list[dict[str, Any]], description: dict[str, Any], known: dict[str, np.ndarray], run: Run) -> None:
    """Do what steps say, adding their outputs to what is known."""
    batch = len(known["image"])
    for step in steps:
        shapes = description["graphs"][step["graph"]]["inputs"]
        inputs = {
            name: known[value]
            if isinstance(value, str)
            else np.full((batch, *shapes[name][1:]), value, dtype=np.float32)
            for name, value in step["inputs"].items()
        }
        outputs = run(step["graph"], inputs)
        known.update({own: outputs[name] for name, own in step["outputs"].items()})


def _in_onnx_runtime(folder: Path, description: dict[str, Any]) -> Run:
    import onnxruntime

    providers = ["CPUExecutionProvider"]
    sessions = {
        name: onnxruntime.InferenceSession(str(folder / graph["file"]), providers=providers)
        for name, graph in description["graphs"].items()
        if name not in NOT_IN_PAGE
    }

    def run(name: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        names = list(description["graphs"][name]["outputs"])
        return dict(zip(names, sessions[name].run(names, inputs), strict=True))

    return run
