"""`kintsugi choose`: codes of pixels, of pixels in patches or of features, as a category's calibration images say.

All are trained up to `calibrate`, on the same split. Each calibration has measured its chosen score on the same
hard negatives, made from held-out normal images; the highest mean AUROC wins. No test image is looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from components import settings, stage
from components.errors import UserError
from components.settings import VQVAE, nearest
from flows import data, params
from flows.adapters import versioning
from flows.plan import make_plan

LAST = "calibrate"
CONTENDERS = {
    "pixels": {"latent": "pixels", "allocation": "fixed"},
    "patches": {"latent": "pixels", "allocation": "context"},
    "features": {"latent": "features", "allocation": "fixed"},
}


@dataclass(frozen=True)
class Chosen:
    """`codes` of CONTENDERS won over those in force `before`; `table` has a row for each: codes, score, eta, and the
    AUROCs on hard negatives."""

    category: str
    codes: str
    before: str
    table: pd.DataFrame

    @property
    def latent(self) -> str:
        """What params.yaml says of it now."""
        return CONTENDERS[self.codes]["latent"]

    @property
    def allocation(self) -> str:
        """The same."""
        return CONTENDERS[self.codes]["allocation"]


def choose(
    root: Path, category: str, among: Sequence[str] = (), on_line: Callable[[str], None] = lambda line: None
) -> Chosen:
    """Train the codes `among` CONTENDERS (by default all) up to calibration and name the best in params.yaml.

    What was trained stays in DVC's cache: the next run takes the winner from there. After an error or Ctrl-C
    params.yaml is as it was. Raises UserError for codes or a category that are not known, one without images or, over
    features, without a backbone.
    """
    for word in among:
        if word not in CONTENDERS:
            raise UserError(f"there are no codes of '{word}'{nearest(word, list(CONTENDERS))}")
    path = root / "params.yaml"
    original, before = path.read_bytes(), in_force(settings.load(root, category).vqvae)
    rows = []
    try:
        data.register(root, category, settings.load(root, category).augment.policy)  # each section is there
        wanted = [codes for codes in CONTENDERS if codes in among or not among]
        for codes in sorted(wanted, key=lambda each: each == before):  # what is trained already, last
            _set(root, category, codes)
            for node in make_plan(root, [category]).nodes:
                on_line(f"{node.name} over {codes}")
                versioning.repro_stage(root, node.name, on_line)
                if node.stage == LAST:
                    break
            rows.append({"codes": codes} | measured(root, category))
    except versioning.StageError as error:
        path.write_bytes(original)
        raise UserError(str(error)) from None
    except BaseException:
        path.write_bytes(original)
        raise
    table = pd.DataFrame(rows).sort_values("mean", ascending=False, ignore_index=True)
    winner = str(table.codes[0])
    _set(root, category, winner)
    return Chosen(category, winner, before, table)


def in_force(vqvae: VQVAE) -> str:
    """Which of CONTENDERS the settings name."""
    if vqvae.latent == "features":
        return "features"
    return "patches" if vqvae.allocation == "context" else "pixels"


def measured(root: Path, category: str) -> dict[str, object]:
    """What the calibration that lies there chose, and its AUROCs on the hard negatives."""
    folder = stage.folder(root, category, LAST)
    calibration = stage.read_json(folder / "calibration.json")
    scores = pd.read_csv(folder / "scores.csv")
    own = scores[scores.score == calibration["score"]].iloc[0]
    numbers: dict[str, object] = own.drop("score").to_dict()
    return {"score": calibration["score"], "eta": calibration["eta"]} | numbers


def _set(root: Path, category: str, codes: str) -> None:
    """overrides.<category>.vqvae.latent and .allocation in params.yaml."""
    params.edit(root, lambda content: content["overrides"][category]["vqvae"].update(CONTENDERS[codes]))
