"""A landing place in S3, over HTTP: what is taken, what stays, and what is said when the bucket does not answer."""

from __future__ import annotations

import logging
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from components.errors import UserError
from flows import cli, watch
from flows.adapters import versioning
from flows.ingest import landing
from flows.ingest.files import PassingError
from tests import plant_fixture as plants

PLACE = "s3://line/landing/brick"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of an S3 server of this process."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    served = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    served.start()
    host, port = served.get_host_and_port()
    yield f"http://{host}:{port}"
    served.stop()


@pytest.fixture
def s3(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client of the server's owner, an empty bucket `line`, and the environment that an ingest needs."""
    import boto3
    from s3fs import S3FileSystem

    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server)
    owner = {
        "endpoint_url": server, "region_name": "us-east-1", "aws_access_key_id": "o", "aws_secret_access_key": "o"
    }  # fmt: skip
    iam = boto3.client("iam", **owner)
    iam.create_user(UserName="ingest")
    reads = '"Action": ["s3:ListBucket", "s3:GetObject"]'
    allowed = f'{{"Version": "2012-10-17", "Statement": [{{"Effect": "Allow", {reads}, "Resource": "*"}}]}}'
    iam.put_user_policy(UserName="ingest", PolicyName="reads", PolicyDocument=allowed)
    key = iam.create_access_key(UserName="ingest")["AccessKey"]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
    client = boto3.client("s3", **owner)
    client.create_bucket(Bucket="line")
    S3FileSystem.clear_instance_cache()
    yield client
    S3FileSystem.clear_instance_cache()
    moto(server, "reset-auth", b"inf")
    moto(server, "reset")


def moto(server: str, what: str, body: bytes = b"") -> None:
    """Tell the server to forget everything (`reset`), or to check signatures from now on (`reset-auth` 0)."""
    request = urllib.request.Request(f"{server}/moto-api/{what}", body, {"Content-Type": "text/plain"}, method="POST")
    urllib.request.urlopen(request, timeout=10).close()


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A plant whose landing place is the bucket, with a quick DVC."""
    made = plants.make_plant(tmp_path / "plant", landing="s3://line/landing/{category}")
    (made / ".kintsugi").mkdir()
    plants.quick_dvc(monkeypatch.setattr)
    versioning.add_data(made)
    monkeypatch.chdir(made)
    return made


def put(client: Any, key: str, content: bytes) -> None:
    client.put_object(Bucket="line", Key=f"landing/brick/{key}", Body=content)


def keys(client: Any) -> list[str]:
    found = client.list_objects_v2(Bucket="line").get("Contents", [])
    return sorted(one["Key"].removeprefix("landing/brick/") for one in found)


def encoded(image: Any) -> bytes:
    import cv2

    return bytes(cv2.imencode(".png", image)[1].tobytes())


def test_watch_and_ingest_take_each_object_once_and_leave_it(root: Path, s3: Any, server: str) -> None:
    moto(server, "reset-auth", b"0")
    assert watch.look(root, "brick").reason == "nothing waits"  # a bucket without the folder is an empty folder
    moto(server, "reset-auth", b"inf")
    for i in range(20):
        put(s3, f"n{i:02}.png", encoded(plants.texture(2000 + i)))
    put(s3, "defect.png", encoded(plants.defective(1)))
    put(s3, "bad.png", b"no pixels")
    before = keys(s3)

    moto(server, "reset-auth", b"0")  # what follows is signed, and the signature is checked
    sight = watch.look(root, "brick")
    assert sight.due and sight.images == 22
    report = plants.ingest(root)
    assert [len(fates) for fates in (report.accepted, report.held, report.quarantined)] == [20, 1, 1]
    assert (root / "data/brick/train/good/n07.png").read_bytes() == encoded(plants.texture(2007))
    assert (root / "held/brick/defect.png").is_file() and (root / "quarantine/brick/bad.png.json").is_file()
    assert watch.look(root, "brick").reason == "nothing waits"
    assert not plants.ingest(root).accepted

    moto(server, "reset-auth", b"inf")
    assert keys(s3) == before  # the bucket is not ours to empty
    put(s3, "bad.png", encoded(plants.texture(2100)))  # written anew: looked at anew
    assert [fate.name for fate in plants.ingest(root).accepted] == ["bad.png"]


def test_names_that_no_folder_could_have(root: Path, s3: Any) -> None:
    strange = ("a", "a/b.png", "/c.png", "../d.png", "é ü+?%.png", f"{'x' * 300}.png", "monday/e.png", "monday//e.png")
    for i, key in enumerate(strange):
        put(s3, key, encoded(plants.texture(2200 + i)))
    for marker in ("", "monday/", ".hidden.png", "Thumbs.db"):  # what consoles and file managers leave behind
        put(s3, marker, b"")
    report = plants.ingest(root)
    told = [*report.accepted, *report.quarantined]
    assert len(told) == len(strange)
    assert {"b.png", "c.png", "d.png", "e.png"} <= {Path(fate.name).name for fate in report.accepted}
    assert len({fate.target for fate in told}) == len(strange)
    assert not plants.ingest(root).accepted


def failure(root: Path) -> tuple[str, str]:
    """What watch and ingest say, as one line each."""
    said = []
    for act in (lambda: watch.look(root, "brick"), lambda: plants.ingest(root)):
        with pytest.raises(UserError) as refused:
            act()
        said.append(str(refused.value))
    assert all("\n" not in line and "Traceback" not in line for line in said)
    return said[0], said[1]


def test_no_such_bucket_is_one_line(root: Path, s3: Any, capsys: pytest.CaptureFixture[str]) -> None:
    s3.delete_bucket(Bucket="line")
    assert failure(root)[0] == f"{PLACE} is nowhere (The specified bucket does not exist); " + (
        "make the bucket, or correct ingest.landing"
    )
    with pytest.raises(SystemExit) as ended:
        cli.main(["ingest", "s3://other/landing", "--category", "brick"])
    shown = capsys.readouterr()
    assert ended.value.code == 1 and shown.out == ""
    assert shown.err.splitlines()[-1].startswith("kintsugi: s3://other/landing is nowhere (The specified bucket")


@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_wrong_credentials_are_one_line_and_not_tried_again(
    root: Path, s3: Any, server: str, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    put(s3, "n.png", encoded(plants.texture(2000)))
    monkeypatch.setenv(name, "wrong")
    moto(server, "reset-auth", b"0")
    with pytest.raises(UserError, match=r"may not be read \(.*\); check AWS_ACCESS_KEY_ID and AWS_SECRET") as refused:
        plants.ingest(root)
    assert not isinstance(refused.value, PassingError)
    assert failure(root)


def test_a_server_that_is_away_passes(root: Path, s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr("s3fs.core.S3FileSystem.retries", 1)
    with pytest.raises(PassingError, match=r"does not answer \(Could not connect"):
        watch.look(root, "brick")


def test_an_object_that_goes_meanwhile_and_one_that_is_no_folder(root: Path, s3: Any) -> None:
    put(s3, "n.png", encoded(plants.texture(2000)))
    waiting = landing.waiting(root, "brick", PLACE)
    s3.delete_object(Bucket="line", Key="landing/brick/n.png")
    with pytest.raises(PassingError, match="was taken away before it was fetched"):
        landing.fetch(root, "brick", PLACE, waiting)
    put(s3, "n.png", encoded(plants.texture(2000)))
    with pytest.raises(UserError, match="is no folder"):
        landing.waiting(root, "brick", f"{PLACE}/n.png")
