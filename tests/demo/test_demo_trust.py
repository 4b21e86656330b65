"""The page under attack, over real HTTP: sessions, files, sizes, addresses, the queue, what stays behind."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
import pytest
from PIL import Image

pytest.importorskip("gradio_client")

import gradio_client
from testing.demo_server import Server, declared_png, encoded, serving

from sdic_plugin import DirectionEdit, write_edits
from sdic_plugin.benchmarks.demo_client import PageClient, connect
from sdic_plugin.benchmarks.demo_load import resident_megabytes, serving_process
from sdic_plugin.demo import Limits, texts
from sdic_plugin.demo.files import VisitorFiles
from sdic_plugin.demo.turns import Allowance, TooMany, Turns
from sdic_plugin.demo.visits import VisitError, Visits, visitor_of
from sdic_plugin.photos.photo import load_example

EXAMPLE = load_example("chelsea")
EYES = ",".join(map(str, EXAMPLE.eyes))
SECOND_ADDRESS = "127.0.0.2"


@pytest.fixture(scope="module")
def server(cats64) -> Server:
    with serving(cats64) as running:
        yield running


class Visitor(PageClient):
    """Plain HTTP, with a session of its own unless told otherwise."""

    def __init__(self, server: Server, session: str | None, **options: object) -> None:
        super().__init__(server.url, session, **options)

    def photo(self) -> dict:
        return self.upload(encoded(EXAMPLE.source, "PNG"))


def functions(server: Server) -> dict[str, int]:
    """Number of each of the page's own functions, by name."""
    return {fn.api_name: number for number, fn in server.page.fns.items() if isinstance(fn.api_name, str)}


# ---------------------------------------------------------------- 1, 2: sessions, ways in


@pytest.mark.parametrize("route", ["run", "api"])
@pytest.mark.parametrize("name", ["invert", "edit", "middle", "invert_1", "click", "make_files", "upload", "surprise"])
def test_direct_calls_are_refused_in_one_sentence(server, route, name):
    with httpx.Client(base_url=server.url) as http:
        answer = http.post(f"/gradio_api/{route}/{name}", json={"data": [{}, 1, None, True, False]})
    assert answer.status_code == 404 and answer.json() == {"detail": texts.QUEUE_ONLY}


def test_calls_without_a_session_share_nothing(server):
    """What let B have A's whole photo: both without a session."""
    first, second = Visitor(server, None), Visitor(server, None)
    photo = first.photo()
    for visitor, name, data in ((first, "invert", [photo, EYES]), (second, "edit", [{}, 1, None, True, False])):
        joined = visitor.http.post(f"/gradio_api/call/{name}", json={"data": data})
        event = joined.json()["event_id"]
        answer = visitor.http.get(f"/gradio_api/call/{name}/{event}").text
        assert ("event: complete" in answer) == (name == "invert"), answer
    assert "choose it again" in answer


def test_values_may_be_given_by_name(server):
    """As the page's “Use via API” shows it; with a session, an edit can follow."""
    visitor = Visitor(server, "caller_by_name")

    def ask(name: str, **values: object) -> tuple[int, str]:
        body = {"session_hash": visitor.session, **values}
        joined = visitor.http.post(f"/gradio_api/call/v2/{name}", json=body)
        if joined.status_code != 200:
            return joined.status_code, joined.text
        return 200, visitor.http.get(f"/gradio_api/call/v2/{name}/{joined.json()['event_id']}").text

    assert "event: complete" in ask("invert", photo=visitor.photo(), eyes=EYES)[1]
    assert "event: complete" in ask("edit", edits={"warmth": 1}, mask=None)[1]
    for wrong in ({}, {"nothing": 1}, {"edits": {}, "nothing": 1}, {"data": [1]}):
        assert ask("invert", **wrong) == (
            422,
            json.dumps({"detail": texts.BAD_REQUEST}, ensure_ascii=False, separators=(",", ":")),
        )


