"""The evaluation's page: whole in itself, safe with any name, true to metrics.json, open to all readers."""

from __future__ import annotations

import base64
import itertools
import json
import re
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest

from components.evaluate import charts, gallery, report
from components.evaluate.published import public_set
from flows.report import with_lineage

HOSTILE = "\"><img src=x onerror=alert(1)>$a$ & 'null"
VOID = {"meta", "img", "br", "link", "input"}
NUMBERS = {
    "image_auroc": 0.98765, "pixel_auroc": 0.91234, "aupro_30": 0.87654, "pro": 0.45678,
    "image_balanced_accuracy": 0.76543, "image_f1": 0.65432, "pixel_f1": None,
}  # fmt: skip


class Page(HTMLParser):
    """Every start tag of a page with its attributes, and the text of cells by their data-metric."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.metrics: list[tuple[str, str]] = []
        self.text = ""
        self._open: list[str] = []
        self._metric = ""
        self.feed(text)
        assert self._open == [], "every element is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {key: value or "" for key, value in attrs}
        self.tags.append((tag, found))
        self._metric = found.get("data-metric", "")
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag
        self._metric = ""

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._metric:
            self.metrics.append((self._metric, data.strip()))


def make_artifacts(root: Path, defect: str = "scratch", **changed: Any) -> Path:
    """What the stages leave of a category `bolt`, small: six images, one type of defect, both trainings."""
    folders = {name: root / name for name in ("evaluate", "package", "extract_codes", "train_vqvae", "train_prior")}
    for folder in folders.values():
        folder.mkdir(parents=True)
    evaluate = folders["evaluate"]
    metrics = NUMBERS | {
        "image_threshold": 3.25, "pixel_threshold": 3.25, "eta": 0.005, "evaluated_on": "test", "normal_images": 3,
        "defective_images": 3, "protocol": "as made for a test", "images_per_second": 4.0, "public_set": None,
        "absent": {"pixel_f1": "no defective image has a mask"},
    } | changed  # fmt: skip
    (evaluate / "metrics.json").write_text(json.dumps(metrics))
    scores = make_scores(defect)
    scores.to_csv(evaluate / "scores.csv", index=False)
    row = {"defect": defect, "images": 3, "found": 2, "image_auroc": 0.9, "pixel_auroc": 0.8}
    pd.DataFrame([row | {"aupro_30": 0.7, "pro": 0.6, "pixel_f1": float("nan")}]).to_csv(
        evaluate / "per_defect.csv", index=False
    )
    curve = np.linspace(0, 1, 20)
    np.savez(evaluate / "curves.npz", normal_scores=[1.0, 2.0, 3.0], defect_scores=[3.0, 5.0, 9.0],
             image_fpr=curve, image_tpr=curve**0.5, pro_fpr=curve, pro=curve**0.3)  # fmt: skip
    (evaluate / "gallery").mkdir()
    rows = []
    for number, image in gallery.choose(scores, 3.25, 3).reset_index(drop=True).iterrows():
        tiles = ["input", "map", "regions"] if image.label == 0 else ["input", "mask", "map", "regions"]
        strip = np.random.default_rng(0).integers(0, 255, (32, 32 * len(tiles), 3), dtype=np.uint8)
        cv2.imwrite(str(evaluate / "gallery" / f"{number}.png"), strip)
        rows.append({"file": f"{number}.png", "tiles": "|".join(tiles)} | image.to_dict())
    pd.DataFrame(rows).to_csv(evaluate / "gallery" / "gallery.csv", index=False)
    cv2.imwrite(str(evaluate / "gallery" / "scale.png"), np.zeros((8, 256, 3), np.uint8))
    calibration = {"map_low": -0.5, "normal_scores": [1.0, 2.0, 3.25]}
    (folders["package"] / "bundle.json").write_text(json.dumps({"calibration": calibration}))
    np.savez(folders["extract_codes"] / "codes.npz", train=np.array([[0, 1], [1, 1]], np.int16))
    (folders["extract_codes"] / "summary.json").write_text(json.dumps({"codebook_size": 4}))
    epochs = pd.DataFrame({"epoch": [1, 2, 3], "step": [5, 10, 15], "seconds": [1.0, 2.0, 3.0]})
    vqvae = epochs.assign(reconstruction=[1.0, 0.1, 0.01], codes_used=[1, 2, 2], perplexity=[1.0, 1.5, 1.8])
    vqvae.to_csv(folders["train_vqvae"] / "curves.csv", index=False)
    epochs.assign(loss=[3.0, 2.0, 1.0], val_loss=[3.0, np.nan, 2.0]).to_csv(
        folders["train_prior"] / "curves.csv", index=False
    )
    return root


def make_scores(defect: str = "scratch") -> pd.DataFrame:
    return pd.DataFrame({
        "path": [f"test/good/{i}.png" for i in range(3)] + [f"test/{defect}/{i}.png" for i in range(3)],
        "label": [0, 0, 0, 1, 1, 1],
        "defect": ["good"] * 3 + [defect] * 3,
        "score": [1.0, 2.0, 3.0, 3.0, 5.0, 9.0],
        "verdict": [0, 0, 0, 0, 1, 1],
    })  # fmt: skip


def page_of(artifacts: Path, category: str = "bolt") -> str:
    return report.render(report.collect(artifacts, category, 0.3))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> str:
    artifacts = make_artifacts(tmp_path_factory.mktemp("hostile"), defect=HOSTILE, protocol=HOSTILE)
    return with_lineage(page_of(artifacts, HOSTILE), {HOSTILE: HOSTILE, "</main>": "</main>"})


def test_nothing_is_loaded_from_elsewhere(hostile: str) -> None:
    page = Page(hostile)
    for tag, attributes in page.tags:
        assert tag not in {"script", "iframe", "object", "embed", "link", "base", "form"}, tag
        assert not any(name.startswith("on") for name in attributes), attributes
        assert attributes.get("src", "data:image/").startswith("data:image/")
        assert attributes.get("href", "#").startswith("#")
    assert re.findall(r"https?:|file:|@import", hostile) == []
    assert re.findall(r"url\((?!#)", hostile) == []
    policies = [a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert len(policies) == 1 and policies[0].startswith("default-src 'none'")


def test_hostile_names_are_text(hostile: str) -> None:
    page = Page(hostile)
    assert not [attributes for tag, attributes in page.tags if attributes.get("src") == "x"]
    assert page.text.count(HOSTILE) >= 8  # title, heading, tables, pictures, a chart's axis, protocol, lineage
    assert hostile.count("</main>") == 1 and hostile.index("</main>") > hostile.index('id="lineage"')


def test_the_numbers_are_those_of_metrics_json(tmp_path: Path) -> None:
    page = Page(page_of(make_artifacts(tmp_path)))
    shown: dict[str, set[str]] = {}
    for name, text in page.metrics:
        shown.setdefault(name, set()).add(text)
    assert shown == {n: {"–" if v is None else f"{v:.3f}"} for n, v in NUMBERS.items()} | {"image_threshold": {"3.25"}}
    assert "no defective image has a mask" in page.text
    assert "2 of 3 defective images were called defective, and so were 0 of\n3 normal ones" in page.text


def test_a_page_can_be_read_by_all(hostile: str) -> None:
    page = Page(hostile)
    tags = [tag for tag, _ in page.tags]
    assert dict(page.tags)["html"] == {"lang": "en"}
    levels = [int(tag[1]) for tag in tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    pictures = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(pictures) > 15 and all(p["alt"] for p in pictures)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    inner = [attributes["href"][1:] for _, attributes in page.tags if "href" in attributes]
    assert set(inner) <= set(ids)


def luminance(colour: str) -> float:
    """Relative luminance of WCAG 2 of a colour like #0b5ea8."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


