"""`python -m flows.team.bucket s3://NAME`: make the bucket if it is not there; AWS_ENDPOINT_URL names the store."""

from __future__ import annotations

import sys

import fsspec


def ensure(address: str) -> bool:
    """Make the bucket; whether it had to be made."""
    store, path = fsspec.core.url_to_fs(address)
    if store.exists(path):
        return False
    store.mkdir(path)
    return True


if __name__ == "__main__":
    print("made" if ensure(sys.argv[1]) else "is there already")