@pytest.mark.parametrize("session", [None, "", "x", "../../x", 7, [], "a" * 100, "tab\tsession", "é" * 8])
def test_the_queue_wants_a_session(server, session):
    answer = Visitor(server, session).join(functions(server)["middle"])
    assert answer["status"] == 403 and "session_hash" in answer["error"]


@pytest.mark.parametrize("name", ["middle", "click", "make_files", "leave", "nothing", "invert_1", "../edit"])
def test_what_the_page_calls_itself_is_no_endpoint(server, name):
    with httpx.Client(base_url=server.url) as http:
        answer = http.post(f"/gradio_api/call/{name}", json={"data": [], "session_hash": "somebody"})
        assert answer.status_code == 404 and "detail" in answer.json()
        assert http.get(f"/gradio_api/call/{name}/{'0' * 32}").status_code == 404


def test_a_browsers_session_serves_that_browser_alone(server):
    owner, thief = Visitor(server, "session_one", browser=True), Visitor(server, "session_one", browser=True)
    program = Visitor(server, "session_one")
    assert "data" in owner.call("invert", owner.photo(), EYES)
    for other in (thief, program):
        answer = other.call("edit", {}, 1, None, True, False)
        assert answer == {"status": 403, "error": "This session belongs to another visitor: reload the page, or let "
                          "your client choose a session of its own."}  # fmt: skip
        for path in ("queue/data?session_hash=session_one", "heartbeat/session_one"):
            assert other.http.get(f"/gradio_api/{path}").status_code == 403
        cancel = {"session_hash": "session_one", "fn_index": 0, "event_id": "x"}
        assert other.http.post("/gradio_api/cancel", json=cancel).status_code == 403
    assert "data" in owner.call("edit", {}, 1, None, True, False)


def test_a_programs_session_serves_its_address_alone(server):
    owner, thief = Visitor(server, "session_two"), Visitor(server, "session_two", address=SECOND_ADDRESS)
    assert "data" in owner.call("invert", owner.photo(), EYES)
    assert thief.call("edit", {}, 1, None, True, False)["status"] == 403


def test_forty_inversions_at_once_wait_in_line(cats64):
    """Some are answered, the others turned away with the page's sentence; no more than the limit wait."""
    with serving(cats64, limits=Limits(waiting_per_address=8)) as server:
        photo = Visitor(server, "uploads__").photo()

        def ask(number: int) -> dict:
            return Visitor(server, f"visitor_{number}").call("invert", photo, EYES)

        with ThreadPoolExecutor(40) as pool:
            running = [pool.submit(ask, number) for number in range(40)]
            most = 0
            while not all(each.done() for each in running):
                most = max(most, len(server.page._queue))
                time.sleep(0.01)
        answers = [each.result() for each in running]
    turned_away = [each for each in answers if each.get("status") == 503]
    assert turned_away and all(each["error"] == texts.BUSY for each in turned_away)
    # The photo went to the session that used it first; others are told so, in their turn.
    told = [each for each in answers if each.get("error") == texts.NOT_SENT]
    assert sum("data" in each for each in answers) == 1
    assert len(told) + len(turned_away) + 1 == 40
    assert most <= 1  # Gradio's own queue holds nothing back


# ---------------------------------------------------------------- 3: pictures before decoding


def paint_too_much(visitor: Visitor, memory: Callable[[], float]) -> float:
    """Paint by PNGs of 79 megapixels in 77 kB: background, composite and many layers; returns what memory grew by."""
    bomb = encoded(Image.new("1", (8900, 8900)), "PNG", optimize=True)
    assert len(bomb) < 100_000
    config = visitor.http.get("/config").json()
    edit = next(each["id"] for each in config["dependencies"] if each["api_name"] == "edit_1")
    layout = [each for each in config["components"] if each["type"] == "imageeditor"]
    assert len(layout) == 1
    visitor.call("invert", visitor.photo(), EYES)
    inputs = next(each["inputs"] for each in config["dependencies"] if each["id"] == edit)
    values = {each["id"]: each["props"].get("value") for each in config["components"]}
    before = memory()
    for layers in (8, 1):
        data = [values.get(each) for each in inputs]
        files = [visitor.upload(bomb) for _ in range(layers + 2)]
        mask = {"background": files[0], "composite": files[1], "layers": files[2:]}
        data[inputs.index(layout[0]["id"])] = mask
        answer = visitor.join(edit, *data)
        assert re.search("several layers|8900 x 8900 pixels", answer["error"]), answer
    return memory() - before


