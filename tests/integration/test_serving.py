"""`mlflow models serve` in a folder outside the checkout answers with score, verdict and map."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from components import scorelog
from flows.adapters import tracking
from flows.environment import stage_environment
from flows.publish import publish
from tests.artifacts_fixture import REPO, Fabricator, make_workspace, write_bundle

START = 90  # seconds for torch and MLflow to be imported on a busy machine
MARK = "\nprint('inspector of', __file__, flush=True)\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, migrated_db: Path) -> Iterator[tuple[str, Path]]:
    """A promoted real bundle behind MLflow's own server: its address, and the file of what it printed."""
    base = tmp_path_factory.mktemp("serving")
    root = make_workspace(base / "plant")
    shutil.copy(migrated_db, root / "mlflow.db")
    shutil.copytree(REPO / "components", root / "components", ignore=shutil.ignore_patterns("__pycache__"))
    with (root / "components" / "inspector.py").open("a") as code:
        code.write(MARK)  # so that the output tells whose code answers
    fabricate = Fabricator(root)
    fabricate()
    write_bundle(root / "artifacts" / "brick" / "package")
    fabricate.record("brick")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        assert publish(root, "brick").status == "promoted"
        address = tracking.tracking_uri(root)
    shutil.rmtree(root / "components")  # the machine that serves has no checkout
    shutil.rmtree(root / "artifacts")
    elsewhere = base / "elsewhere"
    elsewhere.mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    said = elsewhere / "said.txt"
    command = [sys.executable, "-P", "-m", "mlflow", "models", "serve", "-m", "models:/production.brick@champion"]
    with said.open("w") as output:
        process = subprocess.Popen(
            [*command, "--env-manager", "local", "--port", str(port)],
            cwd=elsewhere,
            env=stage_environment() | {"MLFLOW_TRACKING_URI": address, scorelog.PLACE: str(elsewhere / "scores")},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        _wait(f"{url}/ping", process, said)
        yield url, said
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait(url: str, process: subprocess.Popen[bytes], said: Path) -> None:
    deadline = time.monotonic() + START
    while time.monotonic() < deadline:
        assert process.poll() is None, said.read_text()
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.3)
    raise AssertionError(said.read_text())


def ask(url: str, images: list[str], **params: Any) -> list[dict[str, Any]]:
    body = {"dataframe_split": {"columns": ["image"], "data": [[i] for i in images]}, "params": params}
    request = urllib.request.Request(
        f"{url}/invocations", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())["predictions"]


def encoded(image: np.ndarray, kind: str = ".png") -> str:
    return base64.b64encode(cv2.imencode(kind, image)[1].tobytes()).decode()


NOISE = np.random.default_rng(0).integers(0, 255, (48, 80, 3), dtype=np.uint8)


@pytest.mark.slow
def test_the_champion_answers_with_score_verdict_and_map(server: tuple[str, Path]) -> None:
    url, said = server
    rows = ask(url, [encoded(NOISE), encoded(NOISE, ".jpg")])
    assert len(rows) == 2
    row = rows[0]
    assert row["verdict"] == ("defective" if row["score"] > row["threshold"] else "normal")
    levels = cv2.imdecode(np.frombuffer(base64.b64decode(row["map"]), np.uint8), cv2.IMREAD_UNCHANGED)
    assert levels.shape == (64, 64) and levels.dtype == np.uint16
    assert levels.max() == 65535 and row["map_max"] >= row["score"]
    scores = levels / 65535 * row["map_max"]
    for box in row["regions"]:
        region = scores[box["y"] : box["y"] + box["height"], box["x"] : box["x"] + box["width"]]
        assert region.max() > row["pixel_threshold"]
    (first, *_) = scorelog.recent(said.parent / "scores" / "brick", datetime.now(UTC) - timedelta(hours=1)).itertuples()
    assert first.score == pytest.approx(row["score"]) and 0 < first.least_likelihood < 1
    assert first.model.startswith("sha256:") and first.path == "row 0"
    assert "mlartifacts" in said.read_text().split("inspector of", 1)[1].splitlines()[0]


@pytest.mark.slow
def test_the_map_may_be_left_out_and_every_depth_is_read(server: tuple[str, Path]) -> None:
    deep = NOISE.astype(np.uint16) * 257
    rows = ask(server[0], [encoded(NOISE), encoded(deep), encoded(NOISE[..., 0])], return_map=False)
    assert all("map" not in row for row in rows)
    assert rows[0]["score"] == pytest.approx(rows[1]["score"], rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("content", [None, b"GIF89a nonsense", b"", b"\x89PNG\r\n\x1a\n and then no more"])
def test_what_is_no_image_is_refused_and_its_row_named(server: tuple[str, Path], content: bytes | None) -> None:
    image = "not base64!" if content is None else base64.b64encode(content).decode()
    with pytest.raises(urllib.error.HTTPError) as refused:
        ask(server[0], [encoded(NOISE), image])
    assert refused.value.code == 400
    assert "row 1" in refused.value.read().decode()
