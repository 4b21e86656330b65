"""The page's tools, called by a real client of the Model Context Protocol over HTTP; and what they refuse."""

from __future__ import annotations

import base64
import io
import json
import random
import subprocess
import sys
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio
import httpx
import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio")
pytest.importorskip("mcp", reason='the tools need the extra: pip install "sdic-plugin[mcp]"')

from mcp import ClientSession
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client
from mcp.types import CallToolResult, ImageContent, TextContent
from testing.demo_server import Server, bad_photos, declared_png, encoded, serving
from testing.hostile_files import mutate
from testing.hostile_requests import VALUES, Watcher

from sdic_plugin.benchmarks.demo_client import PageClient
from sdic_plugin.demo import Limits, texts
from sdic_plugin.demo.engine import Engine
from sdic_plugin.demo.layout import slider_range
from sdic_plugin.demo.tools import Tools
from sdic_plugin.photos.photo import crop_photo, load_example

EXAMPLE = load_example("chelsea")
EYES = list(EXAMPLE.eyes)
PHOTO = base64.b64encode(encoded(EXAMPLE.source, "PNG")).decode()
SMALL = base64.b64encode(encoded(EXAMPLE.source.resize((64, 64)), "PNG")).decode()
API = "/gradio_api/mcp/"
SECOND_ADDRESS = "127.0.0.2"


@pytest.fixture(scope="module")
def server(cats64) -> Server:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_MCP_SERVER", "True")  # Gradio's own tools stay out even so
        with serving(cats64, mcp=True, limits=Limits(upload_rate=(1e12, 1), page_rate=(1e9, 1))) as running:
            yield running


def streamable(url: str) -> Any:
    return streamable_http_client(url + API.rstrip("/") + "/")


def with_session(url: str, work: Callable[[ClientSession], Awaitable[Any]], transport: str = "http") -> Any:
    """What `work` returns, given a client's session."""

    async def run() -> Any:
        connect = streamable(url.rstrip("/")) if transport == "http" else sse_client(f"{url.rstrip('/')}{API}sse")
        async with connect as streams, ClientSession(streams[0], streams[1]) as session:
            await session.initialize()
            return await work(session)

    return anyio.run(run)


def call(server: Server, name: str, transport: str = "http", **arguments: Any) -> CallToolResult:
    return with_session(server.url, lambda session: session.call_tool(name, arguments), transport)


def facts_of(answer: CallToolResult) -> dict[str, Any]:
    assert not answer.isError, answer.content
    text = answer.content[0]
    assert isinstance(text, TextContent) and json.loads(text.text) == answer.structuredContent
    return answer.structuredContent


def picture_of(answer: CallToolResult) -> Image.Image:
    image = answer.content[1]
    assert isinstance(image, ImageContent) and len(answer.content) == 2
    picture = Image.open(io.BytesIO(base64.b64decode(image.data)))
    assert image.mimeType == f"image/{picture.format.lower()}"
    return picture


def expected(server: Server, edits: dict[str, float], compensation: float = 1.0) -> Image.Image:
    crop, _ = crop_photo(server.pipe, EXAMPLE.source, EXAMPLE.eyes)
    return server.pipe.edit(server.pipe.invert(crop), edits=edits, compensation=compensation).images[0]


def same(first: Image.Image, second: Image.Image) -> bool:
    return np.array_equal(np.asarray(first.convert("RGB")), np.asarray(second.convert("RGB")))


# What a client sees.


@pytest.mark.parametrize("transport", ["http", "sse"])
def test_there_are_three_tools_with_bounded_arguments(server, transport):
    listed = with_session(server.url, lambda session: session.list_tools(), transport).tools
    assert [tool.name for tool in listed] == ["list_edits", "edit_photo", "sample"]
    schemas = {tool.name: tool.inputSchema for tool in listed}
    assert all(schema["additionalProperties"] is False for schema in schemas.values())
    assert all(30 < len(tool.description) < 600 and tool.annotations.readOnlyHint for tool in listed)
    for schema in schemas.values():
        assert all(len(each["description"]) > 15 for each in schema["properties"].values())
    strengths = schemas["edit_photo"]["properties"]["edits"]
    assert strengths["additionalProperties"] is False
    wanted = {name: slider_range(edit) for name, edit in server.pipe.get_list_edits().items()}
    assert {name: (each["minimum"], each["maximum"]) for name, each in strengths["properties"].items()} == wanted
    assert schemas["sample"]["properties"]["seed"]["minimum"] == 0
    assert schemas["edit_photo"]["required"] == ["photo"]


