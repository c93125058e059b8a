"""What every stage shares: where its files lie, how they are written and how its inputs are named."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from pathlib import Path
from typing import Any

from components.errors import UserError

MODULES = {
    "augment": "components.augment",
    "train_vqvae": "components.vqvae.train",
    "extract_codes": "components.codes",
    "train_prior": "components.prior.train",
    "calibrate": "components.calibrate",
    "package": "components.package",
    "evaluate": "components.evaluate",
}
STAGES = tuple(MODULES)


def folder(root: Path, category: str, stage: str) -> Path:
    """artifacts/<category>/<stage>, a DVC output that nothing else may write to."""
    return root / "artifacts" / category / stage


def fresh_folder(root: Path, category: str, stage: str) -> Path:
    """The stage's folder, empty."""
    out = folder(root, category, stage)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    return out


def checkpoint_path(root: Path, category: str, stage: str) -> Path:
    """Checkpoints live outside the DVC outputs: DVC deletes those before a stage starts."""
    return root / "checkpoints" / category / f"{stage}.pt"


def file_sha256(path: Path) -> str:
    """Hexadecimal sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def inputs_key(settings: object, *inputs: Path) -> str:
    """One hash for all that decides a stage's result: its settings' text and its input files' bytes."""
    parts = [repr(settings), *(file_sha256(path) for path in inputs)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Sorted, indented JSON. NaN has no JSON form and is written as null."""
    clean = {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in content.items()}
    path.write_text(json.dumps(clean, indent=2, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; UserError when the file is not there or not whole."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; run `kintsugi run` for this category first") from None
    except ValueError:
        raise UserError(f"{path} is not valid JSON; delete it and run `kintsugi run` again") from None
