"""Two workers as two hosts: own folders, own network and host names where the kernel lets us make them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

BRIDGE, NET = "kintsugi0", "10.231.77"


@dataclass
class Host:
    """A worker in a folder of its own."""

    name: str
    folder: Path
    process: subprocess.Popen[bytes]
    isolated: bool

    def cut_power(self) -> None:
        """Kill everything that runs on it, at once."""
        if self.isolated:
            found = subprocess.run(["ip", "netns", "pids", self.name], capture_output=True, text=True).stdout.split()
        else:
            found = _family(self.process.pid)
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        self.process.wait()


def _family(pid: int) -> list[str]:
    listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout.split()
    parents = dict(zip(map(int, listed[::2]), map(int, listed[1::2]), strict=True))
    family = {pid}
    while more := {child for child, parent in parents.items() if parent in family} - family:
        family |= more
    return [str(each) for each in family]


def _ip(*words: str) -> bool:
    try:
        return subprocess.run(["ip", *words], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


@contextmanager
def network() -> Iterator[str]:
    """The address by which hosts reach this machine: a bridge's, or 127.0.0.1 where none may be made."""
    if os.geteuid() != 0 or not _ip("link", "add", BRIDGE, "type", "bridge"):
        yield "127.0.0.1"
        return
    try:
        assert _ip("addr", "add", f"{NET}.1/24", "dev", BRIDGE) and _ip("link", "set", BRIDGE, "up")
        yield f"{NET}.1"
    finally:
        _ip("link", "del", BRIDGE)


@contextmanager
def host(number: int, folder: Path, env: Mapping[str, str], isolated: bool) -> Iterator[Host]:
    """A worker of the pool `fleet` on a host of its own."""
    name, home = f"kintsugi-host-{number}", folder / f"host-{number}"
    home.mkdir()
    command = [sys.executable, "-P", "-m", "prefect", "worker", "start", "--pool", "fleet", "--type", "process",
               "--limit", "1", "--name", name]  # fmt: skip
    if isolated:
        near, far = f"kt{number}", f"kt{number}h"
        assert _ip("netns", "add", name)
        assert _ip("link", "add", near, "type", "veth", "peer", "name", far, "netns", name)
        assert _ip("link", "set", near, "master", BRIDGE, "up")
        inside = (
            f"hostname {name} && ip link set lo up && ip addr add {NET}.{number + 1}/24 dev {far} && "
            f'ip link set {far} up && exec "$@"'
        )
        command = ["ip", "netns", "exec", name, "unshare", "--uts", "sh", "-c", inside, "sh", *command]
    own = {
        "KINTSUGI_FLEET_FOLDER": str(home / "checkout"), "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_WORKER_QUERY_SECONDS": "2", "HOME": str(home),
    }  # fmt: skip
    with (home / "worker.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=home, env={**os.environ, **env, **own}, stdout=log, stderr=log, start_new_session=True
        )
    made = Host(name, home, process, isolated)
    try:
        yield made
    finally:
        made.cut_power()
        if isolated:
            _ip("netns", "del", name)
