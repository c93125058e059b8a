"""Git behind its command line: where the code stands, and commits that leave the user's branch alone."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from components.errors import UserError

IDENTITY = {"NAME": "kintsugi", "EMAIL": "kintsugi@localhost"}
# Where DVC keeps experiments, so that `dvc exp show`, `apply` and `push` know our snapshots as well.
EXPERIMENTS = "refs/exps"
# What a model is made of: here even files that git does not track yet belong into a snapshot. Elsewhere in a checkout
# may lie anything: photographs, a customer's data, keys.
MADE_OF = (
    "components", "flows", "mlflow", "settings", "params.yaml", "pyproject.toml", "constraints.txt", "dvc.yaml",
    "dvc.lock", "data.dvc", ".dvc/config", ".dvcignore", ".gitignore",
)  # fmt: skip


@dataclass(frozen=True)
class GitState:
    """The commit the workspace stands on and whether anything differs from it (untracked files count)."""

    sha: str  # 40 hex digits, "" before the first commit
    dirty: bool
    branch: str  # "" on a detached head


def environment(root: Path, base: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment for git (and DVC) commands in `root`.

    Two traps of fresh machines are met per command instead of in anyone's configuration: git may have no
    identity, and the checkout may belong to another user, as in containers.
    """
    env = dict(os.environ if base is None else base)
    count = int(env.get("GIT_CONFIG_COUNT", "0"))
    safe = [str(folder) for folder in (root, *root.parents) if (folder / ".git").exists()] or [str(root)]
    for offset, folder in enumerate(safe):
        env[f"GIT_CONFIG_KEY_{count + offset}"] = "safe.directory"
        env[f"GIT_CONFIG_VALUE_{count + offset}"] = folder
    env["GIT_CONFIG_COUNT"] = str(count + len(safe))
    return env


def git(root: Path, *arguments: str, env: Mapping[str, str] | None = None, given: str = "") -> str:
    """Run one git command in `root`, `given` on its standard input; return its output without the last newline.

    Raises UserError when git is missing, `root` is in no repository, or the command fails.
    """
    if shutil.which("git") is None:
        raise UserError("git is not installed; install it (for example `apt install git`) and try again")
    done = subprocess.run(
        ["git", *arguments], cwd=root, env=dict(env or environment(root)), input=given, capture_output=True,
        encoding="utf-8", errors="surrogateescape",  # a file's name may be any bytes
    )  # fmt: skip
    if done.returncode == 0:
        return done.stdout.rstrip("\n")
    message = " ".join(done.stderr.split())
    if "not a git repository" in message:
        raise UserError(f"{root} is not a git repository; run `git init` there")
    if "index.lock" in message:
        raise UserError(f"another git command is at work in {root}; try again when it has finished")
    raise UserError(f"git {arguments[0]} failed: {message or f'exit code {done.returncode}'}")


def check(root: Path) -> None:
    """Raise UserError unless git is there and `root` is inside a repository."""
    git(root, "rev-parse", "--git-dir")


def state(root: Path) -> GitState:
    """Return commit, branch and dirtiness of the repository that holds `root`."""
    check(root)
    return GitState(
        sha=_optional(root, "rev-parse", "--verify", "-q", "HEAD"),
        dirty=bool(git(root, "status", "--porcelain")),
        branch=_optional(root, "symbolic-ref", "--short", "-q", "HEAD"),
    )


