"""`python -m flows.team.checkout FOLDER`: a workspace at one commit, made or moved there.

KINTSUGI_REPOSITORY is cloned once; KINTSUGI_COMMIT is what it stands on afterwards, detached. What git ignores,
data and models among it, stays.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from components.errors import UserError
from flows.adapters.git import git


def checkout(folder: Path, repository: str, commit: str) -> str:
    """Bring `folder` to `commit` of `repository`; the sha it stands on. UserError when git cannot."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / ".git").exists():
        git(folder, "init", "-q")
        git(folder, "remote", "add", "origin", repository)
    git(folder, "remote", "set-url", "origin", repository)
    git(folder, "fetch", "-q", "--force", "--tags", "origin", "+refs/heads/*:refs/remotes/origin/*")
    git(folder, "checkout", "-q", "--force", "--detach", commit)
    return git(folder, "rev-parse", "HEAD")


if __name__ == "__main__":
    try:
        print(checkout(Path(sys.argv[1]), os.environ["KINTSUGI_REPOSITORY"], os.environ["KINTSUGI_COMMIT"]))
    except UserError as error:
        sys.exit(f"kintsugi: {error}")
