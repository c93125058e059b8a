"""`kintsugi choose`: all codes trained, the best on hard negatives named, nothing lost on the way."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from components import settings
from components.errors import UserError
from components.features import backbone
from components.stage import MODULES
from flows import data, latent
from flows.adapters import versioning
from flows.adapters.process import Cancellation, StoppedError
from flows.ingest import journal
from flows.run import interruptible
from tests import tiny
from tests.unit.test_features import published

SMALL = {"vqvae": {"zoom": 1.0, "channels": 8, "residual_blocks": 1, "steps": 4}, "prior": {"steps": 4}}


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The stages run in this process, where torch is loaded once, and are noted; other tests run them through DVC."""
    ran: list[str] = []

    def here(root: Path, name: str, *others: object) -> None:
        step, _, category = name.partition("@")
        importlib.import_module(MODULES[step]).run(root, settings.load(root, category))
        ran.append(step)

    monkeypatch.setattr(versioning, "repro_stage", here)
    return ran


def test_the_best_codes_are_named_and_no_further_stage_runs(
    tmp_path: Path, trained: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tiny.make(tmp_path / "plant", features=SMALL)
    before = settings.read_params(root)
    monkeypatch.setenv(backbone.WEIGHTS, str(tmp_path / "none.pth"))
    with pytest.raises(UserError, match=r"none\.pth"):
        latent.choose(root, "brick")
    assert settings.read_params(root) == before, "a refusal leaves the settings as they were"

    torch.save(published(), tmp_path / "weights.pth")
    monkeypatch.setenv(backbone.WEIGHTS, str(tmp_path / "weights.pth"))
    chosen = latent.choose(root, "brick")
    assert set(chosen.table.codes) == set(latent.CONTENDERS) and chosen.before == "pixels"
    assert chosen.table["mean"].is_monotonic_decreasing and chosen.codes == chosen.table.codes[0]
    named = settings.load(root, "brick").vqvae
    assert (named.latent, named.allocation) == (chosen.latent, chosen.allocation)
    assert latent.in_force(named) == chosen.codes
    kinds = [column for column in chosen.table if str(column).endswith(("_image", "_pixel"))]
    assert chosen.table["mean"].to_numpy() == pytest.approx(chosen.table[kinds].mean(axis=1).to_numpy())

    assert not {"package", "evaluate"} & set(trained), "no test image is looked at"

    with pytest.raises(UserError, match="did you mean 'patches'"):
        latent.choose(root, "brick", ["patch"])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A workspace in which codes over patches, in an order of its own, are what params.yaml names."""
    made = tiny.make(tmp_path / "plant")
    own = {"allocation": "context", "steps": 4}
    tiny.edit(made / "params.yaml", lambda params: params["overrides"]["brick"].update(vqvae=own))
    return made


def meanwhile(monkeypatch: pytest.MonkeyPatch, act: Callable[[Path], None]) -> None:
    """Have the first stage do `act` in place of its work."""
    monkeypatch.setattr(versioning, "repro_stage", lambda root, name, *others: act(root))


def overrides(root: Path, category: str = "brick") -> dict[str, Any]:
    return dict(settings.read_params(root)["overrides"][category])


def test_what_changed_meanwhile_in_params_yaml_outlives_a_failed_choice(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def imported(root: Path) -> None:
        assert overrides(root)["vqvae"] == {"steps": 4, "latent": "pixels", "allocation": "fixed"}
        data.register(root, "nut", "texture")
        raise versioning.StageError("augment@brick", 1, "no memory")

    meanwhile(monkeypatch, imported)
    with pytest.raises(UserError, match="no memory"):
        latent.choose(root, "brick", ["pixels"])
    assert overrides(root)["vqvae"] == {"allocation": "context", "steps": 4}
    assert "nut" in settings.read_params(root)["categories"] and overrides(root, "nut")["augment"]


def test_nobody_trains_or_imports_over_the_codes_that_are_tried(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def train(root: Path) -> None:
        with journal.standing_still(root, "brick", "wait for it to end"):
            raise AssertionError("a run got in between")

    meanwhile(monkeypatch, train)
    with pytest.raises(UserError, match=r"is being retrained by process .*; wait for it to end"):
        latent.choose(root, "brick", ["pixels"])
    with journal.standing_still(root, "brick", ""), pytest.raises(UserError, match="choose its codes when it has"):
        latent.choose(root, "brick", ["pixels"])


@contextmanager
def noticed(number: int) -> Iterator[None]:
    """Make a signal that nobody heeds an error of the test and not its end."""

    def unheeded(*arguments: object) -> None:
        raise AssertionError("nobody heeded the signal")

    before = signal.signal(number, unheeded)
    try:
        yield
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_a_choice_and_the_codes_before_are_named_again(
    root: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    cancellation = Cancellation()

    def signalled(root: Path) -> None:
        os.kill(os.getpid(), number)
        raise StoppedError if cancellation.stopped else AssertionError("it went on")

    meanwhile(monkeypatch, signalled)
    with noticed(number), interruptible(cancellation), pytest.raises(StoppedError):
        latent.choose(root, "brick", ["pixels"], cancellation=cancellation)
    assert overrides(root)["vqvae"] == {"allocation": "context", "steps": 4}


def test_the_next_command_puts_right_what_a_killed_choice_left(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meanwhile(monkeypatch, lambda root: os.kill(os.getpid(), signal.SIGKILL))
    child = multiprocessing.get_context("fork").Process(target=latent.choose, args=(root, "brick", ["pixels"]))
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    assert overrides(root)["vqvae"] == {"steps": 4, "latent": "pixels", "allocation": "fixed"}

    latent.settle(root, "brick")
    before = {"allocation": "context", "steps": 4}
    assert overrides(root)["vqvae"] == before
    named = {"latent": "features"}  # by hand, later
    tiny.edit(root / "params.yaml", lambda params: params["overrides"]["brick"].update(vqvae=named))
    latent.settle(root, "brick")
    assert overrides(root)["vqvae"] == named
