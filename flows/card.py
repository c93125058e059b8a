"""The model card: what a version is, what it was made from, how good it is and where it ends, from its files.

Every number is read from metrics.json, bundle.json, the image manifest or the lineage; mlflow/card.yaml adds what no
file knows (whom to ask, the licence of the images).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.errors import UserError
from components.settings import read_yaml
from components.stage import read_json
from flows.adapters import served, tracking

if TYPE_CHECKING:
    import pandas as pd

TEMPLATE = Path(__file__).with_name("card.md.jinja")
LIMIT = 4900  # characters; MLflow's databases take 5000 of a version's description
NOTES = ("contact", "data_licence", "intended_use", "not_for")
METRICS = {
    "image_auroc": "image AUROC",
    "pixel_auroc": "pixel AUROC",
    "aupro_30": "AUPRO to FPR 0.3",
    "image_balanced_accuracy": "balanced accuracy",
    "image_f1": "F1 of the images",
    "pixel_f1": "F1 of the pixels",
    "pro": "PRO at the threshold",
    "normal_false_positive_rate": "false positives among normals",
}
ONE_IN = 0.05  # the upper bound of a rate is exceeded in one such set in twenty


def write(root: Path, category: str, lineage: Mapping[str, str]) -> str:
    """The card of a category's present state as Markdown; UserError when card.yaml holds what nobody knows."""
    from jinja2 import Environment

    artifacts = root / "artifacts" / category
    metrics = read_json(artifacts / "evaluate" / "metrics.json")
    bundle = read_json(artifacts / "package" / "bundle.json")
    manifest = tracking.read_manifest(artifacts)
    page = Environment(trim_blocks=True, lstrip_blocks=True)  # Markdown, not HTML: `quoted` keeps names harmless
    page.filters |= {"quoted": quoted, "number": number}
    text = page.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        category=category,
        metrics=metrics,
        names=METRICS,
        bundle=bundle,
        calibration=bundle.get("calibration") or {},
        per_defect=_per_defect(artifacts / "evaluate" / "per_defect.csv"),
        parts=_parts(manifest),
        images=_images(manifest),
        notes=notes(served.project_file(root, "mlflow/card.yaml"), category),
        public=metrics.get("public_set"),
        foreign=foreign_weights(bundle),
        bound=_upper_bound(metrics),
        lineage=lineage,
    )
    return unwrapped(text)


def description(card: str) -> str:
    """The card as far as MLflow's field for a version takes it, cut between sections, with where the rest is."""
    if len(card) <= LIMIT:
        return card
    rest = "\n\nThe whole card is `model_card.md` among the files of the version's run.\n"
    head = card[: LIMIT - len(rest)]
    return head[: max(head.rfind("\n## "), head.rfind("\n\n"))].rstrip() + rest


def notes(path: Path, category: str) -> dict[str, str]:
    """What card.yaml says of a category, its own lines before the default's."""
    document = read_yaml(path)
    own = (document.get("categories") or {}).get(category) or {}
    said = {**(document.get("default") or {}), **own}
    for key in said:
        if key not in NOTES:
            raise UserError(f"{path.name} has an unknown entry '{key}'; use {', '.join(NOTES)}")
    return {key: " ".join(str(said.get(key) or "").split()) for key in NOTES}


def foreign_weights(bundle: Mapping[str, Any]) -> str:
    """The frozen network that a model stands on and that was not trained here, empty for none."""
    vqvae = bundle.get("vqvae") or {}
    latent = (vqvae.get("config") or {}).get("latent", "pixels")
    if latent == "pixels":
        return ""
    return f"EfficientNet-Lite0 on ImageNet, sha256 of its weights {vqvae.get('backbone') or 'not recorded'}"


def unwrapped(markdown: str) -> str:
    """Each paragraph and list item on one line: MLflow's pages break a line where its source does."""
    lines: list[str] = []
    fenced = False
    for line in markdown.splitlines():
        fenced ^= line.startswith("```")
        joins = lines and lines[-1] and not lines[-1].startswith(("|", "#", "```"))
        if joins and line and not fenced and not line.startswith(("|", "#", "```", "- ")):
            lines[-1] += f" {line.strip()}"
        else:
            lines.append(line)
    return "\n".join(lines) + "\n"


def quoted(text: object) -> str:
    """A name from outside as Markdown code, in which nothing is a link, a table's edge or a tag."""
    return "`" + " ".join(str(text).replace("`", "'").replace("|", "¦").split()) + "`"


def number(value: Any) -> str:
    """Three decimals; a dash for what there is not."""
    return "–" if value is None or math.isnan(float(value)) else f"{float(value):.3f}"


def _upper_bound(metrics: Mapping[str, Any]) -> float | None:
    """The false-positive rate that these normals cannot exclude: an exact (Clopper-Pearson) upper bound at 95 %."""
    from scipy.stats import beta

    count, rate = metrics.get("normal_images"), metrics.get("normal_false_positive_rate")
    if not count or rate is None:
        return None
    wrong = round(rate * count)
    return 1.0 if wrong == count else float(beta.ppf(1 - ONE_IN, wrong + 1, count - wrong))


def _per_defect(path: Path) -> list[dict[str, Any]]:
    import pandas as pd

    if not path.is_file() or not path.read_text(encoding="utf-8").strip():
        return []
    rows = pd.read_csv(path, dtype={"defect": str}, keep_default_na=False, na_values={"image_auroc": [""]})
    return [{str(key): value for key, value in row.items()} for row in rows.to_dict("records")]


def _parts(manifest: pd.DataFrame) -> list[dict[str, Any]]:
    used = {
        "train": "training",
        "val": "when to stop training",
        "calib": "η, the score, the thresholds",
        "known": "η and the score, beside painted defects; no threshold",
        "test": "the numbers of this card, nothing else",
    }
    rows = []
    for part, what in used.items():
        own = manifest[manifest["part"] == part]
        if part == "known" and own.empty:
            continue
        rows.append({"part": part, "normal": int((own["label"] == 0).sum()), "what": what,
                     "defective": int((own["label"] == 1).sum())})  # fmt: skip
    return rows


def _images(manifest: pd.DataFrame) -> dict[str, Any]:
    def spread(column: str) -> str:
        low, high = int(manifest[column].min()), int(manifest[column].max())
        return str(low) if low == high else f"{low} to {high}"

    return {
        "width": spread("width"),
        "height": spread("height"),
        "channels": ", ".join(str(n) for n in sorted(set(manifest["channels"]))),
        "bits": ", ".join(str(n) for n in sorted(set(manifest["bit_depth"]))),
        "megabytes": round(float(manifest["bytes"].sum()) / 1e6, 1),
    }
