"""`python -m flows.team.health URL`: exit code 0 when an HTTP GET succeeds; a container's health check without curl."""

from __future__ import annotations

import sys

from flows.server import healthy

if __name__ == "__main__":
    sys.exit(0 if healthy(sys.argv[1]) else 1)
