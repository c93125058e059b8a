"""A PostgreSQL cluster of the test's own: Debian's package, a temporary folder, a free port."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from flows.server import free_port

USER = "postgres"  # the package's; the server refuses to run as root


@contextmanager
def cluster(*databases: str) -> Iterator[dict[str, str]]:
    """Start a cluster with these empty databases; yields name -> host, port and name for an address.

    Skips the test where PostgreSQL or a driver is not installed.
    """
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip("PostgreSQL is not installed (apt install postgresql)")
    for driver in ("psycopg2", "asyncpg"):
        if importlib.util.find_spec(driver) is None:
            pytest.skip(f"{driver} is not installed (pip install kintsugi[team])")
    binaries, port = found[-1].parent, free_port()
    # Not below pytest's folder: only its owner may look into that.
    home = Path(tempfile.mkdtemp(prefix="kintsugi-postgres-"))
    as_user: list[str] = []
    if os.geteuid() == 0:
        owner = pwd.getpwnam(USER)
        os.chown(home, owner.pw_uid, owner.pw_gid)
        as_user = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--init-groups"]

    def run(program: str, *arguments: str) -> None:
        # No pipes: the server would inherit them, and reading would wait for its end.
        with (home.parent / f"{home.name}.log").open("ab") as log:
            command = [*as_user, str(binaries / program), *arguments]
            subprocess.run(command, cwd=home, check=True, stdout=log, stderr=log)

    options = f"-p {port} -k {home} -c listen_addresses=127.0.0.1 -c fsync=off -c max_connections=200"
    try:
        run("initdb", "-D", str(home / "data"), "-U", USER, "--auth=trust", "--no-sync", "-E", "UTF8")
        run("pg_ctl", "-D", str(home / "data"), "-o", options, "-w", "start")
        try:
            for name in databases:
                run("createdb", "-h", "127.0.0.1", "-p", str(port), "-U", USER, name)
            yield {name: f"{USER}@127.0.0.1:{port}/{name}" for name in databases}
        finally:
            run("pg_ctl", "-D", str(home / "data"), "-m", "immediate", "stop")
    finally:
        shutil.rmtree(home, ignore_errors=True)
        (home.parent / f"{home.name}.log").unlink(missing_ok=True)