def snapshot(root: Path, name: str) -> str:
    """Store code, settings, `data.dvc` and `dvc.lock` as one commit under refs/exps; return its sha.

    The commit's parent is the current one and its tree holds the working versions of all files that git tracks, and
    untracked ones only of what a model is made of (MADE_OF), unless git ignores them. It is built in an index of its
    own, so branch, HEAD and staged changes stay as they are whatever happens. `dvc exp save` is not used for this: it
    detaches HEAD while it works and refuses when any output of any category is missing. Equal contents give back the
    snapshot they have.
    """
    head = state(root).sha
    top = Path(git(root, "rev-parse", "--show-toplevel"))
    with tempfile.TemporaryDirectory() as scratch:
        env = {**environment(root), "GIT_INDEX_FILE": str(Path(scratch) / "index")}
        tracked = git(top, "ls-files", "-z")
        new = git(root, "ls-files", "-z", "--full-name", "--others", "--exclude-standard", "--", *MADE_OF)
        git(top, "update-index", "-z", "--add", "--remove", "--stdin", env=env, given=tracked + new)
        tree = git(top, "write-tree", env=env)
    folder = f"{EXPERIMENTS}/{head[:2]}/{head[2:]}" if head else f"{EXPERIMENTS}/kintsugi"
    found = git(root, "for-each-ref", "--format=%(tree) %(objectname)", f"{folder}/")
    known = dict(line.split() for line in found.splitlines())
    if tree in known:
        return known[tree]
    sha = commit_tree(root, tree, [head] if head else [], f"kintsugi: {name}")
    # A name that is taken stays with its commit: a model version may point to it.
    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    taken = set(git(root, "for-each-ref", "--format=%(refname)", f"{folder}/").splitlines())
    free = next(f"{folder}/{each}" for each in names if f"{folder}/{each}" not in taken)
    git(root, "update-ref", "-m", f"kintsugi: {name}", free, sha, "0" * 40)
    return sha


def commit_tree(root: Path, tree: str, parents: Sequence[str], message: str) -> str:
    """Write a commit object and return its sha; no reference moves."""
    links = [word for parent in parents for word in ("-p", parent)]
    return git(root, "commit-tree", tree, *links, "-m", message, env=identified(root))


def identified(root: Path) -> dict[str, str]:
    """Return the git environment with an author and committer, the user's own where there is one."""
    env = environment(root)
    known = _optional(root, "config", "user.name") and _optional(root, "config", "user.email")
    if not known:
        for role in ("AUTHOR", "COMMITTER"):
            for key, value in IDENTITY.items():
                env.setdefault(f"GIT_{role}_{key}", value)
    return env


def check_branch(root: Path, branch: str) -> None:
    """Raise UserError unless `branch` exists or can be made: git takes the name, and no other branch is in its way."""
    if _optional(root, "check-ref-format", "--branch", branch) != branch:
        raise UserError(f"'{branch}' cannot name a branch; use letters, digits, '.', '-' and '/', and no spaces")
    above = [branch[:at] for at, letter in enumerate(branch) if letter == "/"]
    taken = [name for name in above if _optional(root, "rev-parse", "--verify", "-q", f"refs/heads/{name}")]
    below = git(root, "for-each-ref", "--format=%(refname:lstrip=2)", f"refs/heads/{branch}/").splitlines()
    if taken or below:
        raise UserError(f"there cannot be a branch '{branch}' beside '{(taken + below)[0]}'; choose another name")


def commit_files(root: Path, branch: str, paths: Sequence[str], message: str) -> str:
    """Commit the working versions of `paths` (relative to `root`) on `branch`; return the branch's sha.

    Works on a branch that is checked out and on one that is not, and moves the branch in one step: a commit that
    someone else puts there meanwhile stays, and ours goes on top of it. Nothing else that is changed or staged is
    touched. Files that equal the branch's make no commit. May be repeated after a failure or a crash at any point.
    """
    reference = f"refs/heads/{branch}"
    old = _optional(root, "rev-parse", "--verify", "-q", reference)
    current = state(root)
    start = old or current.sha
    with tempfile.TemporaryDirectory() as scratch:
        env = {**environment(root), "GIT_INDEX_FILE": str(Path(scratch) / "index")}
        if start:
            git(root, "read-tree", start, env=env)
        git(root, "add", "--", *paths, env=env)
        tree = git(root, "write-tree", env=env)
    sha = start
    if not start or tree != git(root, "rev-parse", f"{start}^{{tree}}"):
        sha = commit_tree(root, tree, [start] if start else [], message)
        try:
            git(root, "update-ref", "-m", f"kintsugi: {message}", reference, sha, old or "0" * 40)
        except UserError:
            if _optional(root, "rev-parse", "--verify", "-q", reference) == old:
                raise
            return commit_files(root, branch, paths, message)  # another commit came first
    if current.branch == branch:
        # The checked-out branch moved under the index, now or in a try that died: bring just these paths up to date
        # in it, or the user's next commit would take them back.
        git(root, "add", "--", *paths)
    return sha


def _optional(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=root, env=environment(root), capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else ""
