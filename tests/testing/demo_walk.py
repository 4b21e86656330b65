"""Pictures of every state of the demo page, at desk and phone width, for people to look at.

Run: PYTHONPATH=tests python -m testing.demo_walk --out DIR [--only phone] [--dark]
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import threading
from pathlib import Path

import gradio_client
from playwright.sync_api import Browser, Page, sync_playwright
from testing.demo_server import Server, bad_photos, serving

from sdic_plugin import SDICPipeline
from sdic_plugin.benchmarks.demo_client import connect
from sdic_plugin.benchmarks.demo_screenshot import CHROMIUM_FLAGS, choose_eyes
from sdic_plugin.demo import Limits
from sdic_plugin.photos.photo import load_example

EXAMPLE = load_example("chelsea")
WIDTHS = {
    "desk": {"viewport": {"width": 1280, "height": 900}},
    "phone": {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True},
}


class Walk:
    """One visit; `shoot` numbers the pictures."""

    def __init__(self, browser: Browser, server: Server, out: Path, name: str, dark: bool = False) -> None:
        self.page: Page = browser.new_context(**WIDTHS[name]).new_page()
        self.page.set_default_timeout(60_000)
        self.server, self.out, self.name, self.count = server, out, name, 0
        self.page.goto(server.url + ("?__theme=dark" if dark else ""))
        self.page.wait_for_selector("#example")

    def shoot(self, what: str, whole: bool = True) -> None:
        self.page.wait_for_timeout(800)
        self.count += 1
        path = self.out / f"{self.name}_{self.count:02}_{what}.png"
        self.page.screenshot(path=path, full_page=whole)
        overflow = self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        print(path.name, f"overflow {overflow}" if overflow else "", flush=True)

    def wait(self, words: str) -> None:
        self.page.locator("#status", has_text=words).wait_for()

    def slide(self, name: str, value: float) -> None:
        field = self.page.locator(f"#{name} input[type=number]")
        field.fill(str(value))
        field.press("Enter")
        self.page.wait_for_timeout(2500)

    def tab(self, name: str) -> None:
        self.page.get_by_role("tab", name=name, exact=True).click()

    def photo(self, folder: Path) -> None:
        page = self.page
        self.shoot("empty")
        EXAMPLE.source.save(folder / "cat.png")
        page.set_input_files("#drop input[type=file]", str(folder / "cat.png"))
        self.wait("one eye")
        self.shoot("photo_chosen")
        choose_eyes(page, EXAMPLE.eyes, EXAMPLE.source.size)
        self.shoot("eyes_clicked")
        page.click("#invert")
        page.wait_for_selector("#result img")
        self.wait("Done")
        self.shoot("inverted")
        self.shoot("inverted_view", whole=False)

    def edits(self, folder: Path) -> None:
        page = self.page
        self.slide("edit-warmth", 1.6)
        self.slide("edit-face_width", 1)
        self.shoot("edited_view", whole=False)
        page.click("#view >> text=Whole photo")
        page.wait_for_timeout(2000)
        self.shoot("whole_photo")
        page.click("#view >> text=Close-up")
        page.click("text=Fine control")
        page.wait_for_timeout(1500)
        canvas = page.locator("#mask canvas").first
        canvas.evaluate("element => element.scrollIntoView({block: 'end'})")  # on a phone, the result covers the top
        page.wait_for_timeout(1000)
        box = canvas.bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x + 50, y + 30, steps=6)
        page.mouse.up()
        page.wait_for_timeout(2000)
        self.shoot("mask")
        self.shoot("mask_view", whole=False)
        page.locator("#auto-mask input").check()
        page.wait_for_timeout(2000)
        self.shoot("auto_mask_view", whole=False)
        page.click("text=Fine control")

    def tabs(self, folder: Path) -> None:
        page = self.page
        self.tab("Strip")
        page.click("#strip-run")
        page.wait_for_selector("#strip img")
        self.shoot("strip")
        self.tab("Detail")
        self.shoot("detail")
        self.tab("More edits")
        self.shoot("more_edits")
        (folder / "junk.safetensors").write_bytes(b"junk")
        page.set_input_files("#edit-file input[type=file]", str(folder / "junk.safetensors"))
        page.wait_for_timeout(1500)
        page.click("#add-edits")
        self.wait("cannot be read")
        self.shoot("wrong_edits")
        self.shoot("wrong_edits_view", whole=False)
        self.tab("Save")
        page.click("#make-files")
        page.wait_for_selector("#files a[download='edited.png']")
        self.shoot("save")

    def errors(self, folder: Path) -> None:
        page = self.page
        for key in list(self.server.sessions._kept):
            self.server.sessions.drop(key)
        self.tab("Edit")
        self.slide("edit-blaze", 1)
        self.shoot("expired_view", whole=False)
        page.click("#another")
        page.wait_for_selector("#example")
        for name in ("junk.jpg", "bomb.png"):
            (folder / name).write_bytes(bad_photos(EXAMPLE.source)[name][0])
            page.set_input_files("#drop input[type=file]", str(folder / name))
            page.locator("#status [role=alert]").wait_for()
            self.shoot(f"wrong_{name.split('.')[0]}", whole=False)
        (folder / "heavy.png").write_bytes(b"x" * (21 << 20))
        page.set_input_files("#drop input[type=file]", str(folder / "heavy.png"))
        page.wait_for_timeout(4000)
        self.shoot("too_heavy", whole=False)


def full_queue(browser: Browser, pipe: SDICPipeline, out: Path, name: str, folder: Path) -> None:
    with serving(pipe, limits=Limits(queue_size=1)) as small:
        EXAMPLE.source.save(folder / "cat.png")
        photo = gradio_client.handle_file(str(folder / "cat.png"))
        walk = Walk(browser, small, out, name)
        walk.count = 40
        clients = [connect(small.url) for _ in range(4)]
        stop = threading.Event()

        def hammer(client: gradio_client.Client) -> None:
            while not stop.is_set():
                try:
                    client.predict(photo, "172,113,316,134", api_name="/invert")
                except Exception:
                    pass

        threads = [threading.Thread(target=hammer, args=(each,)) for each in clients]
        for thread in threads:
            thread.start()
        walk.page.wait_for_timeout(2000)
        walk.page.click("#example")
        walk.shoot("queue_full", whole=False)
        stop.set()
        for thread in threads:
            thread.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", choices=list(WIDTHS))
    parser.add_argument("--dark", action="store_true", help="the page's dark colours")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    pipe = SDICPipeline.from_pretrained("cats64")
    with sync_playwright() as playwright, serving(pipe) as server:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=list(CHROMIUM_FLAGS))
        for name in [options.only] if options.only else WIDTHS:
            with tempfile.TemporaryDirectory() as folder:
                walk = Walk(browser, server, options.out, name, options.dark)
                for part in (walk.photo, walk.edits, walk.tabs, walk.errors):
                    part(Path(folder))
                full_queue(browser, pipe, options.out, name, Path(folder))
        browser.close()


if __name__ == "__main__":
    main()