def test_the_mask_editor_reads_one_small_layer(server):
    paint_too_much(Visitor(server, "painter_1"), lambda: 0.0)


@pytest.mark.slow
def test_the_mask_editors_layers_take_no_memory(cats64):
    """In a process of its own, whose memory is its own."""
    with serving_process("cats64") as (url, process):
        visitor = Visitor(Server(url, cats64, None, None), "painter_1")
        assert paint_too_much(visitor, lambda: resident_megabytes(process)) < 100


def test_blobs_of_the_mask_editor_are_bounded(server):
    visitor = Visitor(server, "painter_2", browser=True)
    editor = next(each for each in server.page.blocks.values() if each.get_block_name() == "imageeditor")
    for kind, size, kept in (("background", 9, 0), ("composite", 9, 0), ("layer", 9, 1), ("layer", 2 << 20, 0)):
        editor._paintings.clear()
        fields = {"id": "a", "type": kind, "index": "0", "session_hash": visitor.session, "fn_name": "accept_blobs"}
        fields["component_id"] = str(editor._id)
        visitor.http.post("/gradio_api/component_server", data=fields, files={"file": ("a.png", b"x" * size)})
        assert len(editor._paintings) == kept, (kind, size)
    for number in range(200):
        fields["id"] = str(number)
        visitor.http.post("/gradio_api/component_server", data=fields, files={"file": ("a.png", b"x")})
    assert len(editor._paintings) <= 64
    too_large = visitor.http.post("/gradio_api/component_server", content=b"x" * (4 << 20))
    assert too_large.status_code == 413 and "detail" in too_large.json()


@pytest.mark.parametrize("kind", ["photo", "mask"])
def test_pictures_are_refused_by_their_header(server, kind):
    visitor = Visitor(server, f"sender_of_{kind}")
    bomb = visitor.upload(declared_png(8800, 8800))
    if kind == "mask":
        visitor.call("invert", visitor.photo(), EYES)
    answer = visitor.call("invert", bomb, "") if kind == "photo" else visitor.call("edit", {}, 1, bomb, False, False)
    assert "8800 x 8800 pixels" in answer["error"]


def test_pictures_of_odd_kinds_are_refused(server):
    visitor = Visitor(server, "sender_of_odd")
    answer = visitor.call("invert", visitor.upload(encoded(EXAMPLE.source, "EPS"), "a.eps"), "")
    assert "kind EPS" in answer["error"]


# ---------------------------------------------------------------- 4: nothing is fetched


