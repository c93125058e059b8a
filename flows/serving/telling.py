"""From an inspection to the API's answer: verdict, regions, pictures."""

from __future__ import annotations

import base64
from collections.abc import Collection

import cv2
import numpy as np

from components.evaluate.figures import display, outline, overlay
from components.inspector import Inspection, Inspector
from components.metrics import region_boxes
from flows.serving.answers import Answer, Codes, Include, Levels, ModelCard, Picture, Region
from flows.serving.follower import Loaded

PICTURES = {one.value for one in Picture}
TOP = 65535  # the highest level of a map
MADE = {Include.reconstructed: "reconstructed", Include.restored: "restored", Include.codes: "restored_codes"}


def audit_address(model: str) -> str:
    """Where this server shows the audit of production.<category>/<version>."""
    return f"/audit/{model.rpartition('/')[2]}"


def make(seen: Inspection, include: Collection[Include]) -> None:
    """Restore and draw what an answer is to include; the inspection keeps it, so that `answer` needs no model."""
    for one in MADE.keys() & set(include):
        getattr(seen, MADE[one])


def answer(
    name: str, loaded: Loaded, image: np.ndarray, seen: Inspection, include: Collection[Include], milliseconds: float
) -> Answer:
    """One image's answer; `image` (S, S, 1 or 3) is what the model was given."""
    wanted = [Picture(one.value) for one in include if one.value in PICTURES]
    drawn = {one: encoded(picture(one, loaded.inspector, image, seen)) for one in wanted}
    return Answer(
        name=name,
        model=loaded.model,
        audit=audit_address(loaded.model),
        score=seen.score,
        threshold=loaded.inspector.image_threshold,
        pixel_threshold=loaded.inspector.pixel_threshold,
        verdict="defective" if seen.anomalous else "normal",
        size=len(seen.score_map),
        regions=regions(seen.mask, seen.score_map),
        milliseconds=round(milliseconds, 1),
        model_milliseconds=round(1000 * seen.seconds, 1),
        pictures=drawn or None,
        levels=levels(seen.score_map) if Include.levels in include else None,
        codes=codes(seen) if Include.codes in include else None,
    )


def regions(mask: np.ndarray, score_map: np.ndarray) -> list[Region]:
    """The regions of a mask (H, W), largest first, with the highest value of the map in each box."""
    return [
        Region(**box._asdict(), score=float(score_map[box.y : box.y + box.height, box.x : box.x + box.width].max()))
        for box in region_boxes(mask)
    ]


def picture(which: Picture, inspector: Inspector, image: np.ndarray, seen: Inspection) -> np.ndarray:
    """A picture of the inspection: RGB uint8 (S, S, 3), the mask uint8 (S, S), the score map uint16 (S, S)."""
    size = len(seen.score_map)
    match which:
        case Picture.reconstructed:
            return seen.reconstructed
        case Picture.restored:
            return seen.restored
        case Picture.heat:
            return np.ascontiguousarray(inspector.colours(seen.score_map))
        case Picture.mask:
            return seen.mask.astype(np.uint8) * 255
        case Picture.score_map:
            return quantised(seen.score_map)[0]
    shown = display(image, (size, size))
    match which:
        case Picture.overlay:
            return overlay(inspector, shown, seen.score_map)
        case Picture.regions:
            return outline(shown, seen.mask)
    return shown


def png(pixels: np.ndarray) -> bytes:
    """(H, W) or RGB (H, W, 3), 8 or 16 bits, as a PNG file."""
    stored = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR) if pixels.ndim == 3 else pixels
    return bytes(cv2.imencode(".png", stored)[1])


def encoded(pixels: np.ndarray) -> str:
    """A PNG file in base64."""
    return base64.b64encode(png(pixels)).decode()


def quantised(values: np.ndarray) -> tuple[np.ndarray, float, float]:
    """A map as uint16 levels, and the values that level 0 and level 65535 stand for."""
    low, high = float(values.min()), float(values.max())
    return np.rint((values - low) / max(high - low, 1e-12) * TOP).astype(np.uint16), low, high


def levels(values: np.ndarray) -> Levels:
    """A map (S, S) in levels, for a program that has no decoder for 16-bit PNG, such as a browser."""
    stored, low, high = quantised(values)
    return Levels(size=len(values), low=low, high=high, data=base64.b64encode(stored.astype("<u2").tobytes()).decode())


def codes(seen: Inspection) -> Codes:
    """The grids behind the verdict."""
    likelihood = [[round(float(p), 6) for p in row] for row in seen.likelihood]
    return Codes(codes=seen.codes.tolist(), restored=seen.restored_codes.tolist(), likelihood=likelihood)


def card(category: str, loaded: Loaded) -> ModelCard:
    """What the serving model is."""
    inspector = loaded.inspector
    return ModelCard(
        category=category,
        model=loaded.model,
        audit=audit_address(loaded.model),
        threshold=inspector.image_threshold,
        pixel_threshold=inspector.pixel_threshold,
        min_area=inspector.min_area,
        reach=inspector.reach,
        size=inspector.image_size,
        grid=inspector.detector.prior.grid,
        codebook_size=inspector.detector.prior.codebook_size,
        score=str(inspector.calibration["score"]),
        map_low=float(inspector.calibration["map_low"]),
    )
