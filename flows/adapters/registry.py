"""The model registry: staging and production models, aliases, tags; what fails in passing is retried."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from components.errors import UserError
from flows.adapters.hush import hushed

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.exceptions import MlflowException

CHAMPION, PREVIOUS = "champion", "previous"
PAUSES = (0.1, 0.3, 1.0, 3.0)  # seconds between attempts at what a busy database refused
AWAY = (
    "could not connect", "connection refused", "max retries exceeded", "server has gone away",
    "error code 500", "error code 502", "error code 503", "error code 504",
)  # fmt: skip
FORBIDDEN = ("PERMISSION_DENIED", "UNAUTHENTICATED")
PASSING = ("TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED")
BUSY = ("database is locked", "deadlock detected", "connection was closed", "server closed the connection")

P = ParamSpec("P")
R = TypeVar("R")


def retried(function: Callable[P, R]) -> Callable[P, R]:
    """Repeat a call that failed for a reason that passes (a locked or restarting database)."""

    @functools.wraps(function)
    def attempt(*args: P.args, **kwargs: P.kwargs) -> R:
        from mlflow.exceptions import MlflowException

        for pause in PAUSES:
            try:
                return function(*args, **kwargs)
            except MlflowException as error:
                _may(error)
                if not _busy(error):
                    raise
                time.sleep(pause)
        return function(*args, **kwargs)

    return attempt


def _busy(error: MlflowException) -> bool:
    return error.error_code in PASSING or any(sign in str(error).lower() for sign in BUSY)


def passes(error: BaseException) -> bool:
    """Whether the same may succeed minutes later: the database is busy or restarting, the server or store is away."""
    from mlflow.exceptions import MlflowException

    if not isinstance(error, MlflowException):
        return False
    return _busy(error) or any(sign in str(error).lower() for sign in AWAY)


def _may(error: MlflowException) -> None:
    """Raise UserError for what a team's server does not let this user do."""
    if error.error_code in FORBIDDEN or "error code 403" in str(error):
        who = os.environ.get("MLFLOW_TRACKING_USERNAME", "this user")
        raise UserError(
            f"MLflow does not let {who} do this ({' '.join(str(error).split())[:200]}); sign in as someone whose "
            "role may (MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD), or ask the administrator"
        ) from None


def staging(category: str) -> str:
    """Name of the registered model that every finished run of the category joins."""
    return f"staging.{category}"


def production(category: str) -> str:
    """Name of the registered model whose champion serves."""
    return f"production.{category}"


@retried
def ensure(client: MlflowClient, name: str) -> None:
    """Make the registered model if it is not there."""
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


@retried
def register(
    client: MlflowClient,
    name: str,
    source: str,
    run_id: str,
    model_id: str | None,
    tags: Mapping[str, str],
    description: str,
) -> ModelVersion:
    """Create the next version of `name`, tags, description and all, in one database transaction."""
    ensure(client, name)
    return client.create_model_version(name, source, run_id, dict(tags), model_id=model_id, description=description)


@retried
def copy(client: MlflowClient, version: ModelVersion, name: str) -> ModelVersion:
    """Copy a version, with its tags, to another registered model; the copy's source names the original."""
    with hushed("stderr"):  # MLflow announces every copy there
        return client.copy_model_version(f"models:/{version.name}/{version.version}", name)


@retried
def versions(client: MlflowClient, name: str) -> list[ModelVersion]:
    """Every version of a registered model, newest first; empty when there is no such model."""
    found: list[ModelVersion] = []
    token: str | None = None
    while True:
        page = client.search_model_versions(f"name='{name}'", max_results=1000, page_token=token)
        found += page
        token = page.token
        if not token:
            return sorted(found, key=lambda v: int(v.version), reverse=True)


def waiting(client: MlflowClient, category: str) -> list[str]:
    """Numbers of the staging versions that passed their gates and that nobody has decided about, newest first."""
    found = versions(client, staging(category))
    return [str(v.version) for v in found if v.tags.get("promotion") == "waiting"]


