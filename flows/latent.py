"""`kintsugi choose`: pixels or features for one category, as its calibration images say.

Both are trained up to `calibrate`, on the same split. Each calibration has measured its chosen score on the same
hard negatives, made from held-out normal images; the higher mean AUROC wins. No test image is looked at.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from components import settings, stage
from components.errors import UserError
from flows import data, params
from flows.adapters import versioning
from flows.plan import make_plan

LAST = "calibrate"


@dataclass(frozen=True)
class Chosen:
    """`latent` won; `table` has a row for each latent: latent, score, eta, and the AUROCs on hard negatives."""

    category: str
    latent: str
    before: str
    table: pd.DataFrame


def choose(root: Path, category: str, on_line: Callable[[str], None] = lambda line: None) -> Chosen:
    """Train both latents up to calibration and name the better one in params.yaml.

    What was trained stays in DVC's cache: the next run takes the winner from there. After an error or Ctrl-C
    params.yaml is as it was. Raises UserError for a category that is not known, has no images or, over features,
    no backbone.
    """
    path = root / "params.yaml"
    original, before = path.read_bytes(), settings.load(root, category).vqvae.latent
    rows = []
    try:
        data.register(root, category, settings.load(root, category).augment.policy)  # each section is there
        for latent in sorted(settings.LATENTS, key=lambda each: each == before):  # what is trained already, last
            _set(root, category, latent)
            for node in make_plan(root, [category]).nodes:
                on_line(f"{node.name} over {latent}")
                versioning.repro_stage(root, node.name, on_line)
                if node.stage == LAST:
                    break
            rows.append({"latent": latent} | measured(root, category))
    except versioning.StageError as error:
        path.write_bytes(original)
        raise UserError(str(error)) from None
    except BaseException:
        path.write_bytes(original)
        raise
    table = pd.DataFrame(rows).sort_values("mean", ascending=False, ignore_index=True)
    winner = str(table.latent[0])
    _set(root, category, winner)
    return Chosen(category, winner, before, table)


def measured(root: Path, category: str) -> dict[str, object]:
    """What the calibration that lies there chose, and its AUROCs on the hard negatives."""
    folder = stage.folder(root, category, LAST)
    calibration = stage.read_json(folder / "calibration.json")
    scores = pd.read_csv(folder / "scores.csv")
    own = scores[scores.score == calibration["score"]].iloc[0]
    numbers: dict[str, object] = own.drop("score").to_dict()
    return {"score": calibration["score"], "eta": calibration["eta"]} | numbers


def _set(root: Path, category: str, latent: str) -> None:
    """overrides.<category>.vqvae.latent in params.yaml."""
    params.edit(root, lambda content: content["overrides"][category]["vqvae"].update(latent=latent))
