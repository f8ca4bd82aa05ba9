"""A plain web server for a folder, on this machine only."""

from __future__ import annotations

import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.lab.programs import LabError, end_group, free_port, start

CONFIGURATION = """\
daemon off;
user root;
worker_processes {workers};
pid {state}/pid;
error_log {state}/error.log;
events {{ worker_connections 256; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 100000;
    client_body_temp_path {state}/body;
    proxy_temp_path {state}/proxy;
    fastcgi_temp_path {state}/fastcgi;
    uwsgi_temp_path {state}/uwsgi;
    scgi_temp_path {state}/scgi;
    server {{ listen 127.0.0.1:{port}; root {folder}; }}
}}
"""
PATIENCE_S = 20.0


@contextmanager
def serving(nginx: Path, folder: Path, state: Path) -> Iterator[str]:
    """URL of ``folder``, served until the block ends; what the server keeps lies in ``state``."""
    port = free_port()
    configuration = state / "nginx.conf"
    configuration.write_text(
        CONFIGURATION.format(workers=os.cpu_count() or 1, state=state, port=port, folder=folder)
    )  # fmt: skip
    with (state / "said").open("wb") as output:
        child = start([nginx, "-p", state, "-c", configuration], output=output)
        try:
            wait_for(port, state)
            yield f"http://127.0.0.1:{port}"
        finally:
            end_group(child)


def wait_for(port: int, state: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not answers(port):
        if time.monotonic() > deadline:
            said = (state / "said").read_text(errors="replace")
            raise LabError(f"nginx did not answer on port {port} within {PATIENCE_S:.0f} s:\n{said[-2000:]}")
        time.sleep(0.1)


def answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5):
            return True
    except urllib.error.HTTPError:
        return True
    except (OSError, urllib.error.URLError):
        return False
