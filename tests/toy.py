"""A toy workspace: a graph of three stages like the real one's, real DVC and git, work that takes no time."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

DVC_YAML = """
stages:
  augment:
    matrix:
      category: ${categories}
    cmd: python toy.py augment ${item.category}
    deps:
      - data/${item.category}
    outs:
      - artifacts/${item.category}/augment

  train_vqvae:
    matrix:
      category: ${categories}
    cmd: python toy.py train_vqvae ${item.category}
    deps:
      - artifacts/${item.category}/augment
    params:
      - params.yaml:
          - overrides.${item.category}.vqvae
      - settings/${settings}.yaml:
          - vqvae
    outs:
      - artifacts/${item.category}/train_vqvae

  evaluate:
    matrix:
      category: ${categories}
    cmd: python toy.py evaluate ${item.category}
    deps:
      - artifacts/${item.category}/augment
      - artifacts/${item.category}/train_vqvae
    params:
      - settings/${settings}.yaml:
          - evaluate
    outs:
      - artifacts/${item.category}/evaluate
"""

# Each stage writes what it was made from, says what the real ones say, and does what a file in control/
# tells it: `exit 2`, `once exit 1` (only the first time), `sleep 60`.
TOY = """
import os, pathlib, sys, time
stage, category = sys.argv[1:]
with open("calls.log", "a") as log:
    log.write(f"{stage}@{category}\\n")
print(f"{stage} 1/2 (50%) 4.1 it/s 1 s left loss=0.5", end="\\r")
control = pathlib.Path("control", f"{stage}-{category}")
if control.exists():
    words = control.read_text().split()
    if words[0] == "once":
        control.unlink()
        words = words[1:]
    if words[0] == "sleep":
        pathlib.Path("started").write_text(str(os.getpid()))
        time.sleep(float(words[1]))
    if words[0] == "exit":
        print(f"{stage}@{category}: it was told to fail", file=sys.stderr)
        sys.exit(int(words[1]))
print(f"{stage} 2/2 (100%) 4.1 it/s 0 s left loss=0.2")
made = [sorted(pathlib.Path("data", category).iterdir())[0].read_text()]
if stage != "augment":
    made.append(pathlib.Path("settings/standard.yaml").read_text())
out = pathlib.Path("artifacts", category, stage)
out.mkdir(parents=True, exist_ok=True)
(out / "made.txt").write_text("".join(made))
"""


@dataclass(frozen=True)
class Toy:
    """The workspace's folder and what a test does to it."""

    root: Path

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def tell(self, stage: str, category: str, what: str) -> None:
        self.write(f"control/{stage}-{category}", what)

    def image(self, category: str, text: str) -> None:
        self.write(f"data/{category}/image", text)

    def settings(self, steps: int = 3, gallery: int = 2) -> None:
        self.write("settings/standard.yaml", f"vqvae:\n  steps: {steps}\nevaluate:\n  gallery: {gallery}\n")

    def calls(self) -> list[str]:
        """Stages whose command ran since the last time this was asked, sorted."""
        log = self.root / "calls.log"
        names = sorted(log.read_text().split()) if log.is_file() else []
        log.unlink(missing_ok=True)
        return names

    def git(self, *arguments: str) -> str:
        identity = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
        done = subprocess.run(["git", *identity, *arguments], cwd=self.root, check=True, capture_output=True, text=True)
        return done.stdout.strip()


def make(root: Path) -> Toy:
    """Make the workspace in the empty folder `root`, with one commit and the data versioned by nobody yet."""
    toy = Toy(root)
    toy.write("dvc.yaml", DVC_YAML)
    toy.write("toy.py", TOY)
    toy.write(
        "params.yaml",
        "settings: standard\nseed: 0\ncategories: [bolt, tile]\noverrides:\n  bolt: {vqvae: {}}\n  tile: {vqvae: {}}\n",
    )
    toy.write(".gitignore", "/data\n/artifacts/\n/.kintsugi/\n/calls.log\n/control/\n/started\n/mlflow.db\n")
    toy.settings()
    for category in ("bolt", "tile"):
        toy.image(category, f"normal {category}\n")
    toy.git("init", "-q", "-b", "main")
    dvc = [sys.executable, "-P", "-m", "dvc", "init", "-q"]
    subprocess.run(dvc, cwd=root, check=True, env={**os.environ, "DVC_NO_ANALYTICS": "1"})
    toy.git("add", "-A")
    toy.git("commit", "-q", "-m", "a toy workspace")
    return toy
