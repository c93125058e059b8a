"""Score maps, standards and the choice of eta."""

import dataclasses
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from components import folds, known_defects
from components.arrays import evenly
from components.calibrate import choose_eta, choose_score, reach
from components.detector import Detector
from components.errors import UserError
from components.scoremap import Evidence, base_maps, distance, examine
from components.scores import Kind, kind_of, least
from components.settings import Calibrate
from components.standard import Standard, standard
from components.vqvae.model import VQVAE
from components.wavelets import strengths
from tests.unit.test_prior import small_prior
from tests.unit.test_vqvae import CONFIG as VQVAE_CONFIG

CONFIG = Calibrate((0.001,), 0.01, True, 0.01, 8, 8, 0.001, 0.01, "new", "auto", (20.0, 75.0, 75.0))


def test_eq_6_is_on_the_0_to_255_scale():
    a, b = torch.zeros(1, 3, 4, 4), torch.full((1, 3, 4, 4), 1.0)
    assert distance(a, b) == pytest.approx(255 * np.sqrt(3))


def test_the_bilateral_filter_smooths_on_that_scale():
    """sigma_colour = 75 is 75 grey values: noise of 30 is smoothed, an edge of 250 stays."""
    rng = np.random.default_rng(0)
    step = np.zeros((1, 1, 64, 64), np.float32)
    step[..., 32:] = 250 / 255
    noisy = torch.from_numpy(step + rng.uniform(0, 30 / 255, step.shape).astype(np.float32))
    zero = torch.zeros_like(noisy)
    nothing = SimpleNamespace(codes=torch.zeros(1, 8, 8))
    pictures = {0: noisy, 1: zero}  # of the restored codes, and of the image's own
    vqvae = SimpleNamespace(decode=lambda codes: pictures[int(codes[0, 0, 0])])
    prior = SimpleNamespace(orders=1)
    evidence = Evidence(vqvae, prior, 0.1, True, noisy, noisy, torch.ones(1, 8, 8), restorations={0: nothing})
    smoothed = base_maps(evidence, CONFIG.bilateral, ["restored"])["restored"][0]
    assert smoothed[20:44, 8:24].std() < 0.25 * (noisy.numpy()[0, 0, 20:44, 8:24] * 255).std()
    assert smoothed[:, 34:].mean() - smoothed[:, :30].mean() > 200


def test_an_image_without_a_replaced_code_is_decoded_once(monkeypatch):
    torch.manual_seed(0)
    vqvae = VQVAE(1, dataclasses.replace(VQVAE_CONFIG, codebook_size=7)).eval()
    prior = small_prior(0, codes=7, grid=8).float()
    calls = []
    decode = vqvae.decode
    monkeypatch.setattr(vqvae, "decode", lambda codes: calls.append(len(codes)) or decode(codes))
    evidence = examine(vqvae, prior, torch.rand(2, 1, 32, 32), eta=0.0, neighbour_rule=True)
    assert all(evidence.restoration(order).passes == 1 for order in range(prior.orders))
    assert calls == []  # nobody has asked for a picture
    assert torch.equal(evidence.restored, evidence.reconstructed)
    assert calls == [2]


def test_over_pixels_an_image_is_compared_with_its_reconstruction_by_their_waves():
    torch.manual_seed(0)
    vqvae = VQVAE(1, dataclasses.replace(VQVAE_CONFIG, codebook_size=7)).eval()
    prior = small_prior(0, codes=7, grid=8).float()
    evidence = examine(vqvae, prior, torch.rand(2, 1, 32, 32), eta=0.2, neighbour_rule=True)
    own, difference = evidence.residual.chunk(2, 1)
    assert torch.equal(own, strengths(evidence.image, 8))
    torch.testing.assert_close(own - difference, strengths(evidence.reconstructed.clamp(0, 1), 8))
    assert not evidence.readings and not evidence.restorations, "the prior is not asked"


@pytest.mark.parametrize(("name", "read", "restored"), [("likelihood", [0, 1], []), ("restored", [0], [0])])
def test_a_score_costs_the_passes_that_it_is_made_of(name, read, restored):
    torch.manual_seed(0)
    vqvae = VQVAE(1, dataclasses.replace(VQVAE_CONFIG, codebook_size=7)).eval()
    prior = small_prior(0, codes=7, grid=8).float()
    evidence = examine(vqvae, prior, torch.rand(2, 1, 32, 32), eta=0.2, neighbour_rule=True)
    base_maps(evidence, CONFIG.bilateral, [name])
    assert (sorted(evidence.readings), sorted(evidence.restorations)) == (read, restored)


@given(st.integers(0, 10**6))
def test_standardised_normal_maps_have_mean_zero_and_spread_one(seed):
    rng = np.random.default_rng(seed)
    maps = (rng.standard_normal((30, 64, 64)) * 5 + 40).astype(np.float32)
    usual = standard(maps, 8, 0.01)
    pooled = usual.apply(maps).reshape(30, 8, 8, 8, 8).mean((2, 4))
    assert abs(pooled.mean()) < 0.2
    assert pooled.std() == pytest.approx(1.0, abs=0.25)


