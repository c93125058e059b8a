"""The command line: what goes to which stream, exit codes, and nothing heavy imported before it is needed."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from components.errors import UserError
from flows import cli
from flows.adapters.process import StoppedError
from flows.outcome import CategoryOutcome, StageOutcome
from tests.conftest import REPO
from tests.toy import Toy

COMMANDS = (
    "sample", "import", "run", "inspect", "promote", "refuse", "rollback", "history", "audit", "reproduce", "up",
    "status", "ingest", "compare", "choose", "serve",
)  # fmt: skip


@dataclass(frozen=True)
class Check:
    name: str
    value: float
    limit: float
    verdict: str
    reason: str


@dataclass(frozen=True)
class Gates:
    checks: tuple[Check, ...]

    @property
    def failed(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if check.verdict == "fail")


@dataclass(frozen=True)
class Publication:
    status: str
    message: str
    gates: Gates


CHECKS = (Check("image_auroc", 0.7, 0.8, "fail", "below"), Check("pixel_auroc", 0.9, 0.8, "pass", ""))
STAGE = StageOutcome("augment", "bolt", "skipped", 0.0, "unchanged")
REFUSED = CategoryOutcome("bolt", (STAGE,), Publication("refused", "it was refused: image_auroc", Gates(CHECKS)))
PROMOTED = CategoryOutcome("bolt", (STAGE,), Publication("promoted", "it serves", Gates(CHECKS[1:])))
FAILED = CategoryOutcome("bolt", (StageOutcome("augment", "bolt", "failed", 1.0, "no images"),))


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main(list(arguments))
    code = ended.value.code
    assert isinstance(code, int)
    return code


def answer(monkeypatch: pytest.MonkeyPatch, outcome: Any) -> None:
    def run(root: Path, categories: Any) -> list[CategoryOutcome]:
        print("a library prints something")
        if isinstance(outcome, BaseException):
            raise outcome
        return [outcome]

    monkeypatch.setattr("flows.run.run", run)


def test_help_names_every_command_and_loads_nothing_heavy() -> None:
    script = (
        "import sys\n"
        "from flows import cli\n"
        "try:\n    cli.main(['--help'])\n"
        "finally:\n"
        "    heavy = {'torch', 'prefect', 'mlflow', 'pandas', 'numpy', 'dvc', 'cv2'} & set(sys.modules)\n"
        "    assert not heavy, heavy\n"
    )
    times = []
    for _ in range(3):
        before = time.monotonic()
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        times.append(time.monotonic() - before)
        assert done.returncode == 0, done.stderr
    assert all(f"{command} " in done.stdout for command in COMMANDS)
    assert min(times) < 1.5  # 0.25 s on an idle machine


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(command, "--help") == 0
    assert command in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--version") == 0
    assert capsys.readouterr().out.startswith("kintsugi 0.")


def test_a_wrong_command_offers_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("promot") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith("kintsugi: ") and "'promote'" in error


@pytest.mark.parametrize(
    "command", [["inspect", "botl", "x.png", "--out", "o"], ["audit", "botl"], ["history", "botl"], ["run", "botl"]]
)
def test_a_wrong_category_offers_the_nearest(command: list[str], toy: Toy, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(*command) == 1
    assert capsys.readouterr().err == "kintsugi: unknown category 'botl'; did you mean 'bolt'?\n"


def test_outside_of_a_workspace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call("status") == 1
    assert "not inside a Kintsugi workspace" in capsys.readouterr().err


def test_a_decision_needs_a_name_and_a_reason(toy: Toy, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("promote", "bolt", "--by", "Ada") == 2
    assert "--why" in capsys.readouterr().err


@pytest.mark.parametrize(("outcome", "code"), [(PROMOTED, 0), (REFUSED, 1), (FAILED, 1)])
def test_json_is_alone_on_standard_output(
    toy: Toy, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], outcome: CategoryOutcome, code: int
) -> None:
    answer(monkeypatch, outcome)
    assert call("run", "--json") == code
    (report,) = json.loads(capsys.readouterr().out)
    assert report["ok"] is (code == 0)
    assert report["stages"][0]["reason"]


def test_a_refusal_shows_the_checks_that_failed(
    toy: Toy, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answer(monkeypatch, REFUSED)
    assert call("run", "bolt") == 1
    out, err = capsys.readouterr()
    assert "image_auroc" in out and "0.7" in out and "0.8" in out
    assert "pixel_auroc" not in out
    assert "kintsugi: it was refused: image_auroc" in err


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("no such thing;\n do another"), 1, "kintsugi: no such thing; do another"),
        (StoppedError(), 130, "kintsugi: stopped; the next run resumes from the last checkpoint"),
        (KeyboardInterrupt(), 130, ""),
        (OSError(28, "No space left on device"), 1, "kintsugi: the disk is full"),
    ],
)
def test_errors_are_one_line(
    toy: Toy,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    line: str,
) -> None:
    answer(monkeypatch, error)
    assert call("run") == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[-1].startswith(line)
    assert "Traceback" not in err


def test_import_hands_on_what_it_was_given(
    toy: Toy, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import types

    given: dict[str, Any] = {}

    def import_category(root: Path, kind: str, source: Path, category: str, **options: Any) -> dict[str, int]:
        given.update(kind=kind, source=source, category=category, **options)
        return {"train": 60}

    module = types.ModuleType("flows.data")
    module.import_category = import_category  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flows.data", module)
    monkeypatch.setattr("flows.data", module, raising=False)
    assert call("import", "folder", "photos", "-c", "nut", "--defects", "bad", "--policy", "texture", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"train": 60}
    assert given == {
        "kind": "folder", "source": Path("photos"), "category": "nut", "policy": "texture", "replace": False,
        "defects": Path("bad"),
    }  # fmt: skip


@pytest.mark.parametrize(("options", "log"), [((), True), (("--no-log",), False)])
def test_inspect_logs_scores_unless_told_not_to(
    toy: Toy, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], log: bool
) -> None:
    import pandas as pd

    given: dict[str, Any] = {}

    def inspect(root: Path, category: str, paths: Any, out: Path, **others: Any) -> pd.DataFrame:
        given.update(others)
        return pd.DataFrame({"path": ["a.png"], "verdict": ["normal"], "error": [""]})

    monkeypatch.setattr("flows.inspection.inspect", inspect)
    assert call("inspect", "bolt", "a.png", "--out", "out", *options, "--json") == 0
    assert given == {"device": None, "log": log}


def test_the_samples_defects_are_not_drift() -> None:
    recipe = (REPO / "Makefile").read_text()
    assert [line.split()[-1] for line in recipe.splitlines() if "kintsugi inspect" in line] == ["--no-log"]


def test_status_of_a_fresh_workspace(
    toy: Toy, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{toy.root / 'mlflow.db'}")
    assert call("status", "--json") == 0
    bolt, tile = json.loads(capsys.readouterr().out)
    assert (bolt["category"], tile["category"]) == ("bolt", "tile")
    assert [stage["reason"] for stage in bolt["stages"]] == ["it has never run"] * 3
    assert bolt["champion"] == bolt["waiting"] == bolt["last_run"] == ""
    assert not (toy.root / "mlflow.db").exists()  # looking changes nothing
