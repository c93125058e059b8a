"""The fit loop: a killed run that resumes equals one left alone; damage is noticed; early stop keeps the best."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from components import settings as settings_of
from components import stage, training
from components.arrays import evenly
from components.prior import train as prior_training
from components.prior.pixelsnail import PixelSNAIL
from components.training import Plan, batch_indices, fit, learning_rate
from tests.conftest import REPO

PLAN = Plan("test", steps=12, learning_rate=0.01, validate_every=3, seed=0)


class KilledError(Exception):
    pass


def task(fail_at=None):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Dropout(0.5), torch.nn.Linear(4, 1))

    def loss_of(step):
        if step == fail_at:
            raise KilledError
        x = torch.from_numpy(np.random.default_rng(step).standard_normal((8, 4))).float()
        loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
        return loss, {"loss": loss.item()}

    def validate():
        return {"val_loss": float(model(torch.ones(1, 4)).square())}

    return model, loss_of, validate


def test_a_resumed_run_takes_the_same_steps(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", -1.0)
    model, loss_of, validate = task()
    curves = fit(PLAN, model, loss_of, validate, tmp_path / "whole.pt", "key")
    killed, loss_of, validate = task(fail_at=7)
    with pytest.raises(KilledError):
        fit(PLAN, killed, loss_of, validate, tmp_path / "cut.pt", "key")
    resumed, loss_of, validate = task()
    again = fit(PLAN, resumed, loss_of, validate, tmp_path / "cut.pt", "key")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name])
    assert again.drop(columns="seconds").equals(curves.drop(columns="seconds"))


def test_a_checkpoint_of_other_inputs_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", -1.0)
    model, loss_of, validate = task()
    fit(PLAN, model, loss_of, validate, tmp_path / "a.pt", "yesterday")
    other, loss_of, validate = task(fail_at=0)
    with pytest.raises(KilledError):  # it starts from step 0
        fit(PLAN, other, loss_of, validate, tmp_path / "a.pt", "today")


def test_a_damaged_checkpoint_is_told_and_not_used(tmp_path, capsys):
    path = tmp_path / "a.pt"
    path.write_bytes(b"PK\x03\x04 not a checkpoint")
    assert training.load_checkpoint(path, "key") is None
    assert "cannot be read" in capsys.readouterr().out


def test_a_flipped_bit_in_a_checkpoint_is_found(tmp_path, capsys):
    path = tmp_path / "a.pt"
    training.save_checkpoint(path, {"key": "key", "model": {"weight": torch.zeros(1000)}})
    assert training.load_checkpoint(path, "key") is not None
    content = bytearray(path.read_bytes())
    middle = content.index(bytes(2000)) + 1000  # within the zeros of the tensor, where no format would notice
    content[middle] ^= 1
    path.write_bytes(content)
    assert training.load_checkpoint(path, "key") is None
    assert "cannot be read" in capsys.readouterr().out


def test_early_stop_keeps_the_best_weights(tmp_path):
    model = torch.nn.Linear(1, 1)
    values = iter([3.0, 1.0, 2.0, 2.0, 2.0, 2.0])
    best = {}

    def loss_of(step):
        return model(torch.ones(1, 1)).sum(), {"loss": 0.0}

    def validate():
        value = next(values)
        if value == 1.0:
            best.update({k: v.clone() for k, v in model.state_dict().items()})
        return {"val_loss": value}

    plan = Plan("test", steps=100, learning_rate=0.1, validate_every=1, seed=0, patience=3)
    curves = fit(plan, model, loss_of, validate, tmp_path / "a.pt", "key")
    assert len(curves) == 5
    assert all(torch.equal(v, best[k]) for k, v in model.state_dict().items())


@given(st.integers(0, 99), st.integers(1, 50), st.integers(1, 16))
def test_an_epoch_shows_every_image_at_most_once(seed, size, batch):
    batch = min(batch, size)
    per_epoch = size // batch
    seen = np.concatenate([batch_indices(seed, step, size, batch) for step in range(per_epoch)])
    assert len(set(seen)) == len(seen) == per_epoch * batch
    assert ((seen >= 0) & (seen < size)).all()


def test_the_learning_rate_rises_then_falls():
    plan = Plan("test", steps=1000, learning_rate=1.0, validate_every=1, seed=0)
    rates = [learning_rate(plan, step) for step in range(1000)]
    assert rates[0] < 0.1 and max(rates) == pytest.approx(1.0, abs=0.01)
    assert rates[-1] == pytest.approx(0.05, abs=0.01)


def test_the_prior_is_validated_by_a_bounded_number_of_images(tmp_path, monkeypatch):
    """With every held-out image of ten thousand the validations took most of the training."""
    folder = tmp_path / "artifacts/brick/extract_codes"
    folder.mkdir(parents=True)
    codes = {part: np.zeros((count, 4, 4), np.int16) for part, count in (("train", 8), ("val", 700), ("calib", 4))}
    np.savez(folder / "codes.npz", **codes)
    stage.write_json(folder / "summary.json", {"codebook_size": 8, "grid": 4})
    loaded = settings_of.load(REPO, "brick")
    prior = replace(loaded.prior, steps=2, channels=8, blocks=1, residual_layers=1, heads=1, batch=8, orders=2)
    looked = []
    forward = PixelSNAIL.forward

    def counted(self, codes, *given, **named):
        if not self.training:
            looked.append(len(codes))
        return forward(self, codes, *given, **named)

    monkeypatch.setattr(PixelSNAIL, "forward", counted)
    prior_training.run(tmp_path, replace(loaded, prior=prior))
    assert sum(looked) == 2 * prior.orders * len(evenly(700, prior_training.VALIDATED)) <= 4 * prior_training.VALIDATED
