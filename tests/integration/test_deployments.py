"""The plant's deployments and flows on a real Prefect server."""

from __future__ import annotations

import asyncio
import importlib
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from ruamel.yaml import YAML

from flows import plant
from flows.plant import FILE
from tests import plant_fixture as plants
from tests.artifacts_fixture import REPO, Fabricator, set_params


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefect_harness: str) -> Path:
    made = plants.make_plant(tmp_path / "plant")
    monkeypatch.chdir(made)
    return made


def events(name: str, wait: float = 10) -> list[Any]:
    """Events of this name that the server holds, once there is one."""
    from prefect.client.orchestration import get_client
    from prefect.events.filters import EventFilter, EventNameFilter, EventOccurredFilter

    asked = EventFilter(
        event=EventNameFilter(name=[name]), occurred=EventOccurredFilter(since=datetime(2026, 1, 1, tzinfo=UTC))
    )
    deadline = time.monotonic() + wait
    while True:
        with get_client(sync_client=True) as client:
            answer = client.request("POST", "/events/filter", json={"filter": asked.model_dump(mode="json")})
        found = answer.json()["events"]
        if found or time.monotonic() > deadline:
            return found
        time.sleep(0.3)


def test_watch_announces_a_landing_once(root: Path) -> None:
    from flows import daily

    for i in range(20):
        plants.save(root / f"landing/brick/{i}.png", plants.texture(i, 32))
    names = [daily.watch(str(root), "brick", return_state=True).name for _ in range(2)]
    assert names == ["Announced", "Quiet"]
    (event,) = events(daily.LANDED)
    assert event["resource"]["prefect.resource.id"] == "kintsugi.category.brick"
    assert event["payload"]["images"] == 20 and len(event["payload"]["digest"]) == 64


def test_everything_is_registered_and_scheduled(root: Path) -> None:
    from prefect.client.orchestration import get_client
    from prefect.runner import Runner

    from flows import deployments

    async def register() -> tuple[dict[str, Any], list[Any], list[Any]]:
        plan = deployments.Plan(root, Runner(name="test", pause_on_shutdown=False))
        await plan.add(deployments.of_workspace, root)
        await plan.join()
        await plan.join()  # what is known is not registered again
        async with get_client() as client:
            found = {(await client.read_flow(d.flow_id)).name: d for d in await client.read_deployments()}
            runs = [
                await client.read_deployment(r.deployment_id)
                for r in await client.read_flow_runs()
                if r.deployment_id and not r.auto_scheduled
            ]
            automations = await client.read_automations()
        return found, [run.name for run in runs], automations

    found, runs, automations = asyncio.run(register())
    assert set(found) >= {"watch", "ingest-and-retrain", "promote", "drift"}
    assert {found[name].name for name in ("watch", "ingest-and-retrain", "drift")} == {"brick"}
    for name in ("watch", "ingest-and-retrain", "promote", "drift"):
        assert found[name].global_concurrency_limit.limit == 1, name
        assert found[name].parameters["root"] == str(root)
    assert runs == ["brick", "brick"]  # watch and drift, at once
    settings = plant.load(root, "brick")
    for name, seconds in (("watch", settings.watch.every), ("drift", settings.drift.every * 3600)):
        (schedule,) = found[name].schedules
        assert schedule.active and schedule.schedule.interval.total_seconds() == seconds
    form = found["promote"].parameter_openapi_schema["properties"]
    assert form["decision"]["enum"] == ["approve", "refuse", "rollback"]
    assert {"category", "approver", "reason"} <= set(found["promote"].parameter_openapi_schema["required"])
    (automation,) = [each for each in automations if each.name == "retrain brick when images landed"]
    assert automation.trigger.expect == {"kintsugi.images.landed"}
    assert automation.actions[0].parameters == {"digest": "{{ event.payload.digest }}"}


