"""What one request, and all of them together, may ask of the server."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Sizes in millions of bytes or pixels, times in seconds.

    `queue` counts images that were accepted and not yet answered, `wait` is how long the last of them may take at the
    pace of late; what comes on top is told to come back.
    `buffer_mb` is what all requests together may hold that are still arriving.
    """

    request_mb: float = 64
    buffer_mb: float = 256
    megapixels: float = 64
    images: int = 32  # in one request
    queue: int = 64
    wait: float = 60
    batch: int = 8  # images that go through the model together
    gather: float = 0.005  # a batch waits so long for another image
    arrival: float = 30  # a request must have arrived within this time
    decoders: int = 2  # images decoded side by side: each may hold its pixels twice

    @property
    def request_bytes(self) -> int:
        """Largest body of one request."""
        return int(self.request_mb * 1e6)

    @property
    def buffer_bytes(self) -> int:
        """Largest sum of all bodies that are arriving."""
        return int(self.buffer_mb * 1e6)
