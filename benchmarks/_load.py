"""Many clients at one server, each asking again as soon as it has its answer; what they saw as numbers."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import httpx
import numpy as np

LATENCIES = (50, 90, 95, 99, 100)
MEMORY, BATCHES = "process_resident_memory_bytes", "kintsugi_batch_images"


@dataclass
class Seen:
    """What the clients saw: `seconds` of each answered image, `codes` by status (0: no answer at all), `unkind`
    refusals that did not say when to come back, the server's `memory` in MB over time."""

    seconds: list[float] = field(default_factory=list)
    codes: Counter[int] = field(default_factory=Counter)
    unkind: int = 0
    memory: list[float] = field(default_factory=list)
    batches: dict[str, float] = field(default_factory=dict)  # size -> how many of them
    lasted: float = 0.0

    def told(self) -> str:
        """The numbers, one a line."""
        times = ", ".join(f"p{p} {np.percentile(self.seconds, p):.2f} s" for p in LATENCIES) if self.seconds else "none"
        images = sum(int(size) * count for size, count in self.batches.items())
        mean = images / max(sum(self.batches.values()), 1)
        third = max(len(self.memory) // 3, 1)
        memory = f"{np.mean(self.memory[:third]):.0f}, {np.mean(self.memory[-third:]):.0f}, {max(self.memory):.0f}"
        return "\n".join([
            f"answers    {dict(self.codes)} in {self.lasted:.0f} s, {len(self.seconds) / self.lasted:.2f}/s",
            f"latency    {times}",
            f"batches    {mean:.1f} images on average; by size {self.batches}",
            f"memory     {memory} MB (mean of the first third, of the last third, most)",
        ])  # fmt: skip


async def press(address: str, images: Sequence[bytes], clients: int, seconds: float, patience: float = 300) -> Seen:
    """`clients` at once send images to POST /inspect for so many seconds, at least one each; who is refused waits."""
    seen, started = Seen(), time.monotonic()
    limits = httpx.Limits(max_connections=clients + 1, max_keepalive_connections=clients + 1)
    async with httpx.AsyncClient(base_url=address, timeout=patience, limits=limits) as http:
        before = await counters(http)

        async def client(number: int) -> None:
            at = number
            while at == number or time.monotonic() - started < seconds:
                await ask(http, images[at % len(images)], seen)
                at += 1

        async def watch() -> None:
            while True:
                seen.memory.append((await counters(http))[MEMORY] / 1e6)
                await asyncio.sleep(min(1.0, seconds / 10))

        watching = asyncio.create_task(watch())
        await asyncio.gather(*(client(number) for number in range(clients)))
        watching.cancel()
        seen.lasted = time.monotonic() - started
        seen.batches = sizes(before, await counters(http))
    return seen


async def ask(http: httpx.AsyncClient, image: bytes, seen: Seen) -> None:
    """Send one image and note what came of it."""
    started = time.monotonic()
    try:
        answer = await http.post("/inspect", content=image)
    except httpx.HTTPError:
        seen.codes[0] += 1
        return
    seen.codes[answer.status_code] += 1
    if answer.status_code == 200:
        seen.seconds.append(time.monotonic() - started)
    elif answer.status_code == 503:
        wait = answer.headers.get("Retry-After", "")
        seen.unkind += not wait.isdecimal()
        await asyncio.sleep(min(float(wait or 1), 1.0))


async def counters(http: httpx.AsyncClient) -> dict[str, float]:
    """The server's own counters."""
    lines = (await http.get("/metrics")).text.splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[:1] != "#")}


def sizes(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """How many batches of each size there were between two looks at the counters."""
    steps = []
    for name, value in after.items():
        if name.startswith(f"{BATCHES}_bucket"):
            limit = name.split('le="')[1].split('"')[0]
            steps.append((math.inf if limit == "+Inf" else float(limit), value - before.get(name, 0.0)))
    found, below = {}, 0.0
    for limit, total in sorted(steps):
        if total > below and limit < math.inf:
            found[f"{limit:g}"] = total - below
        below = total
    return found
