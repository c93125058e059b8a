"""A category appears whole or not at all.

It is built in a scratch folder beside `data/` (same disk, never inside it: `data/` is versioned as one), and
moved into place by a rename. Killed at any moment, the old category stands or comes back with the next import.
"""

from __future__ import annotations

import errno
import fcntl
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from components.errors import UserError

SCRATCH = ".kintsugi"
FULL = (errno.ENOSPC, errno.EDQUOT)
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


@dataclass(frozen=True)
class Stage:
    """Where an import works: `category` becomes data/<category>, `scratch` is thrown away."""

    category: Path
    scratch: Path


def check_name(category: str) -> None:
    """Raise UserError for a name that a stage id, a model's name or a settings path cannot hold."""
    if not NAME.fullmatch(category):
        raise UserError(
            f"'{category}' cannot name a category; use up to 64 letters, digits, '_' and '-', a letter or digit first"
        )


@contextmanager
def staged(data_root: Path, category: str, replace: bool = False, part: str = "") -> Iterator[Stage]:
    """Give folders to build a category in; put it in place when the block ends without an error.

    With `part` only that folder of the category is put in place, from the folder of that name in `Stage.category`.
    Raises UserError when the category exists and `replace` is False, when another import is running in this
    workspace, and when the disk is full; whatever is raised, the category is as it was.
    """
    check_name(category)
    place = Path(category, part)
    target = data_root.resolve() / place
    home = data_root.resolve().parent / SCRATCH
    try:
        home.mkdir(parents=True, exist_ok=True)
        with _only_import(home):
            _recover(home, data_root.resolve())
            if target.exists() and not replace:
                if part:
                    raise UserError(f"data/{place} is there already; replace it (--replace)")
                raise UserError(f"data/{place} is there already; choose another name, or replace it (--replace)")
            work = Path(tempfile.mkdtemp(prefix="import-", dir=home))
            try:
                stage = Stage(work / "new", work / "scratch")
                stage.category.mkdir()
                stage.scratch.mkdir()
                yield stage
                # No category's name has a dot in it.
                _put(stage.category / part, target, work / f"replaced-{'.'.join(place.parts)}")
            finally:
                shutil.rmtree(work, ignore_errors=True)
    except OSError as error:
        if error.errno in FULL:
            raise UserError(f"the disk of {home} is full; free some space and import again") from None
        if error.errno == errno.EXDEV:
            raise UserError(f"{data_root} and {home} must be on one disk; link data/ as a whole instead") from None
        if error.errno in (errno.ELOOP, errno.ENAMETOOLONG):
            told = "a link leads back into its own folder, or a name is too long"
            raise UserError(f"{str(error.filename)[:200]} cannot be followed ({told}); remove it") from None
        if isinstance(error, PermissionError):
            raise UserError(f"{error.filename} may not be read or written; check its permissions") from None
        raise


def _put(new: Path, target: Path, replaced: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        if target.exists():
            target.rename(replaced)
        new.rename(target)
    except BaseException:
        if replaced.exists() and not target.exists():
            replaced.rename(target)
        raise


def _recover(home: Path, data_root: Path) -> None:
    """Undo what a killed import left. The lock says that none of it belongs to a living one."""
    for work in home.glob("import-*"):
        for replaced in work.glob("replaced-*"):
            target = data_root.joinpath(*replaced.name.removeprefix("replaced-").split("."))
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                replaced.rename(target)
        shutil.rmtree(work, ignore_errors=True)


@contextmanager
def _only_import(home: Path) -> Iterator[None]:
    with (home / "import.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError("another import is running in this workspace; wait for it to end") from None
        yield
