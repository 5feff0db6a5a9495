"""The server's doors, many people at once, and the command line."""

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

from flaxae.errors import ConfigError
from flaxae.explore import __main__ as command
from flaxae.explore import serve as serve_lib
from flaxae.explore.app import Hub, Page
from flaxae.explore.backend import Explorer
from flaxae.explore.views import VIEWS
from tests.explore.conftest import serving, stop
from tests.explore.tiny import LINES, Letters
from tests.helpers import ROOT, environment


@pytest.fixture(scope="module")
def secret(tmp_path_factory):
    path = tmp_path_factory.mktemp("secret") / "password"
    path.write_text("open sesame\n")
    return str(path)


@pytest.fixture(scope="module")
def guarded(lines, secret):
    process, url = serving(lines, secret)
    yield url
    stop(process)


def test_addresses(secret, tmp_path):
    assert serve_lib.check_address("127.0.0.1", 0, "") == ""
    assert serve_lib.check_address("localhost", 0, secret) == "open sesame"
    with pytest.raises(ConfigError, match="--password-file"):
        serve_lib.check_address("0.0.0.0", 0, "")
    with pytest.raises(ConfigError, match="cannot be read"):
        serve_lib.check_address("127.0.0.1", 0, str(tmp_path / "none"))
    (tmp_path / "short").write_text("abc\n")
    with pytest.raises(ConfigError, match="8 characters"):
        serve_lib.check_address("127.0.0.1", 0, str(tmp_path / "short"))
    for host in ("127.0.0.1", "127.0.0.9", "::1", "localhost"):
        assert serve_lib.is_loopback(host)
    for host in ("0.0.0.0", "::", "192.168.0.2", "example.org"):
        assert not serve_lib.is_loopback(host)
    assert serve_lib.origins("127.0.0.1", 5, ["x:1"]) == ["127.0.0.1:5", "localhost:5", "x:1"]
    assert "0.0.0.0:5" not in serve_lib.origins("0.0.0.0", 5)


def test_a_port_in_use():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        port = s.getsockname()[1]
        with pytest.raises(ConfigError, match=f"127.0.0.1:{port}.*another --port"):
            command.main(["explore", "nowhere", f"--port={port}"])


def test_a_password_is_asked(guarded):
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


def test_foreign_origins_are_refused(served):
    """By their origin and nothing else: the server's own is let in."""
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


def test_no_file_is_served(guarded):
    for path in ("../../etc/passwd", "static/../../../../etc/passwd", "%2e%2e/%2e%2e/etc/passwd"):
        try:
            with urllib.request.urlopen(guarded + path) as answer:
                assert b"root:" not in answer.read()
        except urllib.error.HTTPError as e:
            assert e.code in (403, 404)


def run_command(*args):
    return subprocess.run(
        [sys.executable, "-m", "flaxae.explore", *args], cwd=ROOT, env=environment(),
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_help_and_mistakes_on_the_terminal(tmp_path):
    done = run_command("--help")
    assert done.returncode == 0 and "--password-file" in done.stdout
    (tmp_path / "config.json").write_text('{"task": {"class": "flaxae.nowhere:X"}}')
    done = run_command(str(tmp_path), "--port=0", "--no-browser")
    assert done.returncode == 2 and "flaxae has no task config" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["--corpus=/nowhere/x"], "--corpus='/nowhere/x' cannot be read"),
        (["--host=0.0.0.0"], "--password-file"),
        (["--port=99999"], "0 to 65535"),
        (["--points=1"], "at least 2"),
        (["--labels"], "give both"),
    ],
)
def test_mistakes(tmp_path, args, told):
    options = [] if any("--port" in a for a in args) else ["--port=0"]
    with pytest.raises(ConfigError, match=told):
        command.main(["explore", str(tmp_path), *options, *args])


@pytest.fixture
def hub():
    made = Hub(Explorer(Letters(), LINES))
    yield made
    made.close()


def test_eight_people_at_once(hub):
    """Each drags their own slider; all get the text of their own last move, and no other."""
    words = [chr(97 + i) * 3 for i in range(8)]

    async def person(number):
        page = Page(hub)
        view = page.current
        view.inputs["how"].value = "lerp"  # a slerp changes the letters on its way
        view.inputs["a"].value, view.inputs["b"].value = words[number], f"{words[number]}12345"
        for at in range(0, 101, 5):
            view.inputs["at"].value = at
            await asyncio.sleep(0.001 * (number + 1))
        return page

    async def everyone():
        pages = await asyncio.gather(*(person(i) for i in range(8)))
        for _ in range(100):
            await asyncio.sleep(0.05)
            if not hub.worker._jobs:
                break
        await asyncio.sleep(0.2)
        return pages

    pages = asyncio.run(everyone())
    for word, page in zip(words, pages, strict=True):
        here, way = page.current._here.object, page.current._way.object
        assert f"{word}12345" in here and f"{word}12345" in way
        assert not any(other in here + way for other in words if other != word)