def test_one_normal_image_that_shows_a_little_is_not_a_million_deviations_off():
    maps = np.zeros((24, 64, 64), np.float32)
    blob = np.zeros((1, 64, 64), np.float32)
    blob[0, 20:30, 20:30] = 30  # grey values
    assert standard(maps, 8, least("restored")).apply(blob).max() <= 30


def table(*rows):
    return pd.DataFrame(rows, columns=["eta", "replaced", "rectangles", "hard"])


def test_the_best_on_rectangles_wins():
    rows = table((0.001, 0.0, 0.90, 0.9), (0.01, 0.005, 0.95, 0.8))
    assert choose_eta(rows, CONFIG) == 0.01


def test_where_rectangles_saturate_the_harder_negatives_decide():
    rows = table((0.001, 0.0, 0.999, 0.9), (0.01, 0.005, 1.0, 0.8))
    assert choose_eta(rows, CONFIG) == 0.001


def test_within_the_tolerance_the_smallest_eta_wins():
    rows = table((0.001, 0.0, 1.0, 0.980), (0.005, 0.002, 1.0, 0.9815), (0.01, 0.005, 1.0, 0.982))
    assert choose_eta(rows, CONFIG) == 0.01
    assert choose_eta(rows, CONFIG, 0.001) == 0.005
    assert choose_eta(rows, CONFIG, 0.01) == 0.001
    unmeasured = table((0.001, 0.0, 0.9, np.nan), (0.01, 0.0, 1.0, np.nan))
    assert choose_eta(unmeasured, CONFIG) == 0.01


def test_an_eta_that_rewrites_normal_images_is_refused():
    rows = table((0.001, 0.0, 0.90, 0.9), (0.01, 0.02, 0.99, 0.99))
    assert choose_eta(rows, CONFIG) == 0.001
    with pytest.raises(UserError, match="train it longer"):
        choose_eta(rows[1:], CONFIG)


def test_each_candidate_can_have_the_wide_view_beside_it():
    for latent, allocates in (("features", False), ("pixels", False), ("pixels", True)):
        kind = kind_of(latent, allocates, compares=True)
        assert {"mahalanobis", "mahalanobis+wide"} <= set(kind.candidates) <= set(kind.scores)
        assert {part for parts in kind.scores.values() for part in parts} <= set(kind.maps)
    before = kind_of("pixels", False, compares=False)
    assert "mahalanobis" not in before.scores, "a package that has no measure of what differs draws what it could"


@pytest.mark.parametrize(("lead", "chosen"), [(0.0015, "a+b"), (0.0025, "a")])
def test_of_scores_that_the_negatives_cannot_tell_apart_the_best_sum_is_chosen(lead, chosen):
    means = {"a": 0.98, "a+b": 0.98 - lead, "b": 0.9795, "b+c": 0.9755}
    rows = pd.DataFrame({"score": means.keys(), "mean": means.values()}).sort_values("mean", ascending=False)
    assert choose_score(rows, Kind((), {name: tuple(name.split("+")) for name in means}, tuple(means))) == chosen


def test_a_sum_weighs_the_wide_view_less():
    maps = {name: np.full((1, 8, 8), 3.0, np.float32) for name in ("layers", "wide")}
    level = {name: Standard(np.ones((1, 1), np.float32), np.full((1, 1), 2, np.float32)) for name in maps}
    detector = Detector(SimpleNamespace(latent="features", allocates=False), None, 0.0, True, (), standards=level)
    assert detector.score(maps, "layers")[0, 0, 0] == 1
    assert detector.score(maps, "layers+wide")[0, 0, 0] == pytest.approx(1.2)


def test_known_defects_are_half_of_what_an_eta_is_first_judged_by():
    rows = table((0.001, 0.0, 0.95, 0.9), (0.01, 0.005, 0.99, 0.9))
    assert choose_eta(rows, CONFIG) == 0.01
    assert choose_eta(rows.assign(known=[0.9, 0.8]), CONFIG) == 0.001
    assert choose_eta(rows.assign(known=[0.9, 0.87]), CONFIG) == 0.01


def test_known_defects_are_one_kind_whatever_was_drawn_of_them():
    painted = pd.DataFrame({"score": ["a", "b"], "x_image": [0.9, 0.8], "x_pixel": [0.7, 0.8], "y_image": [0.5, 1.0],
                            "y_pixel": [0.5, 0.6]})  # fmt: skip
    alone = known_defects.mean_of_kinds(painted, 2)
    assert alone.to_list() == painted.drop(columns="score").mean(axis=1).to_list(), "to the last bit"
    bare = known_defects.mean_of_kinds(painted.assign(known_image=[1.0, 0.4]), 2)
    assert bare.to_list() == pytest.approx([(2 * 0.65 + 1.0) / 3, (2 * 0.8 + 0.4) / 3])
    drawn = known_defects.mean_of_kinds(painted.assign(known_image=[1.0, 0.4], known_pixel=[0.8, 0.2]), 2)
    assert drawn.to_list() == pytest.approx([(2 * 0.65 + 0.9) / 3, (2 * 0.8 + 0.3) / 3])