@retried
def categories(client: MlflowClient) -> list[str]:
    """Every category that has a version or had one, whether or not params.yaml still names it."""
    found: set[str] = set()
    token: str | None = None
    while True:
        page = client.search_registered_models(page_token=token)
        found |= {m.name.partition(".")[2] for m in page if m.name.startswith((staging(""), production("")))}
        token = page.token
        if not token:
            return sorted(found)


def by_identity(client: MlflowClient, name: str, identity: str) -> ModelVersion | None:
    """The version made from this very state, if any."""
    return next((v for v in versions(client, name) if v.tags.get("identity") == identity), None)


@retried
def get(client: MlflowClient, name: str, version: str) -> ModelVersion | None:
    """One version, or None when it does not exist."""
    found: ModelVersion | None = _absent_as_none(lambda: client.get_model_version(name, version))
    return found


@retried
def aliased(client: MlflowClient, name: str, alias: str) -> str:
    """Number of the version that carries the alias, empty when none does."""
    found = _absent_as_none(lambda: client.get_model_version_by_alias(name, alias))
    return str(found.version) if found is not None else ""


@retried
def point(client: MlflowClient, name: str, alias: str, version: str) -> None:
    """Move an alias to a version, or take it away when `version` is empty."""
    if version:
        client.set_registered_model_alias(name, alias, version)
    else:
        _absent_as_none(lambda: client.delete_registered_model_alias(name, alias))


@retried
def tag(client: MlflowClient, name: str, version: str, tags: Mapping[str, str]) -> None:
    """Set tags on one version."""
    for key, value in tags.items():
        client.set_model_version_tag(name, version, key, value)


@retried
def delete(client: MlflowClient, name: str, version: str) -> None:
    """Remove a version; nothing happens when it is gone already."""
    _absent_as_none(lambda: client.delete_model_version(name, version))


def resolve(client: MlflowClient, category: str, version: str | None) -> ModelVersion:
    """The version a person means: `3` in production, `staging/3`, or by default the champion.

    Where nothing was ever promoted the default is the newest in staging. UserError when there is none.
    """
    name, number = production(category), version or aliased(client, production(category), CHAMPION)
    if version is not None and "/" in version:
        model, number = version.split("/", 1)
        if model not in ("staging", "production"):
            raise UserError(f"no version '{version}'; write 3, production/3 or staging/3")
        name = f"{model}.{category}"
    elif not number:
        name = staging(category)
        number = next((str(v.version) for v in versions(client, name)), "")
    found = get(client, name, number) if number.isdecimal() else None
    if found is None:
        known = ", ".join(str(v.version) for v in reversed(versions(client, name))) or "none yet"
        raise UserError(f"{name} has no version {number or 'at all'}; there are: {known}")
    return found


def origin(version: ModelVersion) -> str:
    """Number of the staging version that a production version was copied from."""
    return str(version.source).rsplit("/", 1)[-1]


@retried
def download(client: MlflowClient, version: ModelVersion) -> str:
    """Folder that holds the version's stored model: in place for a local store, else fetched.

    What was fetched is gone when the process ends.
    """
    location = client.get_model_version_download_uri(version.name, version.version)
    return fetched(location)


def fetched(location: str) -> str:
    """Folder with the files of an artifact location, a `models:/` address included."""
    import mlflow.artifacts

    if location.startswith(("file:", "/")):
        return str(mlflow.artifacts.download_artifacts(artifact_uri=location))
    scratch = tempfile.mkdtemp(prefix="kintsugi-model-")
    atexit.register(shutil.rmtree, scratch, ignore_errors=True)
    return str(mlflow.artifacts.download_artifacts(artifact_uri=location, dst_path=scratch))


def _absent_as_none(call: Callable[[], Any]) -> Any:
    from mlflow.exceptions import MlflowException

    try:
        return call()
    except MlflowException as error:
        # A missing alias is INVALID_PARAMETER_VALUE in the SQL store and RESOURCE_DOES_NOT_EXIST over REST.
        if error.error_code == "RESOURCE_DOES_NOT_EXIST" or "not found" in str(error).lower():
            return None
        raise