def test_moves_that_are_overtaken_are_not_computed(hub):
    go, started = threading.Event(), threading.Event()

    async def drag():
        page = Page(hub)
        hub.worker.submit(lambda: (started.set(), go.wait(30)))
        await asyncio.to_thread(started.wait, 30)
        hub.explorer.model.calls.clear()
        for at in range(20):
            page.current.inputs["at"].value = at
        go.set()
        await asyncio.sleep(0.5)
        return page

    page = asyncio.run(drag())
    assert len(hub.explorer.model.calls) == 1 and hub.worker.dropped >= 18
    view = page.current
    a, b = view.inputs["a"].value, view.inputs["b"].value
    from flaxae.explore import render

    assert view._here.object == render.big(hub.explorer.between_at(a, b, 19))


@pytest.mark.parametrize("name", list(VIEWS))
def test_a_view_that_fails_stays_up(hub, name, monkeypatch):
    page = Page(hub)
    page.show(name)
    view = page.current

    def broken(z):
        raise RuntimeError("<b>out of memory</b>")

    monkeypatch.setattr(hub.explorer.model, "decode", broken)
    monkeypatch.setattr(hub.explorer, "neighbours", lambda *args: broken(None))
    view.update("")
    assert "&lt;b&gt;out of memory" in view._error.object
    monkeypatch.undo()
    view.update("")
    assert view._error.object == ""


@pytest.mark.parametrize("name", VIEWS)
def test_every_view_can_be_taken_along(hub, name):
    """Its code runs, a link restores its inputs, and its files are what they say."""
    page = Page(hub)
    page.show(name)
    view = page.current
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(view.call(), {"explorer": hub.explorer})
    assert len(printed.getvalue()) > 3
    assert view._copied.value == view.code and html.escape(view.call()) in view._code.object
    again = Page(hub, dict(page.query))
    assert again.current.name == name and again.query == page.query
    assert again.current.call() == view.call()
    assert len(view._file("csv").read().decode().splitlines()) > 1
    assert view._file("png").read().startswith(b"\x89PNG")
    assert xml.etree.ElementTree.fromstring(view._file("svg").read()).tag.endswith("svg")


def test_a_full_queue_is_told(hub):
    go = threading.Event()
    hub.worker.submit(lambda: go.wait(30))
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda i: hub.worker.submit(lambda: None, i), range(63)))
    told = []
    for i in range(3):
        try:
            hub.worker.submit(lambda: None, ("more", i))
        except ConfigError as e:
            told.append(str(e))
    go.set()
    assert told and "64 requests wait" in told[0]


def test_links_that_do_not_fit(hub):
    page = Page(hub, {"view": "between", "at": "500", "a": "x = 5", "how": "<i>", "b": "a" * 3000})
    view = page.current
    assert view.inputs["a"].value == "x = 5" and view.inputs["at"].value == 50
    told = page._notice.object
    assert "at=" in told and "how=" in told and "b=" in told and "<i>" not in told
    assert "no view" not in told
    other = Page(hub, {"view": "<x>", "model": "<script>"})
    assert "<script>" not in other._notice.object and "another model" in other._notice.object
    assert "which there is not" in other._notice.object
    assert Page(hub, {"theme": "dark"})._notice.object == ""
    again = Page(hub, {k: v for k, v in page.query.items()})
    assert again.query == page.query and again._notice.object == ""


def test_the_map_offers_labels_where_there_are_some(hub):
    page = Page(hub)
    page.show("map")
    assert "label" not in page.current.inputs["colour"].options
    model = Letters()
    model.training_labels = lambda: [line[0] for line in LINES]
    other = Hub(Explorer(model))
    page = Page(other, {"view": "map", "colour": "label"})
    legend = page.current._legend.object
    assert page.current.inputs["colour"].value == "label" and "</span> c</span>" in legend
    other.close()


def test_an_older_answer_never_comes_last(hub):
    """Bokeh may run callbacks in another order than they were added in."""
    page, waiting, shown = Page(hub), [], []
    page.when_done = lambda future, show, fail: waiting.append((future, show, fail))
    for text in ("old", "new"):
        page.ask(lambda text=text: text, shown.append, shown.append, "slot")
    page.ask(lambda: "other", shown.append, shown.append, "another slot")
    waiting[1][1]("new")
    waiting[0][1]("old")
    waiting[0][2]("an old error")
    waiting[2][1]("other")
    assert shown == ["new", "other"]
