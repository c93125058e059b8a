"""One tiny champion for all tests of the server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from tests.serving_fixture import Standing, client, standing


@pytest.fixture(scope="session")
def follower(tmp_path_factory: pytest.TempPathFactory) -> Standing:
    """A loaded champion; tests leave it as it is."""
    return standing(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def server(follower: Standing) -> Iterator[TestClient]:
    """A running server with the default limits."""
    with client(follower) as running:
        yield running
