"""`python -m flows.team.rights`: who may write what on the team's MLflow, as mlflow/rights.yaml says it.

    apply             make models and experiments of every category, and give the roles their rights
    user NAME ROLE    make the user, or give an existing one the role; the password is asked for, or taken
                      from KINTSUGI_NEW_PASSWORD

Both sign in as the administrator: MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD. Both may be repeated.
"""

from __future__ import annotations

import argparse
import getpass
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from components.errors import UserError
from components.settings import find_root, read_params, read_yaml
from flows.adapters import registry, served, tracking
from flows.outcome import nearest
from flows.record import EXPERIMENT, REFUSALS

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.server.auth.client import AuthServiceClient

FILE = "mlflow/rights.yaml"
WORKSPACE = "default"  # MLflow's name for a server without workspaces
LEVELS = ("READ", "EDIT", "MANAGE")
SHORTEST = 12  # characters; MLflow's own limit


def load(root: Path) -> dict[str, dict[str, str]]:
    """Role -> what (`staging`, `production`, `runs`, `promotions`, `refusals`) -> level; UserError if it is wrong."""
    content = read_yaml(served.project_file(root, FILE))
    roles: dict[str, dict[str, str]] = {}
    for role, rights in (content.get("roles") or {}).items():
        for what, level in (rights or {}).items():
            if what not in RESOURCES:
                raise UserError(f"{FILE} {role} has an unknown right '{what}'{nearest(str(what), list(RESOURCES))}")
            if level not in LEVELS:
                raise UserError(f"{FILE} {role}.{what} is {level!r}; it must be one of {', '.join(LEVELS)}")
        roles[str(role)] = dict(rights or {})
    if not roles:
        raise UserError(f"{FILE} names no role; restore it from git")
    return roles


def _experiments(names: Callable[[str], Sequence[str]]) -> Callable[..., list[tuple[str, str]]]:
    def resources(client: MlflowClient, root: Path, categories: Sequence[str]) -> list[tuple[str, str]]:
        wanted = dict.fromkeys(name for category in categories for name in names(category))
        return [("experiment", tracking.experiment(client, root, name)) for name in wanted]

    return resources


def _models(name: Callable[[str], str]) -> Callable[..., list[tuple[str, str]]]:
    def resources(client: MlflowClient, root: Path, categories: Sequence[str]) -> list[tuple[str, str]]:
        for category in categories:
            registry.ensure(client, name(category))
        return [("registered_model", name(category)) for category in categories]

    return resources


RESOURCES = {
    "staging": _models(registry.staging),
    "production": _models(registry.production),
    "runs": _experiments(lambda category: [f"kintsugi/{category}", f"compare/{category}"]),
    "refusals": _experiments(lambda category: [REFUSALS]),
    "promotions": _experiments(lambda category: [EXPERIMENT]),
}


def apply(root: Path, categories: Sequence[str]) -> list[str]:
    """Bring roles and their rights to what the file says, for these categories; what changed, in words."""
    roles = load(root)
    client, users = tracking.connect(root), _users(root)
    found = {what: make(client, root, categories) for what, make in RESOURCES.items()}
    known = {role.name: role.id for role in users.list_roles(WORKSPACE)}
    changed = []
    for role, rights in roles.items():
        if role not in known:
            known[role] = users.create_role(WORKSPACE, role).id
            changed.append(f"role {role} made")
        wanted = {resource: level for what, level in rights.items() for resource in found[what]}
        held = {(p.resource_type, p.resource_pattern): p for p in users.list_role_permissions(known[role])}
        for resource, level in wanted.items():
            if resource not in held:
                users.add_role_permission(known[role], *resource, level)
            elif held[resource].permission != level:
                users.update_role_permission(held[resource].id, level)
            else:
                continue
            changed.append(f"{role}: {level} on {resource[0]} {resource[1]}")
        known_resources = {resource for each in found.values() for resource in each}
        for resource in (set(held) - set(wanted)) & known_resources:  # the file took it away
            users.remove_role_permission(held[resource].id)
            changed.append(f"{role}: nothing any more on {resource[0]} {resource[1]}")
    return changed


def add_user(root: Path, name: str, role: str, password: str) -> None:
    """Make a user with a role, or give an existing one the role; UserError for an unknown role."""
    from mlflow.exceptions import MlflowException

    users = _users(root)
    known = {each.name: each.id for each in users.list_roles(WORKSPACE)}
    if role not in known:
        raise UserError(f"there is no role '{role}'{nearest(role, list(known))}; `python -m flows.team.rights apply`")
    try:
        users.create_user(name, password)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    if role not in {each.name for each in users.list_user_roles(name)}:
        users.assign_role(name, known[role])


def _users(root: Path) -> AuthServiceClient:
    from mlflow.server.auth.client import AuthServiceClient

    uri = tracking.tracking_uri(root)
    if not uri.startswith(("http://", "https://")):
        raise UserError("rights belong to a server; set MLFLOW_TRACKING_URI to the team's MLflow")
    return AuthServiceClient(uri)


def main(arguments: list[str]) -> int:
    """Say what changed; 1 with one line when it cannot be done."""
    from mlflow.exceptions import MlflowException

    parser = argparse.ArgumentParser(prog="python -m flows.team.rights")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("apply", help="make models and experiments of every category, give the roles their rights")
    user = commands.add_parser("user", help="make a user with a role")
    user.add_argument("name")
    user.add_argument("role")
    chosen = parser.parse_args(arguments)
    try:
        root = find_root()
        if chosen.command == "apply":
            print(
                "\n".join(apply(root, [str(each) for each in read_params(root)["categories"] or []]) or ["unchanged"])
            )
            return 0
        password = os.environ.get("KINTSUGI_NEW_PASSWORD") or getpass.getpass(f"password for {chosen.name}: ")
        if len(password) < SHORTEST:
            raise UserError(f"the password has fewer than {SHORTEST} characters; take a longer one")
        add_user(root, chosen.name, chosen.role, password)
        print(f"{chosen.name} is {chosen.role}")
    except (UserError, MlflowException) as error:
        print(f"kintsugi: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
