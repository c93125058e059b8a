"""The inspection page in a real browser: what a person does, with a mouse and without one."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect
from scipy import ndimage

from components.inspector import Inspector
from components.metrics import region_boxes
from components.outline import marked
from flows.serving.follower import Loaded
from tests.browser_fixture import chromium, running
from tests.serving_fixture import Standing, noise, png, standing

WAIT = 60_000  # milliseconds, on a busy machine
expect.set_options(timeout=WAIT)
FILE = {"name": "part.png", "mimeType": "image/png", "buffer": png(noise(64, 64))}
TORN = {"name": "torn.png", "mimeType": "image/png", "buffer": png()[:500]}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Standing:
    return standing(tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="module")
def address(served: Standing) -> Iterator[str]:
    with running(served) as found:
        yield found


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    """The page, freshly opened; nothing it does may fail silently or ask another server."""
    with browser.new_context(viewport={"width": 1300, "height": 900}) as context:
        opened, troubles = context.new_page(), []
        opened.set_default_timeout(WAIT)
        opened.on("pageerror", lambda error: troubles.append(str(error)))
        opened.on("request", lambda r: r.url.startswith((address, "data:", "blob:")) or troubles.append(r.url))
        opened.goto(address)
        expect(opened.locator("#model")).to_contain_text("production.brick/7")
        yield opened
        assert troubles == []


def send(page: Page, *files: Any) -> None:
    page.locator("#files").set_input_files(list(files))
    expect(page.locator("#status")).to_contain_text(f"{len(files)} of {len(files)}")


def drawn(page: Page, canvas: str) -> int:
    """How many different colours a canvas shows."""
    script = "c => new Set(new Uint32Array(c.getContext('2d').getImageData(0, 0, c.width, c.height).data.buffer)).size"
    return int(page.locator(canvas).evaluate(script))


REGIONS = """async ([size, values, threshold, area, reach]) => {
  const { regions } = await import("/page/maps.js");
  const { mask, found } = regions({ size, values: Float32Array.from(values) }, threshold, area, reach);
  return [Array.from(mask), found.map((region) => region.area)];
}"""


def test_the_page_marks_what_the_model_marks(page: Page) -> None:
    size, area = 40, 12
    for seed, reach in product(range(8), (0, 3, 9)):
        noise = np.random.default_rng(seed).standard_normal((size, size))
        score_map = (8 * ndimage.gaussian_filter(noise, 2)).astype(np.float32)
        mask, areas = page.evaluate(REGIONS, [size, score_map.ravel().tolist(), 0.5, area, reach])
        ours = marked(score_map, 0.5, area, reach)
        assert np.array_equal(np.reshape(mask, (size, size)), ours), (seed, reach)
        assert areas == [box.area for box in region_boxes(ours)], (seed, reach)
        assert 0 < ours.sum() < ours.size


def test_an_upload_shows_verdict_heat_map_and_pictures(page: Page, served: Standing) -> None:
    send(page, FILE)
    assert served.loaded is not None
    seen = served.loaded.inspector.inspect([noise(64, 64)[..., ::-1]])[0]
    expect(page.locator("#score")).to_have_text(f"{seen.score:.4g}")
    expect(page.locator("#verdict")).to_have_text("defective")
    expect(page.locator("#time")).to_contain_text("ms")
    assert page.locator("#by a").get_attribute("href") == "/audit/7"
    for canvas in ("#heat", "#input", "#reconstructed", "#restored"):
        expect(page.locator(canvas)).to_be_visible()
        assert drawn(page, canvas) > 10
    colours = [page.locator(canvas).evaluate("c => c.toDataURL()") for canvas in ("#heat", "#input")]
    assert colours[0] != colours[1]


def test_a_click_on_a_region_says_why(page: Page) -> None:
    send(page, FILE)
    page.locator("#heat").click(position={"x": 60, "y": 90})
    why = page.locator("#why")
    expect(why).to_be_visible()
    expect(why).to_contain_text("Its likelihood is")
    expect(page.locator("#expected tr")).to_have_count(6)
    assert drawn(page, "#attention") > 10
    first = page.locator("#whytitle").inner_text()
    page.locator("#regions button").first.click()
    expect(page.locator("#whytitle")).not_to_have_text(first)


def test_the_picture_follows_the_slider(page: Page) -> None:
    send(page, FILE)
    before = page.locator("#heat").evaluate("c => c.toDataURL()")
    assert page.locator("#regions button").count() > 0
    slider = page.locator("#threshold")
    slider.focus()
    page.keyboard.press("ArrowRight")
    raised = page.locator("#level").inner_text()
    expect(page.locator("#moved")).to_contain_text("defective")
    page.keyboard.press("End")
    expect(page.locator("#moved")).to_have_text("At this threshold the image would be normal.")
    expect(page.locator("#none")).to_be_visible()
    assert float(page.locator("#level").inner_text()) > float(raised)
    assert page.locator("#heat").evaluate("c => c.toDataURL()") != before
    page.locator("#reset").click()
    assert page.locator("#heat").evaluate("c => c.toDataURL()") == before


def test_the_regions_are_those_of_the_server(page: Page, address: str) -> None:
    send(page, FILE)
    answer = page.request.post(f"{address}/inspect", data=FILE["buffer"]).json()
    assert len(answer["regions"]) == page.locator("#regions button").count()
    for region, text in zip(answer["regions"], page.locator("#regions button").all_inner_texts(), strict=True):
        assert f"{region['area']} pixels at {region['x']}, {region['y']}" in text


def test_a_bad_file_gets_its_message_and_stops_no_other(page: Page) -> None:
    send(page, TORN, FILE)
    expect(page.locator("#list")).to_contain_text("torn.png is truncated or damaged; copy it again")
    expect(page.locator("#name")).to_have_text("part.png")
    page.get_by_role("button", name="torn.png").click()
    expect(page.get_by_role("alert")).to_contain_text("torn.png is truncated")
    expect(page.locator("#detail")).to_be_hidden()


def test_a_folder_is_walked_for_images(page: Page, tmp_path: Path) -> None:
    for i in range(6):
        (tmp_path / "parts" / f"day{i % 2}").mkdir(parents=True, exist_ok=True)
        (tmp_path / "parts" / f"day{i % 2}" / f"{i}.png").write_bytes(png(noise(seed=i)))
    (tmp_path / "parts" / "notes.txt").write_text("no image")
    page.locator("#folder").set_input_files(tmp_path / "parts")
    expect(page.locator("#status")).to_contain_text("6 of 6 inspected")
    page.get_by_role("button", name="parts/day1/3.png").click()
    expect(page.locator("#name")).to_have_text("parts/day1/3.png")


def test_a_dropped_file_is_inspected(page: Page) -> None:
    dropping = """async () => {
        const blob = await new Promise((done) => { const c = document.createElement("canvas"); c.toBlob(done); });
        const transfer = new DataTransfer();
        transfer.items.add(new File([blob], "dropped.png", {type: "image/png"}));
        document.getElementById("drop").dispatchEvent(
            new DragEvent("drop", {dataTransfer: transfer, bubbles: true, cancelable: true}));
    }"""
    page.evaluate(dropping)
    expect(page.locator("#name")).to_have_text("dropped.png")


def test_a_golden_reference_beside_the_image(page: Page) -> None:
    page.get_by_label("a golden reference").check()
    page.locator("#files").set_input_files([FILE])
    expect(page.get_by_role("alert")).to_have_text("Choose the golden reference first.")
    page.get_by_label("Golden reference", exact=True).set_input_files([FILE])
    send(page, FILE)
    expect(page.locator("#verdict")).to_have_text("same")
    expect(page.locator("#goldenimage")).to_be_visible()
    assert float(page.locator("#score").inner_text()) == 0


def test_everything_can_be_done_from_the_keyboard(page: Page) -> None:
    send(page, FILE)
    focused = "document.activeElement.id || document.activeElement.textContent"
    reached = []
    page.locator("body").press("Tab")
    for _ in range(40):
        reached.append(page.evaluate(focused))
        if str(reached[-1]).startswith("Region 1"):
            break
        page.keyboard.press("Tab")
    assert {"files", "folder", "threshold", "reset"} <= set(reached)
    page.keyboard.press("Enter")
    expect(page.locator("#why")).to_be_visible()
    outline = page.evaluate(
        "(({outlineStyle, boxShadow}) => [outlineStyle, boxShadow])(getComputedStyle(document.activeElement))"
    )
    assert outline != ["none", "none"]  # whoever uses the keyboard sees where they are


def test_a_place_is_asked_about_from_the_keyboard(page: Page) -> None:
    send(page, FILE)
    expect(page.locator("#regions button").first).to_be_visible()
    for canvas in ("#input", "#heat"):
        plain = page.locator(canvas).evaluate("c => c.toDataURL()")
        page.locator("#reset" if canvas == "#input" else "#input").focus()
        page.keyboard.press("Tab")
        focused = page.locator(f"{canvas}:focus-visible")
        assert "Arrow keys" in (focused.get_attribute("aria-label") or "")
        assert focused.evaluate("c => getComputedStyle(c).outlineStyle") != "none"
        for _ in range(40):
            page.keyboard.press("ArrowUp")
            page.keyboard.press("ArrowLeft")
        expect(page.locator("#place")).to_have_text("Crosshair at row 0, column 0; Enter asks why.")
        corner = focused.evaluate("c => c.toDataURL()")
        page.keyboard.press("ArrowRight")
        assert len({plain, corner, focused.evaluate("c => c.toDataURL()")}) == 3  # it is seen, and seen to move
        if canvas == "#heat":
            page.keyboard.press("ArrowDown")
        page.keyboard.press("Enter")
        row = 1 if canvas == "#heat" else 0
        expect(page.locator("#whytitle")).to_have_text(f"Why: row {row}, column 1")
    page.locator("#threshold").focus()
    assert page.locator("#heat").evaluate("c => c.toDataURL()") == plain  # nothing lies over the picture afterwards


def test_contrast_labels_and_roles_hold(page: Page, address: str) -> None:
    send(page, FILE, TORN)
    page.locator("#regions button").first.click()
    expect(page.locator("#why")).to_be_visible()
    assert violations(page) == {}
    page.locator("#chance").evaluate("p => { p.style.color = '#999' }")
    assert set(violations(page)) == {"color-contrast"}  # so it is looked at
    page.goto(f"{address}/docs")
    assert violations(page) == {}


def violations(page: Page) -> dict[str, str]:
    """Rules of accessibility that the page breaks, each with the first element that does."""
    return {one["id"]: one["nodes"][0]["html"] for one in Axe().run(page).response["violations"]}


def test_each_image_is_judged_with_the_card_of_the_model_that_saw_it(browser: Browser, tmp_path: Path) -> None:
    champion = standing(tmp_path)
    with running(champion) as address, browser.new_context() as context:
        page = context.new_page()
        page.set_default_timeout(WAIT)
        page.goto(address)
        send(page, FILE)
        shown = page.locator("#regions button")
        expect(shown.first).to_be_visible()
        before = shown.all_inner_texts()
        assert before

        promoted = Inspector.load(tmp_path / "package")
        promoted.min_area = 10**6  # no region is as large as that
        promoted.calibration["map_low"] = -100.0  # and its heat map is another
        champion.loaded = Loaded("production.brick/8", promoted)
        page.locator("#files").set_input_files([FILE | {"name": "later.png"}])
        expect(page.locator("#status")).to_contain_text("2 of 2")
        old = page.locator("#heat").evaluate("c => c.toDataURL()")
        page.get_by_role("button", name="later.png").click()
        expect(page.locator("#by")).to_have_text("production.brick/8")
        expect(page.locator("#model")).to_contain_text("production.brick/8")
        expect(shown).to_have_count(0)
        assert page.locator("#heat").evaluate("c => c.toDataURL()") != old

        page.get_by_role("button", name="part.png").click()  # looked at again, it is what it was
        expect(page.locator("#by")).to_have_text("production.brick/7")
        assert shown.all_inner_texts() == before
        assert page.locator("#heat").evaluate("c => c.toDataURL()") == old


def test_a_server_with_a_key_asks_for_it(browser: Browser, served: Standing) -> None:
    with running(served, key="open sesame") as address, browser.new_context() as context:
        page = context.new_page()
        page.set_default_timeout(WAIT)
        page.goto(address)
        expect(page.get_by_role("alert")).to_contain_text("the API key is missing or wrong")
        page.get_by_label("API key").fill("open sesame")
        page.keyboard.press("Enter")
        expect(page.locator("#model")).to_contain_text("production.brick/7")
        expect(page.locator("#problem")).to_be_empty()
        send(page, FILE)
        expect(page.locator("#verdict")).to_have_text("defective")
