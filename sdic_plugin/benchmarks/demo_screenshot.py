"""The README's picture of the demo: the real page, used in a real browser.

Run: python -m sdic_plugin.benchmarks.demo_screenshot [--model cats64] [--out docs/pages/assets/demo.png]

Needs Chromium (Debian: apt-get install chromium) and `pip install playwright`. The photo is scikit-image's astronaut
(public domain) for a model of people's faces, whose face the page finds; else its "Chelsea" (CC0), whose eyes are
clicked.
"""

from __future__ import annotations

import argparse
import io
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from sdic_plugin.benchmarks.demo_load import serving_process
from sdic_plugin.checkpoints.folder import DEFAULT_MODEL
from sdic_plugin.photos.photo import load_example, suitable_example
from sdic_plugin.pipeline.loading import load_pipeline
from sdic_plugin.utils.files import replacing_file

if TYPE_CHECKING:
    from playwright.sync_api import Page, ViewportSize

CHROMIUM_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
"""For a machine without a screen and, perhaps, without a network."""

PHOTO_LOADED = "[...document.querySelectorAll('#photo-view img')].some(each => each.complete && each.naturalWidth)"

NOTHING_PENDING = "!document.querySelector('#status .busy')"

VIEWPORT: ViewportSize = {"width": 1280, "height": 1000}
EDITS = {
    "chelsea": {"warmth": 1.6, "eye_size": 1.8, "face_width": 0.8},
    "astronaut": {"smile": -2.0, "turn": 2.0, "warmth": 1.0},
}
"""What the page shows of each photo; edits that a model lacks are left out."""


def choose_eyes(page: Page, eyes: Sequence[float], photo_size: tuple[int, int]) -> None:
    """Click both eyes (x1, y1, x2, y2 in pixels of the photo) in the page's photo, which is shown whole."""
    for point, words in ((eyes[:2], "Now click the other eye"), (eyes[2:], "Press “Start editing”")):
        page.wait_for_function(PHOTO_LOADED)
        page.locator("#photo-view img").scroll_into_view_if_needed()
        page.wait_for_timeout(300)  # until nothing moves any more
        box = page.locator("#photo-view img").bounding_box()
        assert box is not None  # it is in sight
        scale = min(box["width"] / photo_size[0], box["height"] / photo_size[1])
        left = box["x"] + (box["width"] - scale * photo_size[0]) / 2
        top = box["y"] + (box["height"] - scale * photo_size[1]) / 2
        page.mouse.click(left + scale * point[0], top + scale * point[1])
        page.locator("#status", has_text=words).wait_for()


def take_screenshot(url: str, photo: str, edits: Mapping[str, float], browser_path: str) -> Image.Image:
    """Give the page a photo of scikit-image's, invert and edit it, and picture the page."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        browser = playwright.chromium.launch(executable_path=browser_path, args=list(CHROMIUM_FLAGS))
        page = browser.new_page(viewport=VIEWPORT)
        page.set_default_timeout(120_000)
        page.goto(url)
        page.wait_for_selector("#example")
        give_photo(page, photo, Path(folder))
        page.click("#invert")
        page.wait_for_selector("#result img")
        if photo == "chelsea":  # a person's face is a small part of a photo
            page.click("#view >> text=Whole photo")
        for name, strength in edits.items():
            field = page.locator(f"#edit-{name} input[type=number]")
            field.fill(str(strength))
            field.press("Enter")
            page.wait_for_timeout(500)
            page.wait_for_function(NOTHING_PENDING)
        page.mouse.move(5, 5)
        page.evaluate("document.activeElement.blur(); window.scrollTo(0, 0)")
        page.wait_for_timeout(1000)
        picture = Image.open(io.BytesIO(page.screenshot()))
        browser.close()
    return picture.convert("RGB")


def give_photo(page: Page, photo: str, folder: Path) -> None:
    """Upload a photo, and click its eyes where the page does not find the face."""
    example = load_example(photo)
    example.source.save(folder / "photo.png")
    page.set_input_files("#drop input[type=file]", str(folder / "photo.png"))
    page.wait_for_selector("#photo-view img")
    if photo == "astronaut":
        page.locator("#status", has_text="The face was found").wait_for()
    else:
        page.wait_for_timeout(1000)
        choose_eyes(page, example.eyes, example.source.size)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEFAULT_MODEL, help="folder, bundled name or Hub id")
    parser.add_argument("--out", type=Path, default=Path("docs/pages/assets/demo.png"))
    parser.add_argument("--browser", default=shutil.which("chromium"), help="Chromium's executable")
    options = parser.parse_args()
    if options.browser is None:
        raise SystemExit("There is no Chromium: apt-get install chromium, or name one with --browser.")
    pipe = load_pipeline(options.model)
    photo = suitable_example(pipe)
    edits = {name: strength for name, strength in EDITS[photo].items() if name in pipe.get_list_edits()}
    with serving_process(options.model) as (url, _):
        picture = take_screenshot(url, photo, edits, options.browser)
    # A palette keeps the file small; the eye does not see it.
    small = picture.quantize(256, kmeans=8, dither=Image.Dither.FLOYDSTEINBERG)
    with replacing_file(options.out) as temporary:
        small.save(temporary, format="PNG", optimize=True)
    print(f"{options.out}: {options.out.stat().st_size // 1024} KB")


if __name__ == "__main__":
    main()
