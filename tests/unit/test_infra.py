"""The containers' files: valid by their schemas, no secret within, nothing open that people do not use."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from ruamel.yaml import YAML

from tests.conftest import REPO

INFRA = REPO / "infra"
COMPOSE = INFRA / "compose.yaml"
SECRET = re.compile(r"PASSWORD|SECRET|_KEY|AUTH_STRING|AUTH$")


def program(name: str) -> str:
    return str(Path(sys.executable).parent / name)


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return dict(YAML(typ="safe").load(COMPOSE.read_text()))


def manifests() -> list[Any]:
    yaml = YAML(typ="safe")
    return [
        pytest.param(document, id=f"{document['kind']}-{document['metadata']['name']}")
        for path in sorted((INFRA / "k8s").glob("*.yaml"))
        for document in yaml.load_all(path.read_text())
    ]


def test_compose_files_follow_the_schema() -> None:
    files = [str(COMPOSE), str(INFRA / "compose.gpu.yaml")]
    done = subprocess.run(
        [program("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", *files], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def test_the_dockerfile_has_no_findings() -> None:
    done = subprocess.run([program("hadolint"), str(INFRA / "Dockerfile")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    text = (INFRA / "Dockerfile").read_text()
    assert text.rindex("USER 10001") > text.rindex("FROM base AS final"), "the final image runs as root"
    assert all("constraints.txt" in line for line in text.splitlines() if "pip install" in line)


def test_nothing_in_compose_has_a_default_password(compose: dict[str, Any]) -> None:
    text = "\n".join(line for line in COMPOSE.read_text().splitlines() if not line.lstrip().startswith("#"))
    given = set(re.findall(r"\$\{(\w+):\?[^}]+\}", text))
    free = set(re.findall(r"\$\{(\w+)(?::-[^}]*)?\}", text)) - given
    assert free == {"KINTSUGI_BIND", "KINTSUGI_FLAVOUR"}
    example = dict(line.split("=", 1) for line in (INFRA / "env.example").read_text().splitlines() if "=" in line)
    assert set(example) == given and set(example.values()) == {""}
    for name, service in compose["services"].items():
        for key, value in (service.get("environment") or {}).items():
            assert not SECRET.search(key) or ":?" in value, f"{name}: {key} is written down"


def test_only_what_people_use_is_published_and_nothing_runs_with_rights(compose: dict[str, Any]) -> None:
    published = {name: service["ports"] for name, service in compose["services"].items() if "ports" in service}
    assert set(published) == {"mlflow", "prefect", "inspection"}
    assert all(port.startswith("${KINTSUGI_BIND:-127.0.0.1}:") for ports in published.values() for port in ports)
    assert compose["networks"]["inside"]["internal"] is True
    for name, service in compose["services"].items():
        assert service["cap_drop"] == ["ALL"] and service["security_opt"] == ["no-new-privileges:true"], name
        assert ":" in service["image"] and "latest" not in service["image"], name
        assert "healthcheck" in service or service["restart"] == "on-failure", name
    for name in ("postgres", "objects"):
        assert compose["services"][name]["networks"] == ["inside"] and compose["services"][name]["volumes"], name


@pytest.mark.parametrize("manifest", manifests())
def test_a_manifest_follows_kubernetes_schema(manifest: dict[str, Any]) -> None:
    kubernetes_validate.validate(manifest, "1.32", strict=True)


def pods() -> Iterator[Any]:
    for param in manifests():
        (manifest,) = param.values
        if "template" in manifest.get("spec", {}):
            yield pytest.param(manifest["spec"]["template"]["spec"], id=param.id)


@pytest.mark.parametrize("pod", pods())
def test_a_pod_has_no_more_rights_than_it_needs(pod: dict[str, Any]) -> None:
    assert pod["securityContext"]["runAsNonRoot"] and not pod["automountServiceAccountToken"]
    for container in [*pod["containers"], *pod.get("initContainers", [])]:
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        assert "memory" in container["resources"]["limits"]
        assert all("value" not in each for each in container.get("env", []) if SECRET.search(each["name"]))


def commands(compose: dict[str, Any]) -> list[list[str]]:
    found = [service["command"] for service in compose["services"].values() if "command" in service]
    found += [
        service["healthcheck"]["test"][1:] for service in compose["services"].values() if "healthcheck" in service
    ]
    for param in pods():
        (pod,) = param.values
        found += [each["command"] for each in [*pod["containers"], *pod.get("initContainers", [])] if "command" in each]
    return found


def test_the_modules_that_containers_run_exist(compose: dict[str, Any]) -> None:
    modules = {words[2] for words in commands(compose) if words[:2] == ["python", "-m"]}
    assert len(modules) >= 4 and all(importlib.util.find_spec(module) for module in modules)


def test_a_gpu_pool_gives_each_worker_one_device() -> None:
    found = [param.values[0] for param in pods() if "nvidia.com/gpu" in str(param.values[0])]
    (worker,) = (pod["containers"][0] for pod in found)
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == 1 and worker["image"] == "kintsugi:cuda"
    words = worker["command"]
    assert words[words.index("--pool") + 1] == "gpu" and words[words.index("--limit") + 1] == "1"