def test_the_page_describes_them_too(server):
    """What "Use via API" and the Hub read without the protocol."""
    described = httpx.get(f"{server.url}gradio_api/mcp/schema").json()
    assert [each["name"] for each in described] == ["list_edits", "edit_photo", "sample"]
    assert httpx.get(f"{server.url}config").json()["mcp_server"] is True
    page = httpx.get(f"{server.url}gradio_api/mcp/", headers={"accept": "text/html"})
    assert page.status_code == 200 and "MCP" in page.text


@pytest.mark.parametrize("transport", ["http", "sse"])
def test_a_photo_is_edited_as_the_pipeline_does(server, transport):
    edits = {"warmth": 1.5, "eye_size": -1.0}
    answer = call(server, "edit_photo", transport, photo=PHOTO, eyes=EYES, edits=edits, compensation=0.7)
    assert same(picture_of(answer), expected(server, edits, 0.7))
    facts = facts_of(answer)
    assert facts["edits"] == edits and facts["size"] == [64, 64] and facts["eyes"] == EYES
    assert facts["psnr_db"]["inversion"] > facts["psnr_db"]["initial"] > 10


def test_the_example_and_made_up_pictures_need_no_file(server):
    assert same(picture_of(call(server, "edit_photo", photo="example")), expected(server, {}))
    drawn = call(server, "sample", seed=7)
    assert facts_of(drawn) == {"seed": 7, "size": [64, 64], "photo": "sample:7"}
    assert same(picture_of(drawn), picture_of(call(server, "sample", seed=7.0)))
    assert not same(picture_of(drawn), picture_of(call(server, "sample", seed=8)))
    inversion = server.pipe.invert(picture_of(drawn).convert("RGB"))
    edited = call(server, "edit_photo", photo="sample:7", edits={"warmth": 2})
    assert same(picture_of(edited), server.pipe.edit(inversion, edits={"warmth": 2}).images[0])


def test_the_whole_photo_comes_at_screen_size(server):
    large = EXAMPLE.source.resize((1804, 1200))
    eyes = [each * 4 for each in EYES]
    photo = base64.b64encode(encoded(large, "JPEG")).decode()
    answer = call(server, "edit_photo", photo=f"data:image/jpeg;base64,{photo}", eyes=eyes, whole_photo=True)
    picture = picture_of(answer)
    assert picture.format == "JPEG" and picture.size == (1280, round(1280 * 1200 / 1804))
    shrunk = np.asarray(large.resize(picture.size), dtype=float)
    assert np.abs(np.asarray(picture, dtype=float) - shrunk).mean() < 4


def test_edits_are_listed_with_their_ends(server):
    facts = facts_of(call(server, "list_edits"))
    assert (facts["model"], facts["size"]) == ("cats64", [64, 64])
    assert [each["name"] for each in facts["edits"]] == list(server.pipe.get_list_edits())
    warmth = next(each for each in facts["edits"] if each["name"] == "warmth")
    assert warmth["minimum"] < 0 < warmth["typical"] <= warmth["maximum"] and warmth["positive"]


@pytest.mark.parametrize("prefix", ["", "http://127.0.0.1:7860", "https://somebody.example"])
def test_a_file_that_was_sent_may_be_named(server, prefix):
    """As `gradio upload-mcp` returns it to a language model: the address of the file."""
    path = PageClient(server.url, None).upload(encoded(EXAMPLE.source, "PNG"))["path"]
    answer = call(server, "edit_photo", photo=f"{prefix}/gradio_api/file={path}", eyes=EYES)
    assert same(picture_of(answer), expected(server, {}))


def test_files_of_others_and_of_the_host_are_not_read(server):
    other = PageClient(server.url, None, address=SECOND_ADDRESS).upload(encoded(EXAMPLE.source, "PNG"))["path"]
    browser = PageClient(server.url, "browser_1", browser=True).upload(encoded(EXAMPLE.source, "PNG"))["path"]
    for path in (other, browser, "/etc/passwd", f"{Path(other).parent}/../../etc/passwd"):
        answer = call(server, "edit_photo", photo=f"/gradio_api/file={path}")
        assert answer.isError and answer.content[0].text == texts.NOT_SENT, path


