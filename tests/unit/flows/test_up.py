"""`kintsugi up` with small servers in place of the large ones: start, twice, stop, and one that dies."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from components.errors import UserError
from flows import server, up
from flows.adapters import alive
from flows.server import free_port, healthy

SMALL = """
import http.server, sys
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Answer).serve_forever()
"""


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> up.Addresses:
    """A plan of two small servers."""
    ports = free_port(), free_port()
    bases = [f"http://127.0.0.1:{port}" for port in ports]
    addresses = up.Addresses(os.getpid(), bases[0], f"{bases[0]}/api", bases[1])
    servers = [
        up.Server(name, (sys.executable, "-c", SMALL, str(port)), {}, tmp_path / ".kintsugi" / f"{name}.log")
        for name, port in zip(("Prefect", "MLflow"), ports, strict=True)
    ]
    monkeypatch.setattr(up, "plan", lambda *arguments: (addresses, servers))
    return addresses


def wait_for(condition: object) -> None:
    deadline = time.monotonic() + 20
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_starts_once_and_stops_cleanly(tmp_path: Path, small: up.Addresses) -> None:
    stop = threading.Event()
    said: list[str] = []
    thread = threading.Thread(target=up.up, args=(tmp_path,), kwargs={"say": said.append, "stop": stop})
    thread.start()
    wait_for(lambda: any("Ctrl-C" in line for line in said))
    record = json.loads((tmp_path / ".kintsugi/up.json").read_text())
    assert record["prefect_api"] == small.prefect_api

    again: list[str] = []
    up.up(tmp_path, say=again.append)
    assert again[0].startswith("already running") and small.mlflow in again[0]

    stop.set()
    thread.join(20)
    assert not thread.is_alive()
    assert not healthy(small.mlflow) and not healthy(small.prefect)
    assert not (tmp_path / ".kintsugi/up.json").exists()


def test_a_run_waits_for_a_server_that_is_slow_and_not_for_one_that_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    record = tmp_path / ".kintsugi/up.json"
    record.parent.mkdir()
    url = f"http://127.0.0.1:{free_port()}/api"  # nobody answers there
    for process, found in ((alive.this(), url), (f"{alive.this()}0", None), ("", None)):
        record.write_text(json.dumps(asdict(up.Addresses(1, "", url, "", process))))
        assert server._up(tmp_path) == found
    record.write_text("[]")
    assert server._up(tmp_path) is None


def test_a_server_that_dies_takes_the_other_along(
    tmp_path: Path, small: up.Addresses, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, servers = up.plan(tmp_path, "", 0, 0)
    dying = up.Server("MLflow", (sys.executable, "-c", "raise SystemExit(3)"), {}, servers[1].log)
    monkeypatch.setattr(up, "plan", lambda *arguments: (small, [servers[0], dying]))
    with pytest.raises(UserError, match="MLflow's server ended by itself"):
        up.up(tmp_path, say=lambda line: None)
    assert not healthy(small.prefect)


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_prefects_page_asks_the_machine_that_it_came_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    _, (prefect, _) = up.plan(tmp_path, host, 4200, 5000)
    assert prefect.env["PREFECT_UI_API_URL"] == "/api"


def test_ports_and_servers_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.plant:5000")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        addresses, servers = up.plan(tmp_path, "127.0.0.1", port, 5000)
    assert [server.name for server in servers] == ["Prefect"]  # the plant has its MLflow
    assert addresses.mlflow == "http://mlflow.plant:5000"
    assert port < int(addresses.prefect.rsplit(":", 1)[1]) < port + 100  # the next free one
