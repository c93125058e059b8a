"""What files, databases and servers do to a command is told in one line; a mistake of the code is not hidden."""

from __future__ import annotations

import urllib.error
from pathlib import Path
from typing import Any

import pytest
import requests
import sqlalchemy.exc
import urllib3
from mlflow.exceptions import MlflowException, RestException

from flows.cli import failures
from tests.toy import Toy
from tests.unit.flows.test_cli import answer, call

HIDDEN = "secret"  # pragma: allowlist secret


@pytest.fixture
def _store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://ann:{HIDDEN}@mlflow.example.org")


@pytest.mark.usefixtures("_store")
@pytest.mark.parametrize(
    ("error", "line"),
    [
        (FileExistsError(17, "File exists", "out"), "out cannot be used (File exists); check the path"),
        (PermissionError(13, "Permission denied", "/x/trail.html"), "/x/trail.html cannot be used (Permission denied)"),
        (OSError(30, "Read-only file system", "audit"), "audit cannot be used (Read-only file system)"),
        (OSError(28, "No space left on device", "x"), "the disk is full"),
        (MlflowException(f"API request to http://ann:{HIDDEN}@mlflow.example.org/api failed with\nexception x"),
         "MLflow at http://mlflow.example.org does not answer (API request to http://mlflow.example.org/api failed"),
        (RestException({"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no such artifact"}),
         "MLflow failed: RESOURCE_DOES_NOT_EXIST: no such artifact; check its store, http://mlflow.example.org, and"),
        (sqlalchemy.exc.OperationalError("SELECT 1", {}, Exception("attempt to write a readonly database")),
         "MLflow failed: (builtins.Exception) attempt to write a readonly database"),
        (requests.ConnectionError("no route to host"), "a server does not answer (no route to host)"),
        (urllib3.exceptions.ProtocolError("cut off"), "a server does not answer (cut off)"),
        (ConnectionRefusedError(111, "Connection refused"), "a server does not answer ([Errno 111] Connection refused"),
        (urllib.error.URLError("timed out"), "a server does not answer (<urlopen error timed out>)"),
    ],
)  # fmt: skip
def test_one_line_that_says_what_to_do(
    toy: Toy, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception, line: str
) -> None:
    answer(monkeypatch, error)
    assert call("run") == 1
    out, err = capsys.readouterr()
    assert out == "" and "Traceback" not in err and HIDDEN not in err
    assert err.splitlines()[-1].startswith(f"kintsugi: {line}") and "; " in err
    monkeypatch.setenv(failures.DEBUG, "1")
    assert call("run") == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("error", [ValueError("a mistake"), OSError("no file is named")])
def test_a_mistake_of_the_code_keeps_its_traceback(toy: Toy, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    answer(monkeypatch, error)
    with pytest.raises(type(error)):
        call("run")


def fail(*_: Any, **__: Any) -> Any:
    raise AssertionError("came further than its output folder")


def test_an_output_folder_that_is_a_file(
    toy: Toy, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    toy.write("out", "a file")
    toy.write("a.png", "an image")
    monkeypatch.setattr("flows.inspection.champion", lambda *_: (None, "production.bolt/1"))
    monkeypatch.setattr("flows.inspection._inspect_group", fail)
    assert call("inspect", "bolt", "a.png", "--out", "out") == 1
    assert capsys.readouterr().err.startswith("kintsugi: out cannot be used (File exists); ")
    assert Path("out").read_text() == "a file"


def test_a_store_that_is_no_database(toy: Toy, capsys: pytest.CaptureFixture[str]) -> None:
    toy.write("mlflow.db", "no database")
    assert call("history", "bolt") == 1
    err = capsys.readouterr().err
    assert err.startswith("kintsugi: MLflow failed: ") and "not a database" in err and err.count("\n") == 1