@pytest.fixture
def web_server():
    """A server of this machine that counts what is asked of it."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()


def test_no_address_is_fetched_or_looked_up(server, web_server, monkeypatch):
    local, asked = web_server
    looked_up, real = [], socket.getaddrinfo

    def record(host: object, *arguments: object, **options: object) -> object:
        if host not in ("127.0.0.1", "localhost"):
            looked_up.append(host)
            raise socket.gaierror("nothing is looked up here")
        return real(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", record)
    visitor = Visitor(server, "surfer_1", browser=True)
    addresses = [f"{local}/a.png", "http://example.com/a.png", "https://10.0.0.1/a.png", "http://[::1]/a.png",
                 "http://169.254.169.254/latest", "ftp://example.com/a", "file:///etc/passwd"]  # fmt: skip
    for address in addresses:
        file = {"path": address, "url": address, "meta": {"_type": "gradio.FileData"}}
        assert visitor.call("invert", file, "") == {"error": texts.NO_FETCH}, address
        assert visitor.call("edit", {"a": [file]}, 1, None, False, False) == {"error": texts.NO_FETCH}
        for route in ("file=", "proxy=", "file/"):
            assert visitor.http.get(f"/gradio_api/{route}{address}").status_code == 404, (route, address)
    assert asked == [] and looked_up == []


# ---------------------------------------------------------------- 5: files


def paths_in(answer: object) -> list[str]:
    return re.findall(r'"path": ?"([^"]+)"', json.dumps(answer))


def test_files_belong_to_their_visitor(server):
    owner, thief = Visitor(server, "owner_of_files", browser=True), Visitor(server, "thief_of_files", browser=True)
    photo = owner.photo()
    answer = owner.call("invert", photo, EYES)
    paths = paths_in(answer)
    assert len(paths) == 3
    for path in [*paths, photo["path"]]:
        assert len(Path(path).parent.name) == 32  # 128 random bits
        assert owner.http.get(f"/gradio_api/file={path}").status_code == 200
        assert owner.http.get(f"/gradio_api/file={path}").headers["cache-control"] == "private, no-store"
        for other in (thief, Visitor(server, "program_1"), Visitor(server, "program_2", address=SECOND_ADDRESS)):
            refused = other.http.get(f"/gradio_api/file={path}")
            assert refused.status_code == 404 and refused.json() == {"detail": texts.NO_SUCH_FILE}
            file = {"path": path, "meta": {"_type": "gradio.FileData"}}
            assert other.call("invert", file, "")["error"] == texts.NOT_SENT
    same = Visitor(server, "another_session").upload(encoded(EXAMPLE.source, "PNG"))
    assert same["path"] != photo["path"]  # the content does not tell the name


def test_programs_get_each_file_once(server):
    """They name no session when they ask for a file; once their own client has it, nobody does."""
    owner = Visitor(server, "owner_program")
    (path, *_) = paths_in(owner.call("invert", owner.photo(), EYES))
    assert Visitor(server, "x_y_z_1", address=SECOND_ADDRESS).http.get(f"/gradio_api/file={path}").status_code == 404
    assert owner.http.get(f"/gradio_api/file={path}").status_code == 200
    assert Visitor(server, "x_y_z_2").http.get(f"/gradio_api/file={path}").status_code == 404


@pytest.mark.parametrize("path", ["/etc/passwd", "{root}/in-use.lock", "{root}", "{root}/../../etc/passwd", "", "\0"])
def test_other_files_are_not_served(server, path):
    with httpx.Client(base_url=server.url) as http:
        path = path.format(root=server.page.sdic_files.root)
        answer = http.get(f"/gradio_api/file={path.replace(chr(0), '%00')}")
    assert answer.status_code == 404 and "/etc" not in answer.text


def wait_until(condition, seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_files_go_when_the_page_is_closed(server):
    visitor = Visitor(server, "closing_one", browser=True)
    with visitor.http.stream("GET", "/gradio_api/heartbeat/closing_one") as heartbeat:
        alive = heartbeat.iter_lines()
        next(alive)
        paths = paths_in(visitor.call("invert", visitor.photo(), EYES))
        unused = visitor.photo()["path"]
        assert all(Path(path).is_file() for path in [*paths, unused])
        assert server.sessions.get("closing_one").file
    gone = [*paths, unused]
    wait_until(lambda: not any(map(os.path.exists, gone)) and not server.sessions.get("closing_one").file)
    assert visitor.http.get(f"/gradio_api/file={paths[0]}").status_code == 404


@pytest.mark.slow
def test_the_clients_files_go_with_it(server, tmp_path):
    EXAMPLE.source.save(tmp_path / "cat.png")
    client = connect(server.url, str(tmp_path))
    client.predict(gradio_client.handle_file(str(tmp_path / "cat.png")), EYES, api_name="/invert")
    session = client.session_hash
    files = server.page.sdic_files
    assert files._folders[session]
    client.close()
    wait_until(lambda: not files._folders.get(session), seconds=60)  # its thread looks up every 15 s


def test_files_of_the_idle_go(cats64):
    with serving(cats64, limits=Limits(idle_seconds=1)) as server:
        visitor = Visitor(server, "idle_visitor")
        paths = paths_in(visitor.call("invert", visitor.photo(), EYES))
        wait_until(lambda: not any(Path(path).exists() for path in paths) and len(server.sessions) == 0)


def test_what_is_kept_of_one_visitor_is_bounded(server):
    visitor = Visitor(server, "collector")
    visitor.call("invert", visitor.photo(), EYES)
    for number in range(150):
        visitor.upload(b"x" * 1000, f"{number}.png")
    files = server.page.sdic_files
    assert all(len(folders) <= 128 for folders in files._folders.values())


@pytest.mark.parametrize(
    "end", [signal.SIGTERM, *(pytest.param(end, marks=pytest.mark.slow) for end in (signal.SIGINT, signal.SIGKILL))]
)
def test_nothing_stays_after_the_end(tmp_path, end):
    """Killed outright, a server cannot tidy up; the next one does."""
    # As from a terminal: what a shell starts in the background ignores SIGINT, and so would all that it starts.
    program = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from sdic_plugin.demo import launch; launch('cats64')"
    )

    def start() -> tuple[subprocess.Popen, str]:
        process = subprocess.Popen(
            [sys.executable, "-c", program],
            stdout=subprocess.PIPE, env={**os.environ, "TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"}, text=True,
        )  # fmt: skip
        for line in process.stdout:
            if found := re.search(r"http://\S+", line):
                return process, found[0].rstrip("/") + "/"
        raise AssertionError("the page did not start")

    process, url = start()
    visitor = Visitor(Server(url, None, None, None), "last_visitor")
    assert "data" in visitor.call("invert", visitor.photo(), EYES)
    assert list(tmp_path.rglob("*.png"))
    process.send_signal(end)
    process.wait(timeout=60)
    if end == signal.SIGKILL:
        assert list(tmp_path.rglob("*.png"))
        process, _ = start()
        assert not list(tmp_path.rglob("*.png"))
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)
    assert not list(tmp_path.glob("sdic-demo-*"))


# ---------------------------------------------------------------- 6: what answers reveal


def test_no_answer_names_a_path_of_the_server(server, tmp_path):
    visitor = Visitor(server, "curious_1")
    visitor.call("invert", visitor.photo(), EYES)
    junk = visitor.upload(b"junk", "junk.safetensors")
    add = functions(server)["add_edits"]
    answers = [
        visitor.call("invert", junk, ""), visitor.call("edit", {}, 1, junk, False, False),
        visitor.join(add, junk, ""), visitor.call("edit", "x", "y", "z", "u", "v"), visitor.call("invert", 1, 2),
        visitor.call("sweep", {}, [], None, {}), visitor.join(functions(server)["click"], event_data={"index": "x"}),
        visitor.join(functions(server)["edit_1"], *range(200)), visitor.join(functions(server)["strip"], {"a": 1}),
    ]  # fmt: skip
    told = json.dumps(answers) + visitor.http.get("/config").text + visitor.http.get("/").text
    for place in (tempfile.gettempdir(), str(Path(__file__).parents[2]), str(Path.home()), "site-packages"):
        assert place not in told
    for answer in answers:
        assert answer.get("error") or "status error" in json.dumps(answer) or "data" in answer


def test_a_visitors_edit_file_is_text(server, cats64, tmp_path):
    import torch

    from sdic_plugin.demo.layout import slider_of

    config = cats64.generator.config
    direction = {"direction": torch.ones(config.style_width)}
    hostile = "[click](http://evil.example) ![x](http://evil.example/x.png) <b onclick=x>bold</b> **b** `c` \x1b[31m"
    edit = DirectionEdit("nice", tensors=direction, description=hostile)
    write_edits([edit], tmp_path / "a.safetensors", generator_id=config.generator_id)
    visitor = Visitor(server, "author_1")
    visitor.call("invert", visitor.photo(), EYES)
    file = visitor.upload((tmp_path / "a.safetensors").read_bytes(), "a.safetensors")
    told = json.dumps(visitor.join(functions(server)["add_edits"], file, ""))
    assert "Loaded" in told
    info = slider_of(edit)["info"]
    for sign in ("](", "![", "<b", "**", "`c`", "\x1b"):
        assert sign not in info, sign
        assert json.dumps(sign)[1:-1] not in told


# ---------------------------------------------------------------- parts


def test_forwarded_addresses_are_believed_from_known_proxies_only():
    headers = [(b"x-forwarded-for", b"6.6.6.6, 7.7.7.7")]
    assert visitor_of(headers, "1.1.1.1").address == "1.1.1.1"
    assert visitor_of(headers, "1.1.1.1", proxies=1).address == "7.7.7.7"
    assert visitor_of(headers, "1.1.1.1", proxies=5).address == "6.6.6.6"
    assert visitor_of([(b"cookie", b"\xff=;;=")], "1.1.1.1").identity == "1.1.1.1"


def test_one_address_cannot_push_others_sessions_out():
    limits = Limits(sessions_per_address=4)
    visits = Visits(limits, VisitorFiles(1 << 20))
    honest = visits.open("honest_one", visitor_of([], "1.1.1.1"))
    for number in range(2000):
        visits.open(f"attacker_{number}", visitor_of([], "6.6.6.6"))
    assert visits.find("honest_one") is honest and len(visits) == 5
    with pytest.raises(VisitError):
        visits.open("honest_one", visitor_of([], "6.6.6.6"))


def test_turns_are_shared_by_time():
    """Nine addresses; the ninth always has eight requests waiting that take seven times as long as the others'."""
    now, served = [0.0], []
    turns = Turns(1, 100, 8, clock=lambda: now[0])

    async def visit(address: str, seconds: float, count: int, number: int) -> None:
        for each in range(count):
            start = now[0]
            await turns.wait(address, (address, number, each))
            now[0] += seconds
            served.append((address, now[0] - start))
            turns.end((address, number, each))

    async def everybody() -> None:
        honest = [visit(f"honest_{each}", 0.15, 20, 0) for each in range(8)]
        attack = [visit("attacker", 1.0, 20, number) for number in range(8)]
        await asyncio.gather(*attack, *honest)

    asyncio.run(everybody())
    waits = sorted(wait for address, wait in served[: 8 * 20 + 24] if address != "attacker")
    assert waits[len(waits) // 2] <= 2 * 8 * 0.15
    assert turns.running == set() and len(turns) == 0


def test_turns_are_bounded_and_given_back():
    async def scenario() -> None:
        turns = Turns(1, 3, 2)
        await turns.wait("a", 1)
        waiting = [asyncio.ensure_future(turns.wait("a", number)) for number in (2, 3)]
        await asyncio.sleep(0)
        with pytest.raises(TooMany):
            await turns.wait("a", 4)
        waiting.append(asyncio.ensure_future(turns.wait("b", 5)))
        await asyncio.sleep(0)
        with pytest.raises(TooMany):
            await turns.wait("c", 6)
        waiting[0].cancel()
        turns.end(1)
        turns.end(1)  # twice is once
        await asyncio.sleep(0)
        assert turns.running == {5}  # b has used nothing yet
        turns.end(5)
        await asyncio.sleep(0)
        assert turns.running == {3}

    asyncio.run(scenario())


def test_allowances_refill():
    now = [0.0]
    allowance = Allowance(10, 2, clock=lambda: now[0])
    assert allowance.take("a", 10) and not allowance.take("a", 1) and allowance.take("b", 1)
    now[0] = 2
    assert allowance.take("a", 4) and not allowance.take("a", 1)
    for number in range(5000):
        allowance.take(str(number), 1)
        now[0] += 1
    assert len(allowance._left) < 4200