def test_nothing_is_kept(server):
    root = server.page.sdic_files.root
    before = sorted(root.rglob("*")), len(server.sessions)
    call(server, "edit_photo", photo=PHOTO, eyes=EYES, whole_photo=True)
    call(server, "sample", seed=1)
    assert (sorted(root.rglob("*")), len(server.sessions)) == before


# What is refused.

REFUSED = [
    ("nothing", {}, "call one of list_edits, edit_photo, sample"),
    ("invert", {}, "call one of"),
    ("x" * 5000, {}, "call one of"),
    ("list_edits", {"a": 1}, "has no argument 'a'"),
    ("sample", {}, "needs the argument seed"),
    ("sample", {"seed": -1}, "whole number from 0"),
    ("sample", {"seed": 2**31}, "whole number from 0"),
    ("sample", {"seed": 1.5}, "whole number from 0"),
    ("sample", {"seed": True}, "whole number from 0"),
    ("sample", {"seed": "1"}, "whole number from 0"),
    ("sample", {"seed": 10**60}, "whole number from 0"),
    ("edit_photo", {}, "needs the argument photo"),
    ("edit_photo", {"photo": None}, "needs the argument photo"),
    ("edit_photo", {"photo": 5}, "give base64 of a picture file"),
    ("edit_photo", {"photo": ""}, "give base64 of a picture file"),
    ("edit_photo", {"photo": "/etc/passwd"}, "no picture format|is no base64"),
    ("edit_photo", {"photo": "no base64!"}, "is no base64 of a picture file"),
    ("edit_photo", {"photo": "http://169.254.169.254/latest"}, "fetches nothing"),
    ("edit_photo", {"photo": "file:///etc/passwd"}, "fetches nothing"),
    ("edit_photo", {"photo": f"sample:{2**31}"}, "whole number from 0"),
    ("edit_photo", {"photo": "A" * 3_950_000}, "send a smaller one"),
    ("edit_photo", {"photo": base64.b64encode(declared_png(8000, 8000)).decode()}, "8000 x 8000 pixels"),
    ("edit_photo", {"photo": base64.b64encode(declared_png(60000, 60000)).decode()}, "too many pixels"),
    ("edit_photo", {"photo": SMALL, "edits": []}, 'give them as {"name": strength}'),
    ("edit_photo", {"photo": SMALL, "edits": {"age": 1}}, "no edit 'age': there are warmth"),
    ("edit_photo", {"photo": SMALL, "edits": {"warmth": 1e9}}, "number from -2 to 2"),
    ("edit_photo", {"photo": SMALL, "edits": {"warmth": "1"}}, "number from -2 to 2"),
    ("edit_photo", {"photo": SMALL, "edits": {"warmth": [1]}}, "number from -2 to 2"),
    ("edit_photo", {"photo": SMALL, "edits": {"warmth": True}}, "number from -2 to 2"),
    ("edit_photo", {"photo": SMALL, "edits": {"warmth": 10**300}}, "number from -2 to 2"),
    ("edit_photo", {"photo": SMALL, "edits": {f"edit_{n}": 1 for n in range(5000)}}, "no edit"),
    ("edit_photo", {"photo": SMALL, "compensation": 2}, "number from 0 to 1"),
    ("edit_photo", {"photo": SMALL, "compensation": None}, "number from 0 to 1"),
    ("edit_photo", {"photo": SMALL, "whole_photo": "yes"}, "true or false"),
    ("edit_photo", {"photo": SMALL, "eyes": "1,2,3,4"}, "four numbers"),
    ("edit_photo", {"photo": SMALL, "eyes": [1, 2, 3]}, "four numbers"),
    ("edit_photo", {"photo": SMALL, "eyes": [1, 2, 3, 1e30]}, "four numbers"),
    ("edit_photo", {"photo": SMALL, "eyes": [1, 2, 3, "4"]}, "four numbers"),
    ("edit_photo", {"photo": SMALL, "eyes": [5, 5, 5, 5]}, "eyes"),
    ("edit_photo", {"photo": SMALL, "eyes": [9, 9, 20, 9], "extra\u001b[31m": 1}, "has no argument"),
]