def test_known_defects_are_drawn_evenly_and_counted_above_the_threshold():
    maps = np.zeros((10, 16, 16), np.float32)
    maps[:, 4:8, 4:8] = np.arange(10)[:, None, None]
    masks = np.zeros((10, 16, 16), bool)
    masks[1::2, 4:8, 4:8] = True
    rows = pd.DataFrame({"path": [f"{i}.png" for i in range(10)], "defect": "dent"})
    everything = known_defects.Known(np.zeros((10, 16, 16, 1), np.uint8), masks, rows, 10)
    few = everything.at_most(4)
    assert list(few.rows.path) == ["0.png", "3.png", "6.png", "9.png"] and few.given == 10
    assert everything.marked.sum() == 5
    measured = everything.measure(maps, usual=[0.0, 4.5], area=16)
    assert measured == {"known_image": pytest.approx((9.5 + 5) / 20), "known_pixel": 1.0}
    assert set(few.at_most(1).measure(maps[:1], [0.0], 16)) == {"known_image"}
    caught = everything.caught(maps, threshold=6.0, area=16)
    assert list(caught.path[caught.caught]) == ["7.png", "8.png", "9.png"]
    assert known_defects.summary(everything, caught) == {"given": 10, "images": 10, "with_mask": 5, "caught": 3}


def test_regions_that_cover_their_whole_images_say_nothing_of_pixels():
    rows = pd.DataFrame({"path": ["a"], "defect": ["wrong part"]})
    known = known_defects.Known(np.zeros((1, 8, 8, 1), np.uint8), np.ones((1, 8, 8), bool), rows, 1)
    assert known.measure(np.ones((1, 8, 8), np.float32), [0.0, 0.5], 1) == {"known_image": 1.0}


@pytest.mark.parametrize("count", [7, 59, 114])
def test_a_painted_image_is_looked_at_without_its_originals_fold(count):
    places = evenly(count, 48)

    class Seen(torch.nn.Module):
        def __init__(self, fold):
            super().__init__()
            self.fold, self.weight = fold, torch.nn.Parameter(torch.zeros(1))

        @property
        def vqvae(self):
            return self

        def look(self, image, names=None):
            return {name: np.full((len(image), 1, 1), self.fold, np.float32) for name in names or ("all",)}, None

    fold = np.random.default_rng(count).integers(0, 5, count)
    images = np.zeros((count, 2, 2, 1), np.uint8)
    held_out = folds.HeldOut(images, 255.0, tuple(Seen(k) for k in range(5)), fold, "test")
    assert (held_out.maps()["all"][:, 0, 0] == fold).all()
    white = lambda image, other, rng: (np.ones_like(image), np.ones(image.shape[:2], bool))  # noqa: E731
    maps, masks = held_out.painted(white, places, 0, "white", ["wanted"])
    assert list(maps) == ["wanted"] and (maps["wanted"][:, 0, 0] == fold[places]).all()
    assert masks.shape == (len(places), 2, 2) and masks.all()


@pytest.mark.parametrize("sigma", [4.0, 7.0])
def test_the_reach_is_that_of_the_chosen_score_alone(sigma):
    """Of a score that blurs by a Gaussian, half is left at sigma sqrt(2 ln 2); no other map is drawn."""
    wide = {"chosen": ("blurred",), "other": ("sharp",)}

    def blurred(images):
        return np.stack([cv2.GaussianBlur(np.abs(image - 0.5), (0, 0), sigma) for image in images.numpy()[:, 0]])

    def drawn(image, names=None):
        assert tuple(names) == ("blurred",)
        return {"blurred": blurred(image)}, None

    one = SimpleNamespace(
        vqvae=torch.nn.Linear(1, 1), look=drawn, scores=wide, score=lambda maps, name: maps["blurred"]
    )
    normals = np.full((20, 96, 96, 1), 127, np.uint8)
    held_out = folds.HeldOut(normals, 254.0, (one,) * 5, np.arange(20) % 5, "test")
    config = SimpleNamespace(calibrate=CONFIG, seed=0)
    found = reach(one, held_out, np.zeros((20, 96, 96), np.float32), "chosen", config)
    assert found == pytest.approx(sigma * np.sqrt(2 * np.log(2)), abs=1.5)


def test_features_that_are_no_numbers_are_told(monkeypatch):
    monkeypatch.setattr(folds, "examine", lambda *given: SimpleNamespace(residual=torch.full((1, 2, 3, 3), torch.nan)))
    detector = SimpleNamespace(vqvae=torch.nn.Linear(1, 1), prior=None, eta=0.0, neighbour_rule=True)
    with pytest.raises(UserError, match=r"not finite; train the category again"):
        list(folds.residuals(detector, np.zeros((1, 4, 4, 1), np.uint8), 255.0, "test"))
