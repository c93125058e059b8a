"""Take the pictures of the inspection page for docs/pictures/: the sample's champion in a real browser.

    python docs/screenshots.py [--chromium /usr/bin/chromium]

Run it in a workspace where `make run` has promoted the sample's model.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
from playwright.sync_api import Page, sync_playwright

from benchmarks.load import serving
from components.dataset.sample import hole
from components.settings import find_root

OUT = Path(__file__).with_name("pictures")
QUALITY = 80  # of WebP


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    options = parser.parse_args()
    root = find_root()
    with serving(root, "brick") as address, sync_playwright() as driver, tempfile.TemporaryDirectory() as scratch:
        browser = driver.chromium.launch(executable_path=options.chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1440, "height": 860})
        look(page, address, root / "data" / "brick" / "test")
        page.reload()
        compare(page, root / "data" / "brick" / "test" / "good" / "004.png", Path(scratch))
        browser.close()
    return 0


def look(page: Page, address: str, images: Path) -> None:
    """Images of three kinds; the first, a crack, with its regions, and why one of them is suspicious."""
    page.goto(address)
    files = [
        images / name for name in ("crack/000.png", "hole/001.png", "stain/002.png", "good/000.png", "good/004.png")
    ]
    page.locator("#files").set_input_files(files)
    page.get_by_text("5 of 5 inspected").wait_for()
    page.locator("#list button").first.click()
    page.locator("#regions button").first.wait_for()
    shoot(page, "inspection")
    page.locator("#regions button").first.click()
    page.locator("#why").wait_for()
    shoot(page.locator("#why"), "why")


def compare(page: Page, golden: Path, scratch: Path) -> None:
    """A good crop as the golden reference of itself with a hole painted in."""
    image = cv2.imread(str(golden), cv2.IMREAD_GRAYSCALE).astype(np.float32)
    marred, _ = hole(image, np.random.default_rng(3))
    test = scratch / "004-with-a-hole.png"
    cv2.imwrite(str(test), np.clip(marred, 0, 255).astype(np.uint8))
    page.get_by_label("a golden reference").check()
    page.get_by_label("Golden reference", exact=True).set_input_files(golden)
    page.locator("#files").set_input_files(test)
    page.get_by_text("1 of 1 inspected").wait_for()
    page.locator("#goldenimage").wait_for()
    shoot(page, "golden")


def shoot(place: object, name: str) -> None:
    """Write a screenshot of the page or of a part of it as WebP."""
    taken = np.frombuffer(place.screenshot(), np.uint8)  # type: ignore[attr-defined]
    OUT.mkdir(exist_ok=True)
    picture = cv2.imdecode(taken, cv2.IMREAD_COLOR)
    cv2.imwrite(str(OUT / f"{name}.webp"), picture, [cv2.IMWRITE_WEBP_QUALITY, QUALITY])


if __name__ == "__main__":
    sys.exit(main())