def test_hostile_calls_get_one_sentence(server, caplog):
    """In one session, which goes on after each."""

    async def work(session: ClientSession) -> list[CallToolResult]:
        answers = [await session.call_tool(name, arguments) for name, arguments, _ in REFUSED]
        assert not (await session.call_tool("sample", {"seed": 3})).isError
        return answers

    for (name, arguments, words), answer in zip(REFUSED, with_session(server.url, work), strict=True):
        (content,) = answer.content
        case = f"{name[:20]} {str(arguments)[:80]}: {content.text}"
        assert answer.isError and any(each in content.text for each in words.split("|")), case
        assert content.text.isprintable() and len(content.text) <= 400 and content.text.endswith("."), case
        assert str(server.page.sdic_files.root) not in content.text and content.text != texts.FAILED, case
    assert "failed" not in caplog.text and len(caplog.text) < 2000


@pytest.mark.parametrize("name", ["empty.png", "page.png", "junk.jpg", "cut.png", "large.png", "bomb.png", "text.svg"])
def test_damaged_photos_get_the_pages_sentences(server, name):
    content, words = bad_photos(EXAMPLE.source)[name]
    answer = call(server, "edit_photo", photo=f"data:;base64,{base64.b64encode(content).decode()}")
    assert answer.isError and words in answer.content[0].text and "\n" not in answer.content[0].text


def post(server: Server, content: bytes, path: str = API, **headers: str) -> httpx.Response:
    headers = {"content-type": "application/json", "accept": "application/json, text/event-stream", **headers}
    return httpx.post(server.url.rstrip("/") + path, content=content, headers=headers, timeout=60)


CALL = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "sample", "arguments": {"seed": 1}}}
NESTED = b'{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": ' + b'{"a":' * 500 + b"1" + b"}" * 500 + b"}"


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"5", b"null", b"[" * 100_000, b"\xff\xfe", b'{"jsonrpc": "1.0"}', NESTED,
                b'{"jsonrpc": "2.0", "id": 1}', json.dumps([CALL]).encode(),
                *(json.dumps({**CALL, **change}).encode() for change in (
                    {"method": 5}, {"params": 5}, {"id": {"a": 1}}, {"id": None}, {"id": 1.5}))]
)  # fmt: skip
def test_what_is_no_message_is_refused(server, content):
    for path in (API, f"{API}messages/?session_id={'0' * 32}"):
        answer = post(server, content, path)
        assert answer.status_code == 400 and answer.json() == {"detail": texts.BAD_MESSAGE}


@pytest.mark.parametrize(
    "change", [{"params": {}}, {"params": {"name": 5}}, {"params": {"name": "sample", "arguments": []}},
               {"params": {"name": "sample", "_meta": 5}}, {"method": "tools/none"}, {"method": ""},
               {"method": "resources/read", "params": {"uri": "file:///etc/passwd"}},
               {"method": "prompts/get", "params": {"name": "x"}}, {"id": "a" * 5000}]
)  # fmt: skip
def test_messages_out_of_order_get_the_protocols_errors(server, change):
    answer = post(server, json.dumps({**CALL, "method": "tools/list_", **change}).encode())
    data = next(line for line in answer.text.splitlines() if line.startswith("data: "))
    error = json.loads(data[6:])["error"]
    assert answer.status_code == 200 and "\n" not in error["message"] and len(error["message"]) < 200
    assert not error.get("data") and "root:" not in answer.text


def random_message(rng: random.Random) -> bytes:
    """A call with one strange value, or with damaged bytes."""
    name, good = rng.choice(
        (
            ("list_edits", {}),
            ("sample", {"seed": 1}),
            ("edit_photo", {"photo": SMALL, "edits": {"warmth": 1}, "eyes": [20, 20, 40, 20], "whole_photo": False}),
        )
    )
    strange = rng.choice((*good, "edits", "compensation", "x"))
    params = {"name": name, "arguments": {**good, strange: rng.choice(VALUES)}}
    message = {**CALL, "params": params}
    if rng.random() < 0.3:
        message[rng.choice(("id", "method", "params", "jsonrpc", "result"))] = rng.choice(VALUES)
    content = json.dumps(message).encode()
    return mutate(content, rng) if rng.random() < 0.4 else content


