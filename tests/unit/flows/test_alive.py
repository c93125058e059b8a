"""Whether a process is gone: by its number and its beginning, and only where that can be known."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from flows.adapters import alive

ASK = "from flows.adapters import alive; print(alive.this(), flush=True); input()"


def test_a_process_lives_until_it_has_ended() -> None:
    child = subprocess.Popen([sys.executable, "-c", ASK], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    told = child.stdout.readline().strip()
    assert told.split("/")[-2] == str(child.pid)
    assert alive.lives(told) and not alive.gone(told)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # dead, and not yet buried
    assert alive.gone(told) and not alive.lives(told)
    child.wait()
    assert alive.gone(told)


def test_a_later_process_with_the_same_number_is_another_one() -> None:
    namespace, number, start = alive.this().rsplit("/", 2)
    assert alive.lives(alive.this()) and not alive.gone(alive.this())
    assert alive.gone(f"{namespace}/{number}/{start}0") and not alive.lives(f"{namespace}/{number}/{start}0")


@pytest.mark.parametrize("told", ["", "pid:[1]/1/1", "elsewhere/999999999/5", "/x/y"])
def test_what_another_namespace_or_an_older_record_says_is_not_known(told: str) -> None:
    assert not alive.gone(told) and not alive.lives(told)


def test_another_users_process_whose_times_are_hidden_is_not_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(number: int, signal: int) -> None:
        raise PermissionError

    told = alive.this()
    monkeypatch.setattr(os, "kill", forbidden)
    monkeypatch.setattr(alive, "_start", lambda number: "")
    assert not alive.gone(told)
