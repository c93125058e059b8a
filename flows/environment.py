"""The process environment every entry point shares; import it before prefect, mlflow or dvc.

Nothing here overrides what the user has set: each value is a default, so a team's servers are a matter
of environment variables and the embedded case needs none.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

# Defaults that hold from the first import on: these libraries read them once, when they are imported.
for _name, _value in {
    "DO_NOT_TRACK": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DVC_NO_ANALYTICS": "1",
    "GX_ANALYTICS_ENABLED": "false",
    # A Prefect server whose database is away answers 500 or 503: a run waits about four minutes for it.
    "PREFECT_CLIENT_MAX_RETRIES": "7",
    "PREFECT_CLIENT_RETRY_EXTRA_CODES": "500",
    # See components/__main__.py; here for what inspects, serves and rescores in this process.
    "GOMP_SPINCOUNT": "20000",
    # Prefect writes every state change to the terminal; the same log stays readable on the server's
    # pages, and the terminal shows our own progress and tables instead.
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
}.items():
    os.environ.setdefault(_name, _value)


def prepare(root: Path) -> None:
    """Point Prefect and MLflow at the workspace `root` unless the environment already says where.

    Prefect's sqlite lives in `.kintsugi/prefect`, MLflow's in `mlflow.db`; both survive between runs,
    which also saves the seconds that creating them costs.
    """
    os.environ.setdefault("PREFECT_HOME", str(root / ".kintsugi" / "prefect"))
    os.environ.setdefault("MLFLOW_TRACKING_URI", f"sqlite:///{root / 'mlflow.db'}")


def stage_environment() -> dict[str, str]:
    """Return the environment for subprocesses that run stages.

    `python` in dvc.yaml must be this interpreter even when the virtual environment is not activated, and
    its output must arrive line by line rather than when a buffer fills.
    """
    here = str(Path(sys.executable).parent)
    path = os.environ.get("PATH", os.defpath)
    if path.split(os.pathsep)[0] != here:
        path = os.pathsep.join([here, path])
    # `python -m components` must run the workspace's own code, which a safe path would hide behind the installed one.
    given = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    return {**given, "PATH": path, "PYTHONUNBUFFERED": "1"}