def test_random_messages_break_nothing(server):
    rng, watcher = random.Random(0), Watcher()
    with watcher.watching():
        for _ in range(200):
            content = random_message(rng)
            answer = post(server, content)
            told = answer.text
            assert answer.status_code in (200, 202, 400, 413), (content[:300], told[:300])
            for words in (texts.FAILED, "site-packages", "Traceback", str(server.page.sdic_files.root)):
                assert words not in told, (content[:300], told[:300])
            assert not watcher.said, (content[:300], watcher.said)


def test_messages_but_for_calls_are_small(server, caplog):
    """What the protocol's library cannot read, it logs whole."""
    for change in ({"method": "ping", "params": {"x": "y" * 70_000}}, {"params": {"x": "y" * 70_000}}):
        assert post(server, json.dumps({**CALL, **change}).encode()).json() == {"detail": texts.BAD_MESSAGE}
    notification = {
        "jsonrpc": "2.0",
        "method": "tools/call",
        "params": {"name": "sample", "arguments": {"a": "y" * 70_000}},
    }
    assert post(server, json.dumps(notification).encode()).status_code == 400
    assert len(caplog.text) < 2000


def test_large_calls_are_refused_by_their_length(server):
    most = server.page.limits.tool_bytes
    answer = post(server, b"x" * (most + 1))
    assert answer.status_code == 413 and answer.json()["detail"] == texts.TOOL_TOO_LARGE.format(megabytes=4)

    def parts():
        yield b"{}"

    unknown = httpx.post(server.url.rstrip("/") + API, content=parts())
    assert unknown.status_code == 411 and unknown.json()["detail"] == texts.NO_LENGTH


def test_only_what_is_needed_is_reached(server):
    base = server.url.rstrip("/")
    assert httpx.get(f"{base}{API}", headers={"accept": "text/event-stream"}).status_code == 405
    assert httpx.delete(f"{base}{API}").status_code == 405
    assert httpx.get(f"{base}{API}messages/").status_code == 405
    for path in ("/gradio_api/mcp/other", "/gradio_api/mcp/sse/x", "/mcp", "/gradio_api/mcp/messages/x"):
        assert httpx.post(base + path, json=CALL).status_code == 404, path


def test_calls_to_tools_wait_in_the_pages_line(cats64):
    """Some are answered, the others turned away with the page's sentence; and bytes count as uploads do."""
    limits = Limits(waiting_per_address=2, upload_rate=(4 << 20, 1))
    with serving(cats64, limits=limits, mcp=True) as server:
        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda n: call(server, "edit_photo", photo=f"sample:{n}"), range(16)))
        refused = [each for each in answers if each.isError]
        assert all(each.content[0].text == texts.BUSY for each in refused)
        assert 0 < len(refused) < 16
        assert not server.page.sdic_turns.running and not call(server, "sample", seed=1).isError
        arguments = {"photo": "!" * (3 << 20)}
        heavy = json.dumps({**CALL, "params": {"name": "edit_photo", "arguments": arguments}}).encode()
        assert [post(server, heavy).status_code for _ in range(2)][-1] == 429


def test_they_are_off_unless_asked_for(cats64, monkeypatch):
    monkeypatch.setenv("GRADIO_MCP_SERVER", "True")
    with serving(cats64) as server:
        assert post(server, json.dumps(CALL).encode()).status_code == 404
        assert httpx.get(f"{server.url}gradio_api/mcp/schema").status_code == 404
        assert not httpx.get(f"{server.url}config").json().get("mcp_server")


def test_without_the_package_there_is_a_sentence():
    """In a process of its own, in which `mcp` cannot be imported."""
    program = "import sys; sys.modules['mcp'] = None; from sdic_plugin.commands.cli import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", program, "demo", "--mcp"], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 2 and 'pip install "sdic-plugin[mcp]"' in done.stderr.strip().splitlines()[-1]


def test_a_model_of_faces_describes_them(cats64):
    """Its words follow the model: no cat is promised to who brings a model of something else."""
    engine = Engine(cats64, "my_model")
    tools = Tools(engine)
    assert (
        "pictures of the kind that my_model knows" in tools.by_name["edit_photo"].description
        and "cat" not in tools.subject
    )
