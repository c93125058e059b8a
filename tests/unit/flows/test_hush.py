"""Silence of one thread: others are heard, and in whatever order it ends the streams are there again."""

from __future__ import annotations

import sys
import threading

import pytest

from flows.adapters.hush import hushed


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_two_threads_that_overlap_leave_the_stream_as_it_was(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = getattr(sys, name)
    entered, left = threading.Event(), threading.Event()

    def first() -> None:
        with hushed(name):
            print("first", file=getattr(sys, name))
            entered.wait(10)
        left.set()

    def second() -> None:
        with hushed(name):
            entered.set()
            left.wait(10)
            print("second", file=getattr(sys, name))

    threads = [threading.Thread(target=each) for each in (first, second)]
    for thread in threads:
        thread.start()
    entered.wait(10)
    print("a third", file=getattr(sys, name))
    for thread in threads:
        thread.join()
    assert getattr(sys, name) is before
    print("after", file=getattr(sys, name))
    assert getattr(capsys.readouterr(), name.removeprefix("std")) == "a third\nafter\n"


def test_silence_within_silence_and_after_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="broken"), hushed("stdout"):
        with hushed("stdout"):
            print("inner")
        print("outer")
        raise ValueError("broken")
    print("heard")
    assert capsys.readouterr().out == "heard\n"
