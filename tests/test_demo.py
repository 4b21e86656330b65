"""The demo page, served for real and called through gradio's client."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

gradio_client = pytest.importorskip("gradio_client")


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    from sdic_plugin import SDICPipeline
    from sdic_plugin.demo import build_demo

    pipe = SDICPipeline.from_pretrained("cats64")
    pipe.set_progress_bar_config(disable=True)
    page = build_demo(pipe, "cats64")
    _, url, _ = page.queue().launch(prevent_thread_lock=True, quiet=True, share=False)
    yield gradio_client.Client(url, verbose=False, download_files=str(tmp_path_factory.mktemp("downloads")))
    page.close()


def test_inverts_a_photo(client, tmp_path):
    from sdic_plugin import SDICPipeline
    from sdic_plugin.photos import crop_photo, load_example

    photo = load_example("chelsea")
    path = tmp_path / "cat.png"
    photo.source.save(path)
    *pictures, text, edited = client.predict(
        gradio_client.handle_file(str(path)), ",".join(map(str, photo.eyes)), api_name="/invert"
    )
    assert "PSNR" in text and len(pictures) == 4
    pipe = SDICPipeline.from_pretrained("cats64")
    expected = pipe(crop_photo(pipe, photo.source, photo.eyes)[0]).images[0]
    expected = expected.resize((256, 256), Image.Resampling.BICUBIC)
    assert np.array_equal(np.asarray(Image.open(edited).convert("RGB")), np.asarray(expected))


def test_errors_reach_the_visitor_as_a_sentence(client, tmp_path):
    path = tmp_path / "cat.png"
    Image.new("RGB", (80, 80)).save(path)
    with pytest.raises(Exception, match="outside the photo"):
        client.predict(gradio_client.handle_file(str(path)), "1,2,300,4", api_name="/invert")
    with pytest.raises(Exception, match="Give a photo first"):
        client.predict(None, "", api_name="/invert")
