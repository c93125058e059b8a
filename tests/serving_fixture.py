"""A server of a real, untrained bundle without a registry behind it, and images to send."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from fastapi.testclient import TestClient

from components.inspector import Inspector
from flows.serving import Follower, Limits, create_app
from flows.serving.follower import Loaded
from tests.artifacts_fixture import write_bundle

MODEL = "production.brick/7"


class Standing(Follower):
    """A follower whose champion never changes."""

    def __init__(self, root: Path, loaded: Loaded | None) -> None:
        super().__init__(root, "brick", "cpu")
        self.loaded = loaded

    def refresh(self) -> bool:
        """Nothing new."""
        return False


def standing(folder: Path) -> Standing:
    """A server's champion: a tiny bundle written into the folder, which is the workspace too."""
    write_bundle(folder / "package")
    return Standing(folder, Loaded(MODEL, Inspector.load(folder / "package")))


def client(follower: Follower, limits: Limits | None = None, key: str | None = None) -> TestClient:
    """A client of the server, to be entered; an unexpected error in the server is a status, as it is outside."""
    return TestClient(create_app(follower, 60, limits, key), raise_server_exceptions=False)


def noise(height: int = 60, width: int = 80, seed: int = 0) -> np.ndarray:
    """An image (H, W, 3) uint8 that is nothing but noise."""
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3)).astype(np.uint8)


def png(image: np.ndarray | None = None, kind: str = ".png") -> bytes:
    """An image file."""
    return cv2.imencode(kind, noise() if image is None else image)[1].tobytes()


def text(content: bytes) -> str:
    """Base64."""
    return base64.b64encode(content).decode()


def pixels(encoded: str) -> Any:
    """A picture of an answer, decoded."""
    return cv2.imdecode(np.frombuffer(base64.b64decode(encoded), np.uint8), cv2.IMREAD_UNCHANGED)
