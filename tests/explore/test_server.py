"""The server's access rules, many users at the same time, and the command line."""

import asyncio
import contextlib
import html
import io
import socket
import subprocess
import sys
import threading
import urllib.request
import xml.etree.ElementTree
from concurrent.futures import ThreadPoolExecutor

import pytest

from flaxae.errors import ConfigError, UserError
from flaxae.explore import __main__ as command
from flaxae.explore import render
from flaxae.explore import server as server_lib
from flaxae.explore.backend import Explorer
from flaxae.explore.page import AppState, Page
from flaxae.explore.views import VIEWS
from tests.explore.conftest import start_server, stop_server
from tests.explore.tiny import LINES, Letters
from tests.helpers import ROOT, environment


@pytest.fixture(scope="module")
def secret(tmp_path_factory):
    path = tmp_path_factory.mktemp("secret") / "password"
    path.write_text("open sesame\n")
    return str(path)


@pytest.fixture(scope="module")
def guarded(lines, secret):
    process, url = start_server(lines, secret)
    yield url
    stop_server(process)


def test_addresses_are_checked(secret, tmp_path):
    assert server_lib.check_address("127.0.0.1", 0, "") == ""
    assert server_lib.check_address("localhost", 0, secret) == "open sesame"
    with pytest.raises(ConfigError, match="--password-file"):
        server_lib.check_address("0.0.0.0", 0, "")
    with pytest.raises(ConfigError, match="cannot be read"):
        server_lib.check_address("127.0.0.1", 0, str(tmp_path / "none"))
    (tmp_path / "short").write_text("abc\n")
    with pytest.raises(ConfigError, match="8 characters"):
        server_lib.check_address("127.0.0.1", 0, str(tmp_path / "short"))
    for host in ("127.0.0.1", "127.0.0.9", "::1", "localhost"):
        assert server_lib.is_loopback(host)
    for host in ("0.0.0.0", "::", "192.168.0.2", "example.org"):
        assert not server_lib.is_loopback(host)
    assert server_lib.allowed_origins("127.0.0.1", 5, ["x:1"]) == [
        "127.0.0.1:5",
        "localhost:5",
        "x:1",
    ]
    assert "0.0.0.0:5" not in server_lib.allowed_origins("0.0.0.0", 5)


def test_a_port_in_use_is_an_error():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        port = s.getsockname()[1]
        with pytest.raises(ConfigError, match=f"127.0.0.1:{port}.*another --port"):
            command.main(["explore", "nowhere", f"--port={port}"])


def test_the_server_asks_for_the_password(guarded):
    with urllib.request.urlopen(guarded) as answer:
        html = answer.read().decode()
        assert "/login" in answer.url and "http://" not in html and "https://" not in html
    body = b"username=me&password=wrong"
    with urllib.request.urlopen(f"{guarded}login", body) as answer:
        assert "Invalid" in answer.read().decode()
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
    with opener.open(f"{guarded}login", b"username=me&password=open+sesame") as answer:
        assert "Latent-space explorer" in answer.read().decode()
        assert answer.url == guarded


def test_websockets_of_other_origins_are_refused(served):
    from tornado.httpclient import HTTPClientError, HTTPRequest
    from tornado.websocket import websocket_connect

    url, _ = served

    async def connect(origin):
        address = url.replace("http:", "ws:") + "ws"
        request = HTTPRequest(address, headers={"Origin": origin})
        (await websocket_connect(request, subprotocols=["bokeh", "x"])).close()

    for foreign in ("http://evil.example", url.replace("127.0.0.1", "127.0.0.2").rstrip("/")):
        with pytest.raises(HTTPClientError) as e:
            asyncio.run(connect(foreign))
        assert e.value.code == 403
    asyncio.run(connect(url.rstrip("/")))


def test_no_file_outside_is_served(guarded):
    for path in ("../../etc/passwd", "static/../../../../etc/passwd", "%2e%2e/%2e%2e/etc/passwd"):
        try:
            with urllib.request.urlopen(guarded + path) as answer:
                assert b"root:" not in answer.read()
        except urllib.error.HTTPError as e:
            assert e.code in (403, 404)


def test_help_and_errors_on_the_terminal(tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        command.main(["explore", "--help"])
    assert end.value.code == 0 and "--password-file" in capsys.readouterr().out
    (tmp_path / "config.json").write_text('{"task": {"class": "flaxae.nowhere:X"}}')
    done = subprocess.run(
        [sys.executable, "-m", "flaxae.explore", str(tmp_path), "--port=0", "--no-browser"],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2 and "flaxae has no task config" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--corpus=/nowhere/x"], "--corpus='/nowhere/x' cannot be read"),
        (["--host=0.0.0.0"], "--password-file"),
        (["--port=99999"], r"--port=99999 must be in \[0, 65535\]"),
        (["--points=1"], "--points=1 must be at least 2"),
        (["--labels"], "give both"),
    ],
)
def test_a_wrong_option_is_an_error(tmp_path, args, message):
    options = [] if any("--port" in a for a in args) else ["--port=0"]
    with pytest.raises(UserError, match=message):
        command.main(["explore", str(tmp_path), *options, *args])


@pytest.fixture
def state():
    made = AppState(Explorer(Letters(), LINES))
    yield made
    made.close()


