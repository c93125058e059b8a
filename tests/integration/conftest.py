"""Fixtures of the tests that talk to a real MLflow."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.artifacts_fixture import Fabricator, make_workspace


@pytest.fixture(scope="session")
def migrated_db(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database with every migration applied and nothing in it, made once."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    code = f"import mlflow; mlflow.MlflowClient('sqlite:///{path}').search_experiments()"
    subprocess.run([sys.executable, "-P", "-c", code], check=True, capture_output=True)
    return path


@pytest.fixture
def plant(tmp_path: Path, migrated_db: Path, monkeypatch: pytest.MonkeyPatch) -> Fabricator:
    """A workspace with its own MLflow database, policy `auto`, and a finished category `brick`."""
    root = make_workspace(tmp_path / "plant")
    shutil.copy(migrated_db, root / "mlflow.db")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(root)
    fabricate = Fabricator(root)
    fabricate()
    return fabricate
