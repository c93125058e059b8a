"""The model card says what the files say, and nothing that a name could smuggle in."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from components.errors import UserError
from flows import card
from tests.artifacts_fixture import GOOD, Fabricator, make_workspace, write_bundle
from tests.e2e.test_readme import check, check_mention, fenced, inline

LINEAGE = {"data.md5": "d41d8.dir", "snapshot.sha": "0123abcd", "version.torch": "2.13.0", "version.python": "3.11.2"}


@pytest.fixture
def bolts(tmp_path: Path) -> Path:
    root = make_workspace(tmp_path / "plant")
    Fabricator(root)(normal_images=20, defective_images=63, normal_false_positive_rate=0.0)
    return root


def change(root: Path, file: str, **values: object) -> None:
    path = root / "artifacts" / "brick" / file
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_every_number_is_a_files(bolts: Path) -> None:
    text = card.write(bolts, "brick", LINEAGE)
    for key, name in card.METRICS.items():
        shown = 0.0 if key == "normal_false_positive_rate" else GOOD[key]
        assert f"| {name} | {shown:.3f} |" in text
    assert GOOD["protocol"] in text and "| test | 3 | 3 |" in text and "| train | 6 | 0 |" in text
    assert "`d41d8.dir`" in text and "`0123abcd`" in text and "2.13.0" in text
    assert "0.0 % false positives may be 13.9 % in truth" in text  # 1 - 0.05 ** (1 / 20)


def test_a_real_bundle_is_described(bolts: Path) -> None:
    write_bundle(bolts / "artifacts" / "brick" / "package")
    text = card.write(bolts, "brick", LINEAGE)
    assert "| input | 64 × 64 pixels, 3 channel(s) |" in text and "| score | reconstruction |" in text
    assert "trained from scratch" in text
    vqvae = json.loads((bolts / "artifacts/brick/package/bundle.json").read_text())["vqvae"]
    over = vqvae | {"backbone": "5793442", "config": vqvae["config"] | {"latent": "features"}}
    change(bolts, "package/bundle.json", vqvae=over)
    text = card.write(bolts, "brick", LINEAGE)
    assert "frozen network trained elsewhere (`EfficientNet-Lite0 on ImageNet, sha256 of its weights 5793442`)" in text
    assert "VQ-VAE codes of a frozen network's features, a PixelSNAIL" in text


def test_what_was_not_measured_or_not_real_is_said(bolts: Path) -> None:
    absent = {"pixel_auroc": "no defective image has a mask"}
    change(bolts, "evaluate/metrics.json", evaluated_on="synthetic", pixel_auroc=None, absent=absent)
    text = card.write(bolts, "brick", LINEAGE)
    assert "No real defect was known" in text and "| pixel AUROC | – |" in text
    assert "Not measured, pixel AUROC: no defective image has a mask." in text


def test_missed_types_are_a_limit(bolts: Path) -> None:
    row = {"defect": "a|b`<img src=x>`", "images": 9, "found": 4, "image_auroc": 0.7}
    pd.DataFrame([row]).to_csv(bolts / "artifacts/brick/evaluate/per_defect.csv", index=False)
    text = card.write(bolts, "brick", LINEAGE)
    assert "- Of `a¦b'<img src=x>'` 4 of 9 images were found." in text


def test_known_defects_are_counted_and_listed_as_a_part(bolts: Path) -> None:
    assert "known" not in card.write(bolts, "brick", LINEAGE).partition("## Data")[2].partition("## Model")[0]
    manifest = bolts / "artifacts/brick/augment/manifest.csv"
    rows = pd.read_csv(manifest, keep_default_na=False)
    pd.concat([rows, rows[rows.label == 1].assign(part="known")]).to_csv(manifest, index=False)
    known = {"given": 9, "images": 3, "with_mask": 1, "caught": 2}
    change(bolts, "package/bundle.json", calibration={"known": known})
    text = card.write(bolts, "brick", LINEAGE)
    assert "- Of 3 known defects that helped to choose η and the score the threshold, which normal images alone" in text
    assert "alone set, catches 2." in text and "| known | 0 | 3 |" in text


def test_a_public_sets_licence_is_named_and_a_plants_own_comes_first(bolts: Path) -> None:
    assert "Images: not recorded" in card.write(bolts, "brick", LINEAGE)
    public = {"dataset": "mvtec_ad", "name": "MVTec AD", "category": "bottle", "source": "Bergmann et al.",
              "licence": "CC BY-NC-SA 4.0 (no commercial use)"}  # fmt: skip
    change(bolts, "evaluate/metrics.json", public_set=public)
    text = card.write(bolts, "brick", LINEAGE)
    assert "Images: CC BY-NC-SA 4.0" in text and "may be used commercially" in text
    (bolts / "mlflow" / "card.yaml").write_text(
        "default: {contact: quality desk}\ncategories: {brick: {data_licence: ours, contact: line 3}}\n"
    )
    text = card.write(bolts, "brick", LINEAGE)
    assert "Images: ours." in text and "Contact: line 3." in text


def test_an_unknown_note_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "card.yaml"
    path.write_text("default: {licence: ours}\n")
    with pytest.raises(UserError, match="unknown entry 'licence'"):
        card.notes(path, "brick")


def test_a_long_card_is_cut_between_paragraphs_to_what_the_registry_takes(bolts: Path) -> None:
    change(bolts, "evaluate/metrics.json", protocol="many words " * 300)
    text = card.write(bolts, "brick", LINEAGE)
    short = card.description(text)
    assert len(text) > 5000 >= len(short) > 3300
    assert short.endswith("among the files of the version's run.\n") and text.startswith(
        short.partition("\n\nThe whole")[0]
    )
    assert card.description("short") == "short"


def test_paragraphs_stand_on_one_line_each() -> None:
    text = "# A\n\none\ntwo\n\n- three\n  four\n- five\n\n| a |\n|---|\n| b |\n\n```sh\nx\ny\n```\n"
    assert card.unwrapped(text) == (
        "# A\n\none two\n\n- three four\n- five\n\n| a |\n|---|\n| b |\n\n```sh\nx\ny\n```\n"
    )


def test_the_cards_commands_exist(bolts: Path) -> None:
    text = card.write(bolts, "brick", LINEAGE)
    found = [*fenced(text), *inline(text)]
    assert len(found) >= 4
    for line in fenced(text):
        check(line)
    for line in inline(text):
        check_mention(line.split()[1:])
