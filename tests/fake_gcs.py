"""A small Google Cloud Storage in a thread: the part of its JSON API that a run uses.

gcsfs and google-cloud-storage find it by STORAGE_EMULATOR_HOST, tensorstore by its own variable:
`Server.environment` contains all of them. Objects are kept in memory; there are no folders.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

DATE = "2026-01-01T00:00:00.000Z"


class Server:
    """Serves one bucket, `bucket`, at a free port of this machine.

    Attributes:
        objects: name -> (content, generation).
        failing: predicate on (method, name); if true the answer is 503.
    """

    def __init__(self) -> None:
        self.objects: dict[str, tuple[bytes, int]] = {}
        self.uploads: dict[str, tuple[str, bytearray]] = {}
        self.requests: list[str] = []
        self.failing: Callable[[str, str], bool] = lambda method, name: False
        self.lock, self.generation = threading.RLock(), 0
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version, disable_nagle_algorithm = "HTTP/1.1", True

            def log_message(self, *_: Any) -> None:
                pass

            def handle_any(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(length) if length else self.chunks()
                url = urlsplit(self.path)
                query = {k: v[0] for k, v in parse_qs(url.query, keep_blank_values=True).items()}
                with server.lock:
                    server.requests.append(f"{self.command} {self.path}")
                    args = (self.command, url.path, query, self.headers, body)
                    status, headers, out = server.answer(*args)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(out)))
                self.end_headers()
                self.wfile.write(out)

            def chunks(self) -> bytes:
                if self.headers.get("Transfer-Encoding") != "chunked":
                    return b""
                out = b""
                while size := int(self.rfile.readline().split(b";")[0], 16):
                    out += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return out

            do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = handle_any

        class Http(ThreadingHTTPServer):
            def handle_error(self, *_: Any) -> None:
                pass  # a killed client

        self.http = Http(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    @property
    def environment(self) -> dict[str, str]:
        """The variables that make all three clients use this server, without credentials."""
        return {
            "STORAGE_EMULATOR_HOST": self.url,
            "TENSORSTORE_GCS_HTTP_URL": self.url,
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "token",
            "NO_GCE_CHECK": "true",
            "FSSPEC_GCS_TOKEN": "anon",
            "FSSPEC_GS_TOKEN": "anon",
            # gcsfs otherwise asks by gRPC for the kind of the bucket.
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
        }

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()

    def names(self, prefix: str = "") -> list[str]:
        with self.lock:
            return sorted(name for name in self.objects if name.startswith(prefix))

    def text(self, name: str) -> str:
        with self.lock:
            return self.objects[name][0].decode()

    def put(self, name: str, content: bytes) -> dict[str, Any]:
        with self.lock:
            self.generation += 1
            self.objects[name] = (bytes(content), self.generation)
            return self.about(name)

    def about(self, name: str) -> dict[str, Any]:
        content, generation = self.objects[name]
        return {
            "kind": "storage#object",
            "id": f"bucket/{name}/{generation}",
            "bucket": "bucket",
            "name": name,
            "generation": str(generation),
            "metageneration": "1",
            "size": str(len(content)),
            "contentType": "application/octet-stream",
            "md5Hash": base64.b64encode(hashlib.md5(content).digest()).decode(),
            "timeCreated": DATE,
            "updated": DATE,
            "storageClass": "STANDARD",
            "etag": "x",
        }

    def answer(
        self, method: str, path: str, query: dict[str, str], headers: Any, body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        parts = path.strip("/").split("/")
        uploads = parts[0] == "upload"
        parts = parts[parts.index("b") + 1 :] if "b" in parts else []
        if not parts or parts[0] != "bucket":
            return _error(404, "The specified bucket does not exist.")
        if uploads:
            return self.upload(query, headers, body)
        if len(parts) == 1:
            return _json({"kind": "storage#bucket", "name": "bucket", "id": "bucket"})
        if len(parts) == 2:
            return self.listing(query)
        name = unquote(parts[2])
        if self.failing(method, name):
            return _error(503, "Service Unavailable")
        if len(parts) > 3 and parts[3] == "rewriteTo":
            if name not in self.objects:
                return _error(404, f"No such object: bucket/{name}")
            about = self.put(unquote(parts[7]), self.objects[name][0])
            return _json({"kind": "storage#rewriteResponse", "done": True, "resource": about})
        if len(parts) > 3 and parts[3] == "moveTo":
            if name not in self.objects:
                return _error(404, f"No such object: bucket/{name}")
            return _json(self.put(unquote(parts[5]), self.objects.pop(name)[0]))
        if len(parts) > 3 and parts[3] == "compose":
            sources = [item["name"] for item in json.loads(body)["sourceObjects"]]
            return _json(self.put(name, b"".join(self.objects[s][0] for s in sources)))
        if name not in self.objects:
            return _error(404, f"No such object: bucket/{name}")
        content, generation = self.objects[name]
        if not _matches(query, generation):
            if "ifGenerationMatch" in query:
                return _error(412, "precondition")
            return 304, {}, b""  # the client would take a content for its next answer
        if method == "DELETE":
            del self.objects[name]
            return 204, {}, b""
        if query.get("alt") != "media":
            return _json(self.about(name))
        about = {"x-goog-generation": str(generation), "Last-Modified": _http_date()}
        return _ranged(content, headers.get("Range"), about)

    def listing(self, query: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        items, folders = [], set()
        for name in self.names(prefix):
            if name < query.get("startOffset", "") or name >= query.get("endOffset", "\U0010ffff"):
                continue
            head, found, _ = name[len(prefix) :].partition(delimiter) if delimiter else ("", "", "")
            if found:
                folders.add(prefix + head + delimiter)
            else:
                items.append(self.about(name))
        return _json({"kind": "storage#objects", "items": items, "prefixes": sorted(folders)})

    def upload(
        self, query: dict[str, str], headers: Any, body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        kind = query.get("uploadType")
        if "upload_id" in query:
            name, so_far = self.uploads[query["upload_id"]]
            if self.failing("POST", name):
                return _error(503, "Service Unavailable")
            so_far += body
            if headers.get("Content-Range", "*/*").endswith("/*") and body:
                return 308, {"Range": f"bytes=0-{len(so_far) - 1}"}, b""
            return _json(self.put(name, bytes(so_far)))
        if kind == "resumable":
            self.generation += 1
            name = query.get("name") or json.loads(body)["name"]
            self.uploads[str(self.generation)] = (name, bytearray())
            where = f"{self.url}/upload/storage/v1/b/bucket/o?upload_id={self.generation}"
            return 200, {"Location": where}, b""
        if kind == "multipart":
            name, body = _two_parts(headers["Content-Type"], body)
        else:
            name = query["name"]
        if self.failing("POST", name):
            return _error(503, "Service Unavailable")
        generation = self.objects[name][1] if name in self.objects else 0
        if not _matches(query, generation):
            return _error(412, "precondition")
        return _json(self.put(name, body))


def _two_parts(content_type: str, body: bytes) -> tuple[str, bytes]:
    """Return the name and the content of the object of a multipart upload."""
    mark = content_type.split("boundary=")[1].strip("\"'").encode()
    about, content = body.split(b"--" + mark, 2)[1:]
    content = content[: content.rindex(b"--" + mark)]
    about, content = (re.split(rb"\r?\n\r?\n", part, maxsplit=1)[1] for part in (about, content))
    return json.loads(about)["name"], content.removesuffix(b"\n").removesuffix(b"\r")


def _matches(query: dict[str, str], generation: int) -> bool:
    if "ifGenerationMatch" in query:
        return int(query["ifGenerationMatch"]) == generation
    return int(query.get("ifGenerationNotMatch", -1)) != generation


def _ranged(content: bytes, wanted: str | None, headers: dict[str, str]) -> tuple[int, dict, bytes]:
    if not wanted:
        return 200, headers, content
    first, _, last = wanted.removeprefix("bytes=").partition("-")
    begin = int(first) if first else max(len(content) - int(last), 0)
    end = min(int(last) + 1 if first and last else len(content), len(content))
    if begin >= len(content):
        return 416, {"Content-Range": f"bytes */{len(content)}"}, b""
    headers |= {"Content-Range": f"bytes {begin}-{end - 1}/{len(content)}"}
    return 206, headers, content[begin:end]


def _json(data: Any) -> tuple[int, dict[str, str], bytes]:
    return 200, {"Content-Type": "application/json; charset=UTF-8"}, json.dumps(data).encode()


def _error(code: int, message: str) -> tuple[int, dict[str, str], bytes]:
    return code, *_json({"error": {"code": code, "message": message}})[1:]


def _http_date() -> str:
    return "Thu, 01 Jan 2026 00:00:00 GMT"