@pytest.mark.parametrize("ground", ["#ffffff", "#f3f4f6", "#e6f0fa"])
def test_contrast_is_enough_for_text(ground: str) -> None:
    styles = dict(re.findall(r"--(\w+): (#\w{6})", report.TEMPLATE.read_text(encoding="utf-8")))
    for name in ("ink", "soft", "good", "bad"):
        assert (luminance(ground) + 0.05) / (luminance(styles[name]) + 0.05) >= 4.5, name
    for colour in (charts.NORMAL, charts.DEFECT, charts.HELD_OUT, charts.LINE):
        assert 1.05 / (luminance(colour) + 0.05) >= 3, colour  # WCAG's limit for what is drawn


@pytest.mark.parametrize("gone", ["extract_codes", "train_vqvae", "train_prior", "package", "evaluate/gallery",
                                  "evaluate/curves.npz", "evaluate/scores.csv"])  # fmt: skip
def test_what_is_not_there_is_left_out(tmp_path: Path, gone: str) -> None:
    import shutil

    path = make_artifacts(tmp_path) / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert "Evaluation of bolt" in Page(page_of(tmp_path)).text


def test_known_defects_are_counted_where_there_are_any(tmp_path: Path) -> None:
    artifacts = make_artifacts(tmp_path)
    assert "known defects" not in page_of(artifacts)
    bundle = artifacts / "package" / "bundle.json"
    calibration = json.loads(bundle.read_text())["calibration"] | {"known": {"images": 7, "caught": 5}}
    bundle.write_text(json.dumps({"calibration": calibration}))
    page = Page(page_of(artifacts))
    assert "Of 7 known defects that the calibration saw" in page.text and ("known_caught", "5") in page.metrics


