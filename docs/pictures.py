"""Make the pictures of README and docs anew, from the sample category, whose photograph anybody may use.

In a workspace where `make run` has ended, with `kintsugi up` running and Chromium installed:

    python docs/pictures.py OUT

writes what-it-does.jpg, report.jpg, gallery.jpg, card.jpg and audit.jpg into OUT. docs/screenshots.py makes those of
the inspection page.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import urllib.parse
import urllib.request
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from playwright.sync_api import Browser, Page, sync_playwright

CATEGORY = "brick"
SHOWN = {"hole": "best", "stain": "best", "good": "best"}  # rows of the picture in the README
COLUMNS = {"input": "input", "restored": "restored", "map": "score map", "regions": "regions found"}
WIDE, GAP, HEAD = 1200, 8, 34  # pixels
CHAT = 320  # pixels that MLflow's pages give to a chat at the right edge


def what_it_does(gallery: Path) -> np.ndarray:
    """Defects and a good part, each with its restoration, map and regions, as BGR uint8."""
    table = pd.read_csv(gallery / "gallery.csv")
    rows = [_head()]
    for defect, kind in SHOWN.items():
        one = table[(table.defect == defect) & (table.kind == kind)].iloc[0]
        names = one.tiles.split("|")
        tiles = dict(zip(names, np.split(cv2.imread(str(gallery / one.file)), len(names), axis=1), strict=True))
        rows.append(_row([tiles[name] for name in COLUMNS]))
    return np.concatenate(rows)


def _row(tiles: list[np.ndarray]) -> np.ndarray:
    framed = [cv2.copyMakeBorder(t, 0, GAP, 0, GAP, cv2.BORDER_CONSTANT, value=(255, 255, 255)) for t in tiles]
    return np.concatenate(framed, axis=1)


def _head() -> np.ndarray:
    band = np.full((HEAD, len(COLUMNS) * (256 + GAP), 3), 255, np.uint8)
    for number, name in enumerate(COLUMNS.values()):
        at = (number * (256 + GAP) + 2, HEAD - 11)
        cv2.putText(band, name, at, cv2.FONT_HERSHEY_SIMPLEX, 0.62, (40, 40, 40), 1, cv2.LINE_AA)
    return band


def main(out: Path, root: Path) -> None:
    """Write every picture; `root` is the workspace."""
    out.mkdir(parents=True, exist_ok=True)
    evaluate = root / "artifacts" / CATEGORY / "evaluate"
    cv2.imwrite(str(out / "what-it-does.jpg"), what_it_does(evaluate / "gallery"), [cv2.IMWRITE_JPEG_QUALITY, 88])
    trail = root / "audit" / f"{CATEGORY}.html"
    subprocess.run(["kintsugi", "audit", CATEGORY, "--html", str(trail)], cwd=root, check=True, capture_output=True)
    mlflow = json.loads((root / ".kintsugi" / "up.json").read_text(encoding="utf-8"))["mlflow"]
    name = f"production.{CATEGORY}"
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        report = (evaluate / "report.html").as_uri()
        shoot(browser, report, out / "report.jpg", 1150)
        shoot(browser, report, out / "gallery.jpg", 1010, heading="crack")
        shoot(browser, trail.as_uri(), out / "audit.jpg", 800)
        shoot(
            browser, f"{mlflow}/#/models/{name}/versions/{champion(mlflow, name)}", out / "card.jpg", 1000, WIDE + CHAT
        )
        browser.close()


def champion(mlflow: str, name: str) -> str:
    """Number of the version that serves."""
    query = urllib.parse.urlencode({"name": name, "alias": "champion"})
    with urllib.request.urlopen(f"{mlflow}/api/2.0/mlflow/registered-models/alias?{query}") as answer:
        return str(json.load(answer)["model_version"]["version"])


def shoot(browser: Browser, address: str, target: Path, height: int, width: int = WIDE, heading: str = "") -> None:
    """Picture of a page's first WIDE x `height` pixels, or of as much from a heading on."""
    page = browser.new_page(viewport={"width": width, "height": height})
    page.goto(address, timeout=120_000)
    page.get_by_role("heading").first.wait_for(timeout=120_000)
    if heading:
        found = page.get_by_role("heading", name=heading)
        found.wait_for(timeout=120_000)
        found.evaluate("h => h.scrollIntoView()")
    _save(page, target)


def _save(page: Page, target: Path) -> None:
    page.wait_for_timeout(1500)  # what fades in has faded in
    height = (page.viewport_size or {})["height"]
    page.screenshot(path=target, type="jpeg", quality=82, clip={"x": 0, "y": 0, "width": WIDE, "height": height})
    page.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), Path.cwd())
