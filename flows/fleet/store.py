"""What the machines of one fleet run share: an object store's folder with locks, checkpoints and signs of life.

Images, outputs and the run-cache travel through DVC's remote; these are the few small files beside them.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar
from uuid import uuid4

import fsspec

from components.errors import UserError

PAUSES = (1.0, 2.0, 5.0, 10.0, 20.0, 40.0, 60.0, 60.0)  # seconds; a store that is away comes back
PLACE = "KINTSUGI_FLEET"  # the variable that names it: s3://bucket/prefix

P = ParamSpec("P")
R = TypeVar("R")


def patiently(function: Callable[P, R]) -> Callable[P, R]:
    """Try again while the store does not answer; FileNotFoundError is an answer."""

    @functools.wraps(function)
    def attempt(*args: P.args, **kwargs: P.kwargs) -> R:
        for pause in PAUSES:
            try:
                return function(*args, **kwargs)
            except FileNotFoundError:
                raise
            except Exception:  # each kind of store has errors of its own
                time.sleep(pause)
        return function(*args, **kwargs)

    return attempt


class Store:
    """One run's folder. Contents are written whole or not at all, as object stores do."""

    def __init__(self, address: str, run: str) -> None:
        options: dict[str, Any] = {"use_listings_cache": False} if "://" in address else {}
        self.system, base = fsspec.core.url_to_fs(address, **options)
        self.base = f"{base.rstrip('/')}/{run}"

    @patiently
    def put(self, name: str, content: bytes) -> None:
        """Write an object."""
        path = f"{self.base}/{name}"
        if "file" not in self.system.protocol:
            self.system.pipe_file(path, content)
            return
        self.system.makedirs(self.system._parent(path), exist_ok=True)
        beside = f"{path}.{uuid4().hex}"  # a plain file is not whole while it is written
        self.system.pipe_file(beside, content)
        os.replace(beside, path)

    @patiently
    def _get(self, name: str) -> bytes:
        return bytes(self.system.cat_file(f"{self.base}/{name}"))

    def get(self, name: str) -> bytes | None:
        """An object's content, None when there is none."""
        try:
            return self._get(name)
        except FileNotFoundError:
            return None

    def drop(self, name: str) -> None:
        """Remove an object; nothing happens when it is gone already."""
        try:
            patiently(self.system.rm_file)(f"{self.base}/{name}")
        except FileNotFoundError:
            return


def place() -> str:
    """The address that the environment names; UserError without one."""
    address = os.environ.get(PLACE, "")
    if not address:
        raise UserError(f"a fleet shares a folder of the object store; set {PLACE}, for example s3://kintsugi/fleet")
    return address
