"""Hostile requests by the thousand at a server in this process: never a 500, never a hang.

    PYTHONPATH=. python benchmarks/hostile.py [--requests 20000] [--seed 0]

The server is a tiny untrained model behind all of `kintsugi serve`'s routes and limits; what it does not expect is
raised, and hypothesis then prints the smallest request that does it. The slowest answers and the memory at the end are
printed: neither may grow with the number of requests.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, seed, settings

from benchmarks._hostile import Sent, requests
from flows.serving import Limits, create_app
from tests.serving_fixture import standing

SLOW = 5.0  # seconds
LIMITS = Limits(request_mb=0.2, megapixels=1, images=6, arrival=1.0)


def resident(server: TestClient) -> float:
    """The process's memory in MB, by the server's own counters."""
    lines = server.get("/metrics").text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("process_resident_memory_bytes ")) / 1e6


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    codes: Counter[int] = Counter()
    times: list[float] = []
    memory: list[float] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        TestClient(create_app(standing(Path(folder)), 60, LIMITS)) as server,
    ):

        @seed(options.seed)
        @settings(max_examples=options.requests, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(requests())
        def attack(sent: Sent) -> None:
            started = time.monotonic()
            answer = server.request(sent.method, sent.path, params=sent.params, headers=sent.headers, content=sent.body)
            times.append(time.monotonic() - started)
            codes[answer.status_code] += 1
            if len(times) % 100 == 0:
                memory.append(resident(server))
            assert sent.wrong(answer.status_code, answer.text) == ""
            assert times[-1] < SLOW

        attack()
    tenth = max(len(memory) // 10, 1)
    print(f"requests  {len(times)}: {dict(codes.most_common())}")
    ranked = [f"{t:.3f}" for t in sorted(times)]
    print(f"seconds   median {ranked[len(ranked) // 2]}, the slowest {', '.join(ranked[-3:])}")
    print(f"memory    {memory[tenth]:.0f} MB after a tenth of them, {memory[-1]:.0f} MB at the end" if memory else "")
    return 0


if __name__ == "__main__":
    sys.exit(main())
