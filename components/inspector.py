"""The packaged model at work: images in, scores, verdicts and pictures out.

Evaluation, the command line and the served model all go through here. Needs torch, numpy, OpenCV and
safetensors, and nothing of the project's machinery.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from safetensors.torch import load_file

from components import stage
from components.arrays import BATCH, to_picture, unit
from components.detector import Detector
from components.device import keep_memory, place
from components.errors import UserError
from components.metrics import area_score
from components.normality.model import Normality
from components.outline import marked
from components.package import FORMAT
from components.prior.pixelsnail import PixelSNAIL
from components.restore import restore
from components.settings import Prior as PriorConfig
from components.standard import Standard
from components.vqvae.train import described


@dataclass(frozen=True)
class Inspection:
    """What was seen in one image, at the model's size S with a grid of s x s codes.

    `score_map` float32 (S, S); `mask` bool (S, S): its regions above the threshold and of the minimum
    area, as components.outline draws them; `codes`, `restored_codes` int64 (s, s); `likelihood` float32 (s, s) in
    [0, 1]. `score` is the highest level at which such a region exists, so that `anomalous` is score > threshold.
    `restore` gives the restored codes, `draw` turns codes into a picture uint8 (S, S, 3): what the score did not need
    costs its time when somebody looks, and nothing before.
    """

    score: float
    anomalous: bool
    score_map: np.ndarray
    mask: np.ndarray
    codes: np.ndarray
    likelihood: np.ndarray
    seconds: float
    restore: Callable[[], np.ndarray]
    draw: Callable[[np.ndarray], np.ndarray]

    @cached_property
    def restored_codes(self) -> np.ndarray:
        """The codes after restoration."""
        return self.restore()

    @cached_property
    def reconstructed(self) -> np.ndarray:
        """The picture of the image's own codes."""
        return self.draw(self.codes)

    @cached_property
    def restored(self) -> np.ndarray:
        """The picture of the restored codes."""
        same = np.array_equal(self.codes, self.restored_codes)
        return self.reconstructed if same else self.draw(self.restored_codes)


