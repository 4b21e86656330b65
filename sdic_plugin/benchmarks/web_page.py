"""The page of `sdic export web` in a real browser: what it downloads, its times, and how far its pictures are off.

Run: python -m sdic_plugin.benchmarks.web_page [--model cats64] [--weights float16 int8] [--isolated] [--webgpu]

Needs Chromium (Debian: apt-get install chromium), `pip install playwright`, the extras [onnx] and [examples]. Times
are those of this machine's browser, without its graphics card; the server is on the same machine.
"""

from __future__ import annotations

import argparse
import base64
import io
import shutil
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from sdic_plugin.benchmarks.demo_screenshot import CHROMIUM_FLAGS
from sdic_plugin.benchmarks.static_site import ISOLATED, serving_folder
from sdic_plugin.checkpoints.folder import DEFAULT_MODEL
from sdic_plugin.conversion.export.small_weights import WEIGHT_TYPES
from sdic_plugin.conversion.export.web import WebExport, export_web
from sdic_plugin.photos.photo import crop_photo, load_example, suitable_example
from sdic_plugin.pipeline.loading import load_pipeline
from sdic_plugin.pipeline.sdic import SDICPipeline

if TYPE_CHECKING:
    from playwright.sync_api import Page

SET_SLIDER = "(input, value) => { input.value = value; input.dispatchEvent(new Event('input')); }"
STEADY = "#compare:not([aria-busy])"
TIMEOUT = 300_000
SOFTWARE_WEBGPU = (
    "--enable-unsafe-webgpu",
    "--use-webgpu-adapter=swiftshader",
    "--enable-features=Vulkan",
    "--use-vulkan=swiftshader",
)
"""For a Chromium without a graphics card: WebGPU as such, slowly."""


@dataclass
class Figures:
    """What was measured.

    Attributes:
        opened: Seconds until the page is ready.
        inverted: Seconds of an inversion with its picture.
        rendered: Seconds of an edit, the median of all edits.
        differences: Mean difference to the pipeline's picture in grey levels, of the inversion and each edit.
    """

    opened: float
    inverted: float
    rendered: float
    differences: dict[str, float]


def pixels(page: Page, name: str) -> np.ndarray:
    """What one of the page's canvases shows, [H, W, 3] in [0, 255]."""
    data = page.evaluate("name => document.getElementById(name).toDataURL('image/png')", name)
    content = base64.b64decode(data.partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"), dtype=np.float64)


def set_slider(page: Page, edit: str, value: float) -> None:
    """Move an edit's slider and wait for the picture."""
    page.locator(f"[data-edit='{edit}']").evaluate(SET_SLIDER, str(value))
    page.wait_for_selector(STEADY)


def measure(page: Page, url: str, pipe: SDICPipeline, backend: str = "wasm") -> Figures:
    """Use the page with the crop of an example photo, and compare it with the pipeline.

    Args:
        page: An empty page of the browser.
        url: Of the site.
        pipe: What the site was made of.
        backend: "wasm" or "webgpu"; of the latter, what the page reports about it is printed.
    """
    example = load_example(suitable_example(pipe))
    crop = crop_photo(pipe, example.source, example.eyes)[0]
    inversion, content = pipe.invert(crop, check_subject=False), io.BytesIO()
    crop.save(content, format="PNG")
    page.set_default_timeout(TIMEOUT)
    start = time.perf_counter()
    page.goto(f"{url}?backend={backend}")
    page.wait_for_selector("body[data-ready]")
    opened = time.perf_counter() - start
    page.set_input_files("#file", {"name": "crop.png", "mimeType": "image/png", "buffer": content.getvalue()})
    page.wait_for_selector("body[data-inversions], #place-buttons:visible")
    done = 0
    if page.locator("#result").is_visible():  # a face was found
        done = 1
        page.click("#move-marks")
    start = time.perf_counter()
    page.click("#use-middle")
    page.wait_for_selector(f"body[data-inversions='{done + 1}']")
    inverted = time.perf_counter() - start
    if backend != "wasm":
        page.wait_for_selector("#report:not(:empty)")
        print(page.inner_text("#report"))
    differences = {"inversion": float(np.abs(pixels(page, "after") - pipe.edit(inversion).images[0]).mean())}
    seconds = []
    for name, edit in pipe.get_list_edits().items():
        if not edit.adds_to_latents:
            continue
        strength = round(edit.default_strength / 0.05) * 0.05
        start = time.perf_counter()
        set_slider(page, name, strength)
        seconds.append(time.perf_counter() - start)
        shown = float(page.locator(f"[data-edit='{name}']").input_value())
        wanted = pipe.edit(inversion, edits={name: shown}).images[0]
        differences[name] = float(np.abs(pixels(page, "after") - wanted).mean())
        set_slider(page, name, 0)
    return Figures(opened, inverted, statistics.median(seconds) if seconds else float("nan"), differences)


def row(weights: str, site: WebExport, figures: Figures) -> str:
    """One row of the table in the guide."""
    largest = max(figures.differences, key=lambda name: figures.differences[name])
    return (
        f"| {weights} | {site.download / 1e6:.1f} MB | {site.difference:.2f} | "
        f"{figures.differences['inversion']:.2f} | {figures.differences[largest]:.2f} ({largest}) | "
        f"{figures.opened:.1f} s | {figures.inverted:.2f} s | {figures.rendered:.2f} s |"
    )


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--weights", nargs="+", default=["float16"], choices=WEIGHT_TYPES)
    parser.add_argument("--runtime", type=Path, help="folder with npm's package onnxruntime-web")
    parser.add_argument("--isolated", action="store_true", help="send the headers that allow several threads")
    parser.add_argument("--webgpu", action="store_true", help="compute with WebGPU, in software")
    parser.add_argument("--browser", default=shutil.which("chromium"), help="Chromium's executable")
    options = parser.parse_args()
    if options.browser is None:
        raise SystemExit("There is no Chromium: apt-get install chromium, or name one with --browser.")
    from playwright.sync_api import sync_playwright

    flags = list(CHROMIUM_FLAGS)
    if options.webgpu:
        flags = [flag for flag in flags if flag != "--disable-gpu"] + list(SOFTWARE_WEBGPU)
    pipe = load_pipeline(options.model)
    print("| weights | download | rounding | inversion differs | worst edit differs | open | inversion | edit |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        for weights in options.weights:
            site = export_web(pipe, Path(folder) / weights, Path(options.model).name, weights, options.runtime)
            browser = playwright.chromium.launch(executable_path=options.browser, args=flags)
            with serving_folder(Path(folder) / weights, ISOLATED if options.isolated else None) as url:
                figures = measure(browser.new_page(), url, pipe, "webgpu" if options.webgpu else "wasm")
            browser.close()
            print(row(weights, site, figures), flush=True)


if __name__ == "__main__":
    main()