def test_a_category_that_cannot_join_keeps_no_other_out_and_one_that_is_gone_leaves(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from prefect.client.orchestration import get_client
    from prefect.deployments.runner import DeploymentApplyError
    from prefect.runner import Runner

    from flows import deployments

    real = deployments.of_category

    def refused(root: Path, category: str) -> list[Any]:
        if category == "nut":
            raise DeploymentApplyError("Prefect did not like it")
        return real(root, category)

    async def named() -> set[str]:
        async with get_client() as client:
            found = await client.read_deployments()
        return {d.name for d in found if d.parameters.get("root") == str(root)}

    async def days() -> list[set[str]]:
        seen = []
        plan = deployments.Plan(root, Runner(name="test", pause_on_shutdown=False))
        await plan.add(deployments.of_workspace, root)
        set_params(root, "manual", ("nut", "brick", "tile"))
        await plan.join()
        await plan.join()
        seen.append(await named())
        monkeypatch.setattr(deployments, "of_category", real)
        await plan.join()
        seen.append(await named())
        set_params(root, "manual", ("nut", "tile"))
        await plan.join()
        seen.append(await named())
        set_params(root, "manual", ("tile",))  # while nothing was up
        await deployments.Plan(root, plan.runner).join()
        seen.append(await named())
        return seen

    monkeypatch.setattr(deployments, "of_category", refused)
    own = {"decide", "tile"}
    assert asyncio.run(days()) == [own | {"brick"}, own | {"brick", "nut"}, own | {"nut"}, own]
    assert [r.message for r in caplog.records if "did not like it" in r.message] == [
        "nut has no schedules yet: Prefect did not like it"
    ]


def test_what_fell_due_while_nothing_was_up_is_not_made_up_for(root: Path) -> None:
    from prefect.client.orchestration import get_client
    from prefect.runner import Runner

    from flows import deployments

    async def late() -> list[int]:
        counts = []
        plan = deployments.Plan(root, Runner(name="test", pause_on_shutdown=False))
        await plan.join()
        async with get_client() as client:
            watch = await client.read_deployment_by_name("watch/brick")
            now = datetime.now(UTC)
            window = {"start_time": (now - timedelta(hours=1)).isoformat(), "end_time": now.isoformat()}
            await client.request("POST", f"/deployments/{watch.id}/schedule", json=window)
            for _ in range(2):
                runs = [run for run in await client.read_flow_runs() if run.deployment_id == watch.id]
                counts.append(sum(run.auto_scheduled and run.expected_start_time <= now for run in runs))
                await deployments.Plan(root, plan.runner).join()  # as after a restart
        return counts

    assert asyncio.run(late()) == [12, 0]


def test_the_teams_file_names_the_same_deployments(root: Path) -> None:
    from flows import deployments

    served = [*deployments.of_workspace(root), *deployments.of_category(root, "brick")]
    written = YAML(typ="safe").load((REPO / "infra/prefect.yaml").read_text())["deployments"]
    assert {(d["entrypoint"], d["name"]) for d in written} == {(d.entrypoint, d.name) for d in served}
    settings = plant.load(REPO, "brick")
    for one in written:
        module, _, name = one["entrypoint"].rpartition(".")
        flow = getattr(importlib.import_module(module), name)
        assert set(one["parameters"]) <= set(flow.parameters.properties)
        every = {"watch": settings.watch.every, "drift": settings.drift.every * 3600}.get(name)
        assert [s["interval"] for s in one.get("schedules", [])] == ([every] if every else [])
    (trigger,) = next(d for d in written if "triggers" in d)["triggers"]
    (own,) = next(d for d in served if d.triggers).triggers
    assert set(trigger["expect"]) == own.expect and trigger["parameters"] == own.parameters
    assert [trigger["match"]["prefect.resource.id"]] == own.match["prefect.resource.id"]


def test_the_form_and_drift_on_a_real_registry(plant: Fabricator, prefect_harness: str) -> None:
    import json
    import shutil

    from flows import daily, promote
    from flows import drift as drifting
    from flows.adapters import tracking
    from flows.publish import publish
    from tests.artifacts_fixture import write_bundle

    root = plant.root
    set_params(root, "manual")
    write_bundle(root / "artifacts/brick/package")
    bundle = root / "artifacts/brick/package/bundle.json"
    content = json.loads(bundle.read_text())
    content["calibration"]["normal_scores"] = [1 + i / 100 for i in range(60)]
    content["calibration"]["normal_least_likelihoods"] = [0.1 + i / 1000 for i in range(60)]
    bundle.write_text(json.dumps(content))
    plant.record("brick")
    assert daily.drift(str(root), "brick", return_state=True).name == "Quiet"  # no model yet
    publish(root, "brick")
    decided = {
        "refuse": daily.promote(str(root), "brick", "Bo", "blurred", "refuse", return_state=True),
        "overturn": daily.promote(str(root), "brick", "Bo", "by mistake", "approve", return_state=True),
        "approve": daily.promote(str(root), "brick", "Bo", "looked again", "approve", version="1", return_state=True),
        "rollback": daily.promote(str(root), "brick", "Bo", "no", "rollback", return_state=True),
    }
    assert {k: s.type.value for k, s in decided.items()} == {
        "refuse": "COMPLETED", "overturn": "FAILED", "approve": "COMPLETED",
        "rollback": "FAILED",  # there is none before the first
    }  # fmt: skip
    assert promote.history(root, "brick")["kind"].tolist() == ["refusal", "promotion"]

    assert daily.drift(str(root), "brick", return_state=True).name == "Quiet"  # nothing was inspected yet
    table = pd.DataFrame({"path": "a.png", "score": [2.0 + i / 100 for i in range(60)]})
    usual = table.assign(least_likelihood=[0.1 + i / 1000 for i in range(60)], model="production.brick/1")
    drifting.append(root, "brick", usual)
    drifting.append(root, "brick", table.assign(score=1.2, least_likelihood=0.1, model="production.brick/9"))
    state = daily.drift(str(root), "brick", return_state=True)
    assert state.name == "Drifted" and "score parted (D = 1.000" in state.message
    assert "least likelihood as calibrated" in state.message
    (event,) = events(daily.DRIFTED)
    assert event["payload"]["images"] == 60 and event["payload"]["model"] == "production.brick/1"
    assert event["payload"]["parted"] == ["score"]
    assert event["payload"]["comparisons"]["least_likelihood"]["statistic"] < 0.1
    client = tracking.connect(root)
    run = client.get_run(event["payload"]["run_id"])
    assert run.data.metrics["score/p_value"] < 0.001 and run.data.metrics["score/ks_statistic"] == 1.0
    assert run.data.metrics["least_likelihood/p_value"] > 0.5 and run.data.tags["parted"] == "score"
    assert [f.path for f in client.list_artifacts(run.info.run_id)] == ["distributions.png"]

    settings = (root / FILE).read_text()
    (root / FILE).write_text(settings.replace("p_value:", "pvalue:"))
    failed = daily.drift(str(root), "brick", return_state=True)
    assert failed.is_failed() and "did you mean 'p_value'" in failed.message
    (root / FILE).write_text(settings)

    # The parts change while the score stays: what MLflow's own server logged counts as well.
    shutil.rmtree(root / "logs")
    served = usual.assign(score=content["calibration"]["normal_scores"], model=f"sha256:{content['sha256']}")
    drifting.append(root, "brick", served.assign(least_likelihood=usual["least_likelihood"] / 1000))
    assert drifting.drift(root, "brick").parted == ("least_likelihood",)
