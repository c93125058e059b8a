"""`python -m flows.team.server`: MLflow's server with names, passwords and rights, set up by environment variables.

MLFLOW_BACKEND_STORE_URI          runs and models, for example postgresql+psycopg2://…/mlflow
KINTSUGI_AUTH_STORE_URI           users and rights, a database of its own
MLFLOW_ARTIFACTS_DESTINATION      s3://bucket/prefix; clients send and fetch files through the server
MLFLOW_AUTH_ADMIN_PASSWORD        at the first start, of the user `admin`
MLFLOW_FLASK_SERVER_SECRET_KEY    signs the pages' forms
MLFLOW_SERVER_ALLOWED_HOSTS       names by which clients reach it, with and without the port
"""

from __future__ import annotations

import argparse
import configparser
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from components.errors import UserError

NEEDED = {
    "MLFLOW_BACKEND_STORE_URI": "the address of the database for runs and models",
    "KINTSUGI_AUTH_STORE_URI": "the address of the database for users and rights",
    "MLFLOW_ARTIFACTS_DESTINATION": "where files go, for example s3://kintsugi/mlflow",
    "MLFLOW_AUTH_ADMIN_PASSWORD": "a password for the user `admin`",
    "MLFLOW_FLASK_SERVER_SECRET_KEY": "a secret key, for example from `openssl rand -hex 24`",
}
# Who is signed in may read; every right to write is given by a role of mlflow/rights.yaml.
SETTINGS = {
    "default_permission": "READ",
    "admin_username": "admin",
    "authorization_function": "flows.team.guard:authenticate",
    # Verifying a password takes most of a second of CPU, several times a request. The price of remembering it: a
    # password that was changed through another of the server's processes stays good for so many seconds.
    "auth_cache_ttl_seconds": "60",
}


def check(given: Mapping[str, str]) -> None:
    """Raise UserError for what the environment lacks, all of it in one line."""
    lacking = [f"{name} ({what})" for name, what in NEEDED.items() if not given.get(name)]
    if lacking:
        raise UserError(f"MLflow's server needs {'; '.join(lacking)}; set it in the environment")


def write_settings(folder: Path, store: str) -> Path:
    """Write the basic-auth settings, which hold the database's password, for this user's eyes only."""
    parser = configparser.ConfigParser(interpolation=None)  # a password may hold a percent sign
    parser["mlflow"] = {**SETTINGS, "database_uri": store}
    path = folder / "auth.ini"
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        parser.write(file)
    return path


def command(host: str, port: int, workers: int) -> list[str]:
    """The server's command line; stores and files are named by its own environment variables."""
    return [
        sys.executable, "-P", "-m", "mlflow", "server", "--app-name", "basic-auth",
        "--host", host, "--port", str(port), "--workers", str(workers),
    ]  # fmt: skip


def environment(given: Mapping[str, str], settings: Path) -> dict[str, str]:
    """The server's environment."""
    return {
        **given,
        "MLFLOW_AUTH_CONFIG_PATH": str(settings),
        # Job execution is for MLflow's language-model features and takes half a gigabyte.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "PYTHONSAFEPATH": "1",  # the server's own workers must not take a folder mlflow/ for the package
    }


def main(arguments: list[str]) -> int:
    """Become the server; 1 when the environment lacks something."""
    parser = argparse.ArgumentParser(prog="python -m flows.team.server", description=__doc__.splitlines()[0])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=5000)
    parser.add_argument("--workers", type=int, default=2)
    chosen = parser.parse_args(arguments)
    try:
        check(os.environ)
    except UserError as error:
        print(f"kintsugi: {error}", file=sys.stderr)
        return 1
    settings = write_settings(Path(tempfile.mkdtemp(prefix="kintsugi-")), os.environ["KINTSUGI_AUTH_STORE_URI"])
    words = command(chosen.host, chosen.port, chosen.workers)
    os.execvpe(words[0], words, environment(os.environ, settings))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
