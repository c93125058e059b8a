"""Who may make a registered model: MLflow lets everybody, and whoever makes `production.x` would own it.

MLflow's rights are given per name, and a name that does not exist yet has none. So new names below
`production.`, and the record of promotions, are the administrator's (`python -m flows.team.rights apply` makes
them): a model trained by anyone can be registered in staging, but nobody walks into production by the door of a
new name or of a rename.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

MODELS, PROMOTIONS = "production.", "promotions"
# The end of a request's path -> the field that holds the name to be made, and the names that are reserved there.
DOORS: dict[str, tuple[str, Callable[[str], bool]]] = {
    "/registered-models/create": ("name", lambda name: name.startswith(MODELS)),
    "/registered-models/rename": ("new_name", lambda name: name.startswith(MODELS)),
    "/experiments/create": ("name", lambda name: name == PROMOTIONS),
    "/experiments/update": ("new_name", lambda name: name == PROMOTIONS),
}


def claims(path: str, body: object) -> str:
    """The reserved name that a request would make, empty for none."""
    field, reserved = next((entry for door, entry in DOORS.items() if path.endswith(door)), ("", str.isspace))
    if not field or not isinstance(body, dict):
        return ""
    # Protobuf's JSON takes both spellings, and whoever gives both must not get past.
    first, *rest = field.split("_")
    spellings = {field, first + "".join(word.title() for word in rest)}
    names = [str(body[key]) for key in sorted(spellings & set(body))]
    return next((name for name in names if reserved(name)), "")


def authenticate() -> Any:
    """MLflow's authorization function: basic authentication, and the rule above; flask's Response refuses."""
    from flask import Response, request
    from mlflow.server import auth

    answer = auth.authenticate_request_basic_auth()
    if isinstance(answer, Response):
        return answer
    name = claims(request.path, request.get_json(silent=True, force=True) if request.data else None)
    if name and not auth.store.get_user(str(answer.username)).is_admin and not _exists(name):
        return Response(f"{name} is made by an administrator: python -m flows.team.rights apply", 403)
    return answer


def _exists(name: str) -> bool:
    """Whether the name is taken: then the server says so itself, which a promotion's copying relies on."""
    from mlflow.exceptions import MlflowException

    stores: Any = importlib.import_module("mlflow.server.handlers")
    try:
        if name == PROMOTIONS:
            return stores._get_tracking_store().get_experiment_by_name(name) is not None
        stores._get_model_registry_store().get_registered_model(name)
    except MlflowException:
        return False
    return True
