"""The audit's look at what DVC holds: a version's images and stage outputs, in the workspace or the cache."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from components.errors import UserError
from flows import fixity, lineage
from flows.adapters import versioning
from flows.fixity import Listing, Objects
from flows.lineage import State
from flows.trail import DIFFERS, MISSING, VERIFIED, Link

NAMED = 5  # files named per link; more are counted


def links(root: Path, tags: Mapping[str, str], state: State) -> Iterator[Link]:
    """Re-hash the images and every stage's output of the version that `state` (its dvc.lock) describes.

    A folder of the workspace is what the version left behind unless newer work has replaced it; then the
    version's own bytes are re-hashed in DVC's cache or remote, and the link says so.
    """
    objects = Objects.of(root)
    yield _data(root, objects, tags, state)
    try:
        present = lineage.read_state(root, state.category).outs
    except UserError:
        present = {}
    for stage, md5 in state.outs.items():
        folder = root / "artifacts" / state.category / stage
        expected = objects.listing(md5)
        yield _folder(f"stage {stage}", folder, md5, expected, objects, superseded=present.get(stage) != md5)


def _data(root: Path, objects: Objects, tags: Mapping[str, str], state: State) -> Link:
    expected = _images_of(objects, tags.get("data.all_md5", ""), state)
    superseded = True
    if (root / "data.dvc").is_file():
        now = versioning.data_md5(root)
        current = _images_of(objects, now, state)
        superseded = now != tags.get("data.all_md5") and current is None
    folder = root / "data" / state.category
    return _folder("data", folder, state.data_md5, expected, objects, superseded)


def _images_of(objects: Objects, all_md5: str, state: State) -> dict[str, str] | None:
    """The category's files in a version of data/, None unless they are the ones that the stages saw."""
    everything = objects.listing(all_md5) if all_md5 else None
    mine = fixity.subtree(everything, state.category) if everything else None
    return mine if mine and fixity.listing_md5(mine) == state.data_md5 else None


def _folder(name: str, folder: Path, md5: str, expected: Listing | None, objects: Objects, superseded: bool) -> Link:
    here = fixity.listing(folder)
    found = fixity.listing_md5(here) if here else ""
    if found == md5:
        return Link(name, md5, found, VERIFIED, f"{len(here)} files re-hashed in the workspace")
    if here and not superseded:
        phrases = fixity.differences(expected, here) if expected else ["its file list is not in the cache"]
        return Link(name, md5, found, DIFFERS, some(phrases))
    if expected is None:
        told = "neither in the workspace nor in the cache"
        return Link(name, md5, found, MISSING, told if objects.reachable else f"{told}; `dvc fetch` it first")
    places, missing, differing = objects.verify(expected)
    where = f"{len(expected)} files re-hashed in DVC's {' and '.join(sorted(places))}"
    if differing:
        return Link(name, md5, found, DIFFERS, f"in DVC's {'/'.join(sorted(places))}: {some(differing)} changed")
    if missing:
        return Link(name, md5, found, MISSING, f"not in the cache: {some(missing)}")
    return Link(name, md5, md5, VERIFIED, f"{where}; the workspace has moved on")


def some(phrases: list[str]) -> str:
    """The first few, and how many more."""
    more = len(phrases) - NAMED
    return ", ".join(phrases[:NAMED]) + (f" and {more} more" if more > 0 else "")