class Inspector:
    """A bundle, loaded."""

    def __init__(self, bundle: dict[str, Any], detector: Detector, device: torch.device) -> None:
        self.bundle, self.detector, self.device = bundle, detector, device
        self.calibration: dict[str, Any] = bundle["calibration"]
        self.category: str = bundle["category"]
        self.image_size = int(bundle["vqvae"]["size"])
        self.channels = int(bundle["vqvae"]["image_channels"])
        self.image_threshold = float(self.calibration["image_threshold"])
        self.pixel_threshold = float(self.calibration["pixel_threshold"])
        self.min_area = max(1, round(self.calibration["min_area"] * self.image_size**2))
        self.reach = int(self.calibration.get("reach", 0))  # pixels; packages of before have none

    @classmethod
    def load(cls, folder: Path | str, device: str = "cpu") -> Inspector:
        """Read a bundle; the weights' bytes are checked against its sha256 before they are used.

        Raises UserError when a file is missing, damaged or of another format.
        """
        keep_memory()
        folder = Path(folder)
        bundle = stage.read_json(folder / "bundle.json")
        if bundle.get("format") != FORMAT:
            raise UserError(f"{folder} has bundle format {bundle.get('format')}, not {FORMAT}; package it again")
        weights = folder / "model.safetensors"
        if not weights.is_file():
            raise UserError(f"{weights} does not exist; fetch the package again")
        if stage.file_sha256(weights) != bundle["sha256"]:
            raise UserError(f"{weights} is damaged (its sha256 is not the bundle's); fetch the package again")
        parts: dict[str, dict[str, torch.Tensor]] = {}
        for name, tensor in load_file(weights).items():
            part, key = name.split(".", 1)
            parts.setdefault(part, {})[key] = tensor
        vqvae = described(bundle["vqvae"])
        if vqvae.latent == "features" and "subspace.gain" not in parts["standards"]:
            raise UserError(f"{folder} is of an older version; run `kintsugi run {bundle['category']}` again")
        vqvae.load_state_dict(parts["vqvae"])
        prior = PixelSNAIL(
            int(bundle["prior"]["codebook_size"]),
            int(bundle["prior"]["grid"]),
            PriorConfig(**bundle["prior"]["config"]),
        )
        prior.load_state_dict(parts["prior"])
        where = torch.device(device)
        arrays = {key: tensor.numpy() for key, tensor in parts["standards"].items()}
        names = {key.removeprefix("deviation.") for key in arrays if key.startswith("deviation.")}
        normality = Normality.restored(arrays, where) if "normality.mean" in arrays else None
        calibration = bundle["calibration"]
        detector = Detector(
            place(vqvae, where).eval(),
            place(prior, where).eval(),
            eta=calibration["eta"],
            neighbour_rule=calibration["neighbour_rule"],
            bilateral=tuple(calibration["bilateral"]),
            standards={name: Standard(arrays[f"mean.{name}"], arrays[f"deviation.{name}"]) for name in names},
            normality=normality,
        )
        return cls(bundle, detector, where)

    def inspect(self, images: Sequence[np.ndarray]) -> list[Inspection]:
        """Inspect images of any size, (H, W, 1 or 3) uint8 or uint16, batch by batch, in their order."""
        return [one for start in range(0, len(images), BATCH) for one in self._batch(images[start : start + BATCH])]

    def _batch(self, images: Sequence[np.ndarray]) -> Iterator[Inspection]:
        started = time.perf_counter()
        white = float(self.calibration["white"])
        stacked = np.stack([unit(image, self.channels, white, self.image_size) for image in images])
        x = torch.from_numpy(stacked).to(self.device).permute(0, 3, 1, 2)
        name = self.calibration["score"]
        maps, evidence = self.detector.look(x, self.detector.scores[name])
        scores = self.detector.score(maps, name)
        likelihood = evidence.reading().likelihood
        seconds = (time.perf_counter() - started) / len(images)
        restored = evidence.restorations.get(0)  # where the score needed it
        for index, score_map in enumerate(scores):
            score = area_score(score_map, self.min_area)
            codes = evidence.codes[index].cpu().numpy()
            known = restored.codes[index].cpu().numpy() if restored else None
            yield Inspection(
                score=score,
                anomalous=score > self.image_threshold,
                score_map=score_map,
                mask=marked(score_map, self.pixel_threshold, self.min_area, self.reach),
                codes=codes,
                likelihood=likelihood[index].cpu().numpy(),
                seconds=seconds,
                restore=partial(self.restored, codes, known),
                draw=self.draw,
            )

    def restored(self, codes: np.ndarray, known: np.ndarray | None = None) -> np.ndarray:
        """The restored codes of codes int64 (s, s), unless they are `known`."""
        if known is not None:
            return known
        detector, grid = self.detector, torch.from_numpy(codes).to(self.device)[None]
        coarse = detector.vqvae.coarse(grid)
        found = restore(detector.prior, grid, detector.eta, detector.neighbour_rule, coarse=coarse)
        return found.codes[0].cpu().numpy()

    @torch.no_grad()
    def draw(self, codes: np.ndarray) -> np.ndarray:
        """The picture uint8 (S, S, 3) of codes int64 (s, s)."""
        grid = torch.from_numpy(codes).to(self.device)[None]
        return to_picture(self.detector.vqvae.decode(grid)[0])

    def colours(self, score_map: np.ndarray) -> np.ndarray:
        """A score map (H, W) as an RGB picture uint8 (H, W, 3), on one scale for the whole category: the
        threshold lies in its middle, so that a good part looks good."""
        low, middle = float(self.calibration["map_low"]), self.pixel_threshold
        share = (score_map - low) / max(2 * (middle - low), 1e-9)
        return cv2.applyColorMap((np.clip(share, 0, 1) * 255).astype(np.uint8), cv2.COLORMAP_TURBO)[..., ::-1]
