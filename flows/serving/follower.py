"""Who serves: the champion of a category, exchanged between two batches when the alias has moved."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from pathlib import Path

from components.device import find_device
from components.errors import UserError
from components.inspector import Inspector
from flows.adapters import registry, served, tracking

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Loaded:
    """A champion in memory: `model` is production.<category>/<version>."""

    model: str
    inspector: Inspector


class Follower:
    """Holds the champion of a category. A new one is loaded beside the old one, so no request waits for it."""

    def __init__(self, root: Path, category: str, device: str | None = None) -> None:
        self.root, self.category, self.device = root, category, device or str(find_device())
        self.loaded: Loaded | None = None

    def refresh(self) -> bool:
        """Load the champion if it is another one than the loaded; whether it was. UserError when none serves."""
        client = tracking.connect(self.root)
        name = registry.production(self.category)
        number = registry.aliased(client, name, registry.CHAMPION)
        if not number:
            raise UserError(f"no version of '{self.category}' serves yet; run `kintsugi promote {self.category}`")
        model = f"{name}/{number}"
        if self.loaded is not None and self.loaded.model == model:
            return False
        version = registry.resolve(client, self.category, number)
        folder = served.checked_package(client, version)
        self.loaded = Loaded(model, Inspector.load(folder, self.device))
        log.info("%s serves", model)
        return True

    async def follow(self, every: float) -> None:
        """Look the alias up every so many seconds, for ever; while the registry is away the loaded one goes on."""
        while True:
            try:
                await asyncio.to_thread(self.refresh)
            except Exception as error:  # the registry may be away or the package damaged: keep serving, and say so
                log.warning("the champion of %s could not be looked up: %s", self.category, error)
            await asyncio.sleep(every)
