"""Small web servers of different manners, on the loopback interface."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar


class Plain(SimpleHTTPRequestHandler):
    """What ``python -m http.server`` is: no ranges."""

    root = Path()
    requests: ClassVar[list[str]] = []
    protocol_version = "HTTP/1.1"

    def translate_path(self, path: str) -> str:
        return str(self.root / path.lstrip("/"))

    def log_message(self, format: str, *args: Any) -> None:
        self.requests.append(f"{self.command} {self.path} {self.headers.get('Range', '')}".strip())


class Ranges(Plain):
    """A web server that knows ranges. Cuts the connection after ``cut_after`` bytes of a range, ``cuts`` times;
    answers ``errors`` before that."""

    cuts = 0
    cut_after = 0
    errors: ClassVar[list[int]] = []

    def do_GET(self) -> None:
        if self.errors:
            self.send_response(self.errors.pop(0))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        path = Path(self.translate_path(self.path))
        if not match or not path.is_file():
            super().do_GET()
            return
        data = path.read_bytes()
        first, last = int(match[1]), min(int(match[2]), len(data) - 1)
        if first >= len(data):
            self.send_error(416)
            return
        body = data[first : last + 1]
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if type(self).cuts > 0:
            type(self).cuts -= 1
            self.wfile.write(body[: self.cut_after])
            self.wfile.flush()
            self.connection.close()
            self.close_connection = True
            return
        self.wfile.write(body)


@contextmanager
def serve(kind: type[BaseHTTPRequestHandler], root: Path, **manners: Any) -> Iterator[tuple[str, Any]]:
    """URL and the handler class, whose ``requests`` tell what was asked."""
    handler = type(kind.__name__, (kind,), {"root": root, "requests": [], **manners})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/", handler
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