def test_eight_pages_get_their_own_answers(state):
    """All sliders move at the same time; each page shows the text of its own last move."""
    words = [chr(97 + i) * 3 for i in range(8)]

    async def drag(number):
        page = Page(state)
        view = page.current
        view.inputs["how"].value = "lerp"  # a slerp would change the letters
        view.inputs["a"].value, view.inputs["b"].value = words[number], f"{words[number]}12345"
        for at in range(0, 101, 5):
            view.inputs["at"].value = at
            await asyncio.sleep(0.001 * (number + 1))
        return page

    async def everyone():
        pages = await asyncio.gather(*(drag(i) for i in range(8)))
        for _ in range(100):
            await asyncio.sleep(0.05)
            if not state.worker._jobs:
                break
        await asyncio.sleep(0.2)
        return pages

    pages = asyncio.run(everyone())
    for word, page in zip(words, pages, strict=True):
        here, path = page.current._here.object, page.current._path.object
        assert f"{word}12345" in here and f"{word}12345" in path
        assert not any(other in here + path for other in words if other != word)


def test_replaced_moves_are_not_computed(state):
    go, started = threading.Event(), threading.Event()

    async def drag():
        page = Page(state)
        state.worker.submit(lambda: (started.set(), go.wait(30)))
        await asyncio.to_thread(started.wait, 30)
        state.explorer.model.calls.clear()
        for at in range(20):
            page.current.inputs["at"].value = at
        go.set()
        await asyncio.sleep(0.5)
        return page

    page = asyncio.run(drag())
    assert len(state.explorer.model.calls) == 1 and state.worker.dropped >= 18
    view = page.current
    a, b = view.inputs["a"].value, view.inputs["b"].value
    assert view._here.object == render.big(state.explorer.between_at(a, b, 19))


@pytest.mark.parametrize("name", list(VIEWS))
def test_a_view_survives_an_error(state, name, monkeypatch):
    page = Page(state)
    page.show(name)
    view = page.current

    def broken(z):
        raise RuntimeError("<b>out of memory</b>")

    monkeypatch.setattr(state.explorer.model, "decode", broken)
    monkeypatch.setattr(state.explorer, "neighbours", lambda *args: broken(None))
    view.update("")
    assert "&lt;b&gt;out of memory" in view._error.object
    monkeypatch.undo()
    view.update("")
    assert view._error.object == ""


@pytest.mark.parametrize("name", VIEWS)
def test_copied_code_link_and_files_of_every_view(state, name):
    """The code runs, the link restores the inputs, and the files have the right format."""
    page = Page(state)
    page.show(name)
    view = page.current
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(view.call(), {"explorer": state.explorer})
    assert len(printed.getvalue()) > 3
    assert view._copied.value == view.code and html.escape(view.call()) in view._code.object
    again = Page(state, dict(page.query))
    assert again.current.name == name and again.query == page.query
    assert again.current.call() == view.call()
    assert len(view._file("csv").read().decode().splitlines()) > 1
    assert view._file("png").read().startswith(b"\x89PNG")
    assert xml.etree.ElementTree.fromstring(view._file("svg").read()).tag.endswith("svg")


def test_a_full_queue_is_reported(state):
    go = threading.Event()
    state.worker.submit(lambda: go.wait(30))
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda i: state.worker.submit(lambda: None, i), range(63)))
    messages = []
    for i in range(3):
        try:
            state.worker.submit(lambda: None, ("more", i))
        except ConfigError as e:
            messages.append(str(e))
    go.set()
    assert messages and "64 requests are waiting" in messages[0]


def test_a_link_with_wrong_parts_is_reported(state):
    page = Page(
        state, {"view": "between", "at": "500", "a": "x = 5", "how": "<i>", "b": "a" * 3000}
    )
    view = page.current
    assert view.inputs["a"].value == "x = 5" and view.inputs["at"].value == 50
    notice = page._notice.object
    assert all(f"{name}=" in notice for name in ("at", "how", "b")) and "<i>" not in notice
    assert "names a view" not in notice
    other = Page(state, {"view": "<x>", "model": "<script>"})
    assert "<script>" not in other._notice.object and "another model" in other._notice.object
    assert "which does not exist" in other._notice.object
    assert Page(state, {"theme": "dark"})._notice.object == ""
    again = Page(state, {k: v for k, v in page.query.items()})
    assert again.query == page.query and again._notice.object == ""


def test_the_map_offers_labels_if_there_are_any(state):
    page = Page(state)
    page.show("map")
    assert "label" not in page.current.inputs["colour"].options
    model = Letters()
    model.training_labels = lambda: [line[0] for line in LINES]
    other = AppState(Explorer(model))
    page = Page(other, {"view": "map", "colour": "label"})
    legend = page.current._legend.object
    assert page.current.inputs["colour"].value == "label" and "</span> c</span>" in legend
    other.close()


def test_an_outdated_answer_is_not_shown(state):
    """Bokeh may run callbacks in another order than that in which they were added."""
    page, waiting, shown = Page(state), [], []
    page.when_done = lambda future, show, fail: waiting.append((future, show, fail))
    for text in ("old", "new"):
        page.request(lambda text=text: text, shown.append, shown.append, "slot")
    page.request(lambda: "other", shown.append, shown.append, "another slot")
    waiting[1][1]("new")
    waiting[0][1]("old")
    waiting[0][2]("an old error")
    waiting[2][1]("other")
    assert shown == ["new", "other"]
