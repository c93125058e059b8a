"""`kintsugi choose`: codes of pixels, of pixels in patches or of features, as a category's calibration images say.

All are trained up to `calibrate`, on the same split. Each calibration has measured its chosen score on the same
negatives, painted on held-out normal images; the highest mean AUROC wins. No test image is looked at.

For hours params.yaml names codes that are only being tried. The category's lock keeps trainings and imports of it away
meanwhile, and `.kintsugi/choosing/<category>.json` keeps what was named before: whatever ends the choice early puts
that back, after a SIGKILL the next run or choice of the category.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from components import settings, stage
from components.errors import UserError
from components.settings import VQVAE, nearest
from flows import data, params
from flows.adapters import versioning
from flows.adapters.process import Cancellation
from flows.ingest import files, journal
from flows.plan import make_plan

log = logging.getLogger(__name__)
LAST = "calibrate"
CONTENDERS = {
    "pixels": {"latent": "pixels", "allocation": "fixed"},
    "patches": {"latent": "pixels", "allocation": "context"},
    "features": {"latent": "features", "allocation": "fixed"},
}
KEYS = ("latent", "allocation")  # what CONTENDERS differ in


@dataclass(frozen=True)
class Chosen:
    """`codes` of CONTENDERS won over those in force `before`; `table` has a row for each: codes, score, eta, and the
    AUROCs on painted negatives."""

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
    root: Path,
    category: str,
    among: Sequence[str] = (),
    on_line: Callable[[str], None] = lambda line: None,
    cancellation: Cancellation | None = None,
) -> Chosen:
    """Train the codes `among` CONTENDERS (by default all) up to calibration and name the best in params.yaml.

    What was trained stays in DVC's cache: the next run takes the winner from there. After an error or a stop
    params.yaml names the codes that it named before. Raises UserError for codes or a category that are not known, one
    without images, one that is being trained or imported or, over features, without a backbone; StoppedError when
    `cancellation` stopped it.
    """
    for word in among:
        if word not in CONTENDERS:
            raise UserError(f"there are no codes of '{word}'{nearest(word, list(CONTENDERS))}")
    with journal.standing_still(root, category, "choose its codes when it has ended"):
        settle(root, category)
        before = in_force(settings.load(root, category).vqvae)
        wanted = [codes for codes in CONTENDERS if codes in among or not among]
        wanted.sort(key=lambda codes: codes == before)  # what is trained already, last
        try:
            table = _weigh(root, category, wanted, on_line, cancellation or Cancellation())
        except versioning.StageError as error:
            raise UserError(str(error)) from None
        finally:
            _put_back(root, category)
        winner = str(table.codes[0])
        _set(root, category, CONTENDERS[winner])
    return Chosen(category, winner, before, table)


def _weigh(
    root: Path, category: str, wanted: Sequence[str], on_line: Callable[[str], None], cancellation: Cancellation
) -> pd.DataFrame:
    rows = []
    data.register(root, category, settings.load(root, category).augment.policy)  # each section is there
    own = settings.read_params(root)["overrides"][category]["vqvae"]
    files.write_json(_kept(root, category), {key: own[key] for key in KEYS if key in own})
    for codes in wanted:
        _set(root, category, CONTENDERS[codes])
        for node in make_plan(root, [category]).nodes:
            on_line(f"{node.name} over {codes}")
            versioning.repro_stage(root, node.name, on_line, cancellation)
            if node.stage == LAST:
                break
        rows.append({"codes": codes} | measured(root, category))
    return pd.DataFrame(rows).sort_values("mean", ascending=False, ignore_index=True)


def settle(root: Path, category: str) -> None:
    """Put back what a killed choice of the category left in params.yaml; nothing happens when there was none.

    The caller holds the category's lock, so no choice of it is under way.
    """
    if _put_back(root, category):
        log.warning("%s: a choice of codes was cut off; params.yaml names those again that it named before", category)


def _put_back(root: Path, category: str) -> bool:
    kept = _kept(root, category)
    if not kept.is_file():
        return False
    _set(root, category, json.loads(kept.read_text(encoding="utf-8")))
    kept.unlink()
    return True


def in_force(vqvae: VQVAE) -> str:
    """Which of CONTENDERS the settings name."""
    if vqvae.latent == "features":
        return "features"
    return "patches" if vqvae.allocation == "context" else "pixels"


def measured(root: Path, category: str) -> dict[str, object]:
    """What the calibration that lies there chose, and its AUROCs on the painted negatives."""
    folder = stage.folder(root, category, LAST)
    calibration = stage.read_json(folder / "calibration.json")
    scores = pd.read_csv(folder / "scores.csv")
    own = scores[scores.score == calibration["score"]].iloc[0]
    numbers: dict[str, object] = own.drop("score").to_dict()
    return {"score": calibration["score"], "eta": calibration["eta"]} | numbers


def _set(root: Path, category: str, named: dict[str, str]) -> None:
    """Have overrides.<category>.vqvae name these of KEYS and no others; all else in params.yaml stays as it is."""

    def change(content: Any) -> None:
        own = ((content["overrides"] or {}).get(category) or {}).get("vqvae")
        if own is not None:  # the category may have been taken out since
            for key in KEYS:
                own.pop(key, None)
            own.update(named)

    params.edit(root, change)


def _kept(root: Path, category: str) -> Path:
    return root / ".kintsugi" / "choosing" / f"{category}.json"
