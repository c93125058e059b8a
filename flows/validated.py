"""What Great Expectations said of a category's images, kept with the md5 of the very images it was said of.

`audit/data/<category>/validation.json` is written when images are in place and versioned, never for what was
refused. A version whose data has another md5 was not validated: someone put images there by hand.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from flows import fixity
from flows.adapters import versioning

FILE = "validation.json"


def folder(root: Path, category: str) -> Path:
    """Where the Data Docs of the category's imports and the result for its present images are kept."""
    return root / "audit" / "data" / category


def read(root: Path, category: str) -> dict[str, Any] | None:
    """The result, with `success`, `data_md5`, `statistics` and `failures`; None when no import succeeded here."""
    path = folder(root, category) / FILE
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None


def keep(root: Path, category: str, result: Mapping[str, Any]) -> None:
    """Write the result down as that of the images which data.dvc names now."""
    md5 = fixity.listing_md5(_versioned(root, category))
    path = folder(root, category) / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{FILE}.part")
    scratch.write_text(json.dumps({**result, "data_md5": md5}, indent=1, default=str), encoding="utf-8")
    os.replace(scratch, path)


def extend(root: Path, category: str, added: Collection[str]) -> None:
    """Let the result hold for the images which data.dvc names now, `added` (relative to data/<category>) included.

    The added ones must have been validated by themselves. Nothing is written when the images without them are not
    those that the result is of: then nobody has looked at some of them. May be repeated.
    """
    kept = read(root, category)
    now = _versioned(root, category)
    before = {path: md5 for path, md5 in now.items() if path not in added}
    if kept is None or kept.get("data_md5") != fixity.listing_md5(before):
        return
    statistics = dict(kept["statistics"])
    statistics["images"] += len(now) - len(before)
    keep(root, category, {**kept, "statistics": statistics})


def _versioned(root: Path, category: str) -> fixity.Listing:
    """The category's files as DVC has just stored them; read anew where its list of them is not at hand."""
    stored = fixity.Objects.of(root).listing(versioning.data_md5(root))
    if stored is None:
        return fixity.listing(root / "data" / category)
    return fixity.subtree(stored, category)
