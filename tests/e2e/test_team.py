"""A team's services by environment variables alone: rights on staging and production, PostgreSQL, S3."""

from __future__ import annotations

import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from components.errors import UserError
from flows import judge, promote
from flows.adapters import registry, served, tracking, versioning
from flows.audit import audit
from flows.publish import publish
from flows.team import rights
from tests.artifacts_fixture import Fabricator, make_workspace
from tests.e2e import outage
from tests.e2e.team import ADMIN_PASSWORD, Team, patched, team
from tests.toy import Toy

pytestmark = pytest.mark.slow

USERS = {
    "ada": ("trainer", "trains-every-night"),
    "bo": ("promoter", "decides-every-day"),
    "cy": ("reader", "looks-only!!"),
}


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Team, Path]]:
    """The servers with roles and users made by the administrator, and a workspace with a finished category."""
    folder = tmp_path_factory.mktemp("team")
    with team(folder) as running:
        root = make_workspace(folder / "plant", policy="manual")
        (root / ".dvc" / "tmp").mkdir()
        Fabricator(root)()
        with patched(running.client("admin", ADMIN_PASSWORD)):
            assert rights.apply(root, ["brick"])
            assert rights.apply(root, ["brick"]) == []  # nothing left to change
            for name, (role, password) in USERS.items():
                rights.add_user(root, name, role, password)
        yield running, root


def signed_in(running: Team, name: str) -> dict[str, str]:
    return running.client(name, USERS[name][1])


def forbidden(client: MlflowClient) -> list[str]:
    """What of a production write is let through."""
    doors = {
        "create": lambda: client.create_registered_model("production.bolt"),
        "rename": lambda: client.rename_registered_model("staging.brick", "production.bolt"),
        "copy": lambda: client.copy_model_version("models:/staging.brick/1", "production.brick"),
        "copy to a new one": lambda: client.copy_model_version("models:/staging.brick/1", "production.bolt"),
        "alias": lambda: client.set_registered_model_alias("production.brick", "champion", "1"),
        "alias away": lambda: client.delete_registered_model_alias("production.brick", "champion"),
        "tag": lambda: client.set_model_version_tag("production.brick", "1", "model.sha256", "0" * 64),
        "delete": lambda: client.delete_registered_model("production.brick"),
        "record": lambda: client.create_run(client.get_experiment_by_name("promotions").experiment_id),
    }
    through = []
    for name, door in doors.items():
        try:
            door()
            through.append(name)
        except MlflowException as error:
            assert "403" in str(error) or error.error_code == "PERMISSION_DENIED", (name, error)
    return through


def test_a_trainer_registers_a_promoter_promotes_and_nobody_else_writes_production(
    services: tuple[Team, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    running, root = services
    monkeypatch.chdir(root)
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{running.mlflow}/api/2.0/mlflow/registered-models/search")

    with patched(signed_in(running, "ada")):
        published = publish(root, "brick")
        assert published.status == "waiting" and published.version == "1"
        with pytest.raises(UserError, match="MLflow does not let ada do this"):
            promote.promote(root, "brick", "Ada", "I like it")
        client = tracking.connect(root)
        assert promote.history(root, "brick").empty  # no half-made promotion is left behind

    with patched(signed_in(running, "bo")):  # the command, as a person types it
        program = Path(sys.executable).parent / "kintsugi"
        done = subprocess.run(
            [str(program), "promote", "brick", "--by", "Bo", "--why", "looked at 40 pictures"],
            cwd=root, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert registry.aliased(tracking.connect(root), "production.brick", "champion") == "1"

    for name in ("ada", "cy"):
        with patched(signed_in(running, name)):
            client = tracking.connect(root)
            assert forbidden(client) == []
            champion = registry.resolve(client, "brick", None)  # reading is everybody's
            assert (served.checked_package(client, champion) / "bundle.json").is_file()
    with patched(signed_in(running, "bo")):
        trail = audit(root, "brick")
        assert trail.verified, trail.broken

    # A training job may write its runs' files, a promoted model's among them: hashes say so, nothing is served.
    with patched(signed_in(running, "ada")):
        client = tracking.connect(root)
        stored = fsspec.filesystem("s3", endpoint_url=running.objects)
        model = next(path for path in stored.find("kintsugi/mlflow") if path.endswith("package/model.safetensors"))
        whole = stored.cat_file(model)
        stored.pipe_file(model, b"another model")
        with pytest.raises(UserError, match="are not those that were registered"):
            served.checked_package(client, registry.resolve(client, "brick", None))
        stored.pipe_file(model, whole)


def test_dvc_pushes_to_the_store_that_the_environment_names_and_fetches_from_it(
    services: tuple[Team, Path], tmp_path: Path
) -> None:
    running, _ = services
    with patched(running.client()):
        root = make_workspace(tmp_path / "one")
        (root / ".dvc" / "tmp").mkdir()
        (root / "data" / "bolt").mkdir(parents=True)
        (root / "data" / "bolt" / "image").write_text("a bolt")
        versioning.add_data(root)
        versioning.push(root)
        assert fsspec.filesystem("s3", endpoint_url=running.objects).find("kintsugi/dvc")
        assert not (root.parent / "remote").exists() and not (root / "remote").exists()
        other = make_workspace(tmp_path / "two")
        (other / ".dvc" / "tmp").mkdir()
        (other / "data.dvc").write_text((root / "data.dvc").read_text())
        versioning.pull(other, ["data.dvc"])
        assert (other / "data" / "bolt" / "image").read_text() == "a bolt"


def test_the_server_says_all_that_it_lacks() -> None:
    command = [sys.executable, "-P", "-m", "flows.team.server"]
    with patched({"MLFLOW_AUTH_ADMIN_PASSWORD": "", "MLFLOW_BACKEND_STORE_URI": "postgresql://x"}):
        done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert "MLFLOW_AUTH_ADMIN_PASSWORD" in done.stderr and "KINTSUGI_AUTH_STORE_URI" in done.stderr
    assert "BACKEND" not in done.stderr


def test_database_and_store_away_in_mid_publication_and_mid_run(
    services: tuple[Team, Path], toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    running, root = services
    # The stages' files are made up here, and the champion's latency would be measured on its real package.
    monkeypatch.setattr(judge, "latencies", lambda packages, root, category: [0.1] * len(packages))
    Fabricator(root)(seed=7)
    with patched(signed_in(running, "ada")):
        published, seconds = outage.during_a_publication(running, root, 3, outage.when_parameters_are_logged)
        assert published.status == "waiting" and seconds > 3
        again = publish(root, "brick")
        assert again.version == published.version and not again.new
    said = outage.during_a_run(running, toy, 4)
    assert said == "augment=ran train_vqvae=ran evaluate=ran publish=ran"
