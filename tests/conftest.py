"""Fixtures that more than one test file needs."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.server import QUICK_SLOTS
from tests import toy as toys

REPO = Path(__file__).resolve().parents[1]
SHARED = REPO.parent / "shared"

os.environ.update(
    DO_NOT_TRACK="true",
    PREFECT_SERVER_ANALYTICS_ENABLED="false",
    MLFLOW_DISABLE_TELEMETRY="true",
    DVC_NO_ANALYTICS="1",
)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real images; tests that need it skip where it is not there."""
    if not (SHARED / "data").is_dir():
        pytest.skip("../shared is not here")
    return SHARED


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh workspace: the project's settings and graph, its own git and DVC, no data yet."""
    root = tmp_path / "workspace"
    root.mkdir()
    for name in ("dvc.yaml", "params.yaml", ".gitignore", ".dvcignore"):
        shutil.copy(REPO / name, root / name)
    for name in ("settings", "mlflow", "components"):
        shutil.copytree(REPO / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost"]
    subprocess.run(["git", "init", "-q", "-b", "main"], cwd=root, check=True)
    subprocess.run(["dvc", "init", "-q"], cwd=root, check=True)
    (root / ".dvc" / "config").write_text((REPO / ".dvc" / "config").read_text())
    subprocess.run(["git", "add", "-A"], cwd=root, check=True)
    subprocess.run([*git, "commit", "-q", "-m", "a workspace"], cwd=root, check=True)
    monkeypatch.chdir(root)
    return root


@pytest.fixture(autouse=True)
def _no_leaked_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """`flows.environment.prepare` names MLflow's store in the process's environment, as a program may; one test's
    workspace must not become the next one's."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="session")
def toy_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy workspace, made once: a copy takes milliseconds, `git init` and `dvc init` a second."""
    return toys.make(tmp_path_factory.mktemp("template")).root


@pytest.fixture
def toy(tmp_path: Path, toy_template: Path, monkeypatch: pytest.MonkeyPatch) -> toys.Toy:
    """A workspace with real DVC and git whose stages take no time; the current folder while the test runs."""
    root = tmp_path / "toy"
    shutil.copytree(toy_template, root)
    monkeypatch.chdir(root)
    return toys.Toy(root)


@pytest.fixture(scope="session")
def prefect_harness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One Prefect server for all tests that run flows, on a database of its own; its address."""
    os.environ["PREFECT_HOME"] = str(tmp_path_factory.mktemp("prefect"))
    os.environ.update(QUICK_SLOTS)
    from prefect.settings import PREFECT_API_URL
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield str(PREFECT_API_URL.value())