def test_synthetic_defects_are_said_to_be_synthetic(tmp_path: Path) -> None:
    assert "No real defect is known" not in page_of(make_artifacts(tmp_path / "a"))
    assert "No real defect is known" in page_of(make_artifacts(tmp_path / "b", evaluated_on="synthetic"))


def test_an_absent_curve_draws_nothing_and_fails_nothing(tmp_path: Path) -> None:
    artifacts = make_artifacts(tmp_path, image_auroc=None, aupro_30=None, pro=None, pixel_auroc=None)
    np.savez(artifacts / "evaluate" / "curves.npz", normal_scores=[1.0, 2.0], defect_scores=[])
    text = Page(page_of(artifacts)).text
    assert "ROC of the images" not in text and "Image scores" in text


def test_the_same_artifacts_make_the_same_bytes(tmp_path: Path) -> None:
    artifacts = make_artifacts(tmp_path)
    assert page_of(artifacts) == page_of(artifacts)


def test_published_rows_stand_beside_the_public_set_only(tmp_path: Path) -> None:
    bottle = public_set("bottle", "test", 20, 63)
    assert bottle and bottle.name == "MVTec AD"
    assert public_set("bottle", "test", 20, 62) is None  # a plant's own bottles
    assert public_set("bottle", "synthetic", 20, 63) is None
    text = Page(page_of(make_artifacts(tmp_path / "b", public_set=asdict(bottle)), "bottle")).text
    assert "PaDiM" in text and "0.917" in text and "Wang et al. 2020" in text
    assert "PaDiM" not in Page(page_of(make_artifacts(tmp_path / "a"), "bottle")).text


def test_pictures_keep_within_their_share_of_the_page() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (256, 256, 3), dtype=np.uint8)  # the worst to compress
    for budget in (60_000, 12_000, 3_000):
        address = report._tile("input", noise, budget).address
        assert len(base64.b64decode(address.partition(",")[2])) <= budget


def test_a_very_large_test_set_still_makes_a_small_chart() -> None:
    count = 50_000
    label = np.arange(count) % 2
    defect = np.where(label, "scratch", "good")
    scores = pd.DataFrame({"label": label, "defect": defect, "score": np.linspace(0, 1, count)})
    assert len(charts.per_type(scores, {"threshold": 0.5})) < 400_000
