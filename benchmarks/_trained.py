"""Which trained category a benchmark runs on."""

from __future__ import annotations

import sys
from pathlib import Path


def choose(root: Path, wanted: str | None) -> str:
    """The category asked for, else bottle, else the sample; ends the program where none was trained."""
    for category in [wanted] if wanted else ["bottle", "brick"]:
        if (root / "artifacts" / category / "package" / "bundle.json").exists():
            return category
    sys.exit(f"{wanted or 'no category'} is not trained; run `kintsugi run` first")
