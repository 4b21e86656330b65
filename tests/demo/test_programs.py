"""What docs/pages/guides/programs.md shows, run as it stands there against a page that is served for real."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import anyio
import numpy as np
import pytest
from PIL import Image
from testing import pages
from testing.demo_server import Server, serving

pytest.importorskip("gradio_client")

from sdic_plugin.photos.photo import crop_photo, load_example

PAGE = pages.DOCS / "guides" / "programs.md"
ADDRESS = "http://127.0.0.1:7860"
EXAMPLE = load_example("chelsea")


@pytest.fixture(scope="module")
def server(cats64) -> Server:
    pytest.importorskip("mcp", reason='the tools need the extra: pip install "sdic-plugin[mcp]"')
    with serving(cats64, mcp=True) as running:
        yield running


@pytest.fixture
def place(tmp_path) -> Path:
    EXAMPLE.source.save(tmp_path / "cat.jpg", quality=95)
    return tmp_path


def block(language: str, words: str, server: Server) -> str:
    """The block of this language that holds these words, for the server's own address."""
    (found,) = (code for code in pages.blocks(PAGE, language) if words in code)
    assert ADDRESS in found
    return found.replace(ADDRESS, server.url.rstrip("/"))


def run(*command: object, cwd: Path, **changes: str) -> str:
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env={**os.environ, **changes},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def expected(server: Server, place: Path, **edits: float) -> np.ndarray:
    crop, _ = crop_photo(server.pipe, Image.open(place / "cat.jpg"), EXAMPLE.eyes)
    return np.asarray(server.pipe.edit(server.pipe.invert(crop), edits=edits).images[0])


def test_python(server, place):
    out = run(sys.executable, "-c", block("py", "handle_file", server), cwd=place).splitlines()[-1].split()
    assert 20 < float(out[0]) < 60 and out[-5:] == ["['-2',", "'-1',", "'0',", "'1',", "'2']"]
    assert Image.open(out[1]).size == EXAMPLE.source.size  # pasted back


def test_curl(server, place):
    if shutil.which("curl") is None or shutil.which("bash") is None:
        pytest.skip("curl is not installed")
    out = run("bash", "-euc", block("sh", "curl", server), cwd=place)
    assert "event: complete" in out
    assert np.array_equal(np.asarray(Image.open(place / "edited.png")), expected(server, place, warmth=1.5))


def test_a_client_of_ones_own(server, place):
    out = run(sys.executable, "-c", block("py", "ClientSession", server), cwd=place)
    assert json.loads(out)["edits"] == {"warmth": 1.5}
    assert np.array_equal(np.asarray(Image.open(place / "edited.png")), expected(server, place, warmth=1.5))


def test_the_address_for_clients(server):
    from mcp import ClientSession
    from mcp.client.sse import sse_client
    from mcp.client.streamable_http import streamable_http_client

    (entry,) = json.loads(block("json", '"type"', server))["mcpServers"].values()
    (older,) = (word for word in pages.prose(PAGE).replace("`", " ").split() if word.endswith("/mcp/sse"))

    async def names(connect: object) -> list[str]:
        async with connect as streams, ClientSession(streams[0], streams[1]) as session:
            await session.initialize()
            return [tool.name for tool in (await session.list_tools()).tools]

    wanted = ["list_edits", "edit_photo", "sample"]
    assert entry["type"] == "http" and anyio.run(names, streamable_http_client(entry["url"])) == wanted
    assert anyio.run(names, sse_client(older.replace(ADDRESS, server.url.rstrip("/")))) == wanted
    text = pages.prose(PAGE)
    assert all(f"| `{name}` |" in text for name in wanted)


def test_the_uploader(server, place):
    """Gradio's own, as the page tells to start it, in this environment instead of uvx's; its answer is taken."""
    from mcp import ClientSession, StdioServerParameters
    from mcp.client.stdio import stdio_client
    from mcp.client.streamable_http import streamable_http_client

    (entry,) = json.loads(block("json", "upload-mcp", server))["mcpServers"].values()
    assert entry["args"][:3] == ["--from", "gradio[mcp]", "gradio"]
    program = "import sys; from gradio.cli.commands.upload_mcp import main; main(*sys.argv[1:])"
    start = StdioServerParameters(command=sys.executable, args=["-c", program, entry["args"][-2], str(place)])

    async def work() -> object:
        async with stdio_client(start) as streams, ClientSession(*streams) as session:
            await session.initialize()
            sent = await session.call_tool("upload_file_to_gradio", {"file": str(place / "cat.jpg")})
        address = f"{server.url}gradio_api/mcp/"
        async with streamable_http_client(address) as streams, ClientSession(*streams[:2]) as session:
            await session.initialize()
            arguments = {"photo": sent.content[0].text, "eyes": list(EXAMPLE.eyes), "edits": {"turn": 1}}
            return await session.call_tool("edit_photo", arguments)

    answer = anyio.run(work)
    assert not answer.isError, answer.content
    picture = Image.open(io.BytesIO(base64.b64decode(answer.content[1].data)))
    assert np.array_equal(np.asarray(picture), expected(server, place, turn=1.0))


@pytest.mark.slow
def test_javascript(server, place):
    """With Node and npm, which fetches Gradio's client."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("Node and npm are not installed")
    install = ["npm", "install", "--no-audit", "--no-fund", "--silent", "@gradio/client"]
    fetched = subprocess.run(install, cwd=place, capture_output=True, text=True, check=False, timeout=300)
    if fetched.returncode != 0:
        pytest.skip(f"npm cannot fetch Gradio's client: {fetched.stderr.strip()[-200:]}")
    (place / "edit.mjs").write_text(block("js", "Client.connect", server), encoding="utf-8")
    run("node", "edit.mjs", cwd=place)
    assert Image.open(place / "edited.png").size == EXAMPLE.source.size
