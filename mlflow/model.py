"""The served model: MLflow's shell around the packaged bundle. Logged as source code, so nothing is pickled.

Input: a table with one column, `image`, of base64-encoded PNG, JPEG, BMP or TIFF files.
Parameter: `return_map` (default true). Output, one row per image:

score      the image's anomaly score; `threshold` is where `verdict` turns from "normal" to "defective"
regions    bounding boxes of what is marked as defective: x, y, width, height in pixels of the map
map        base64 PNG, 16-bit grey, at the model's size: anomaly score = pixel / 65535 * map_max
map_max    the largest value of the map; pixels above pixel_threshold may be defective (components/outline.py)

Where the environment variable KINTSUGI_SCORES names a folder, the scores are appended to it for the drift flow.
"""

from __future__ import annotations

import base64
import binascii
import tempfile
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PythonModel, PythonModelContext

MAX_MEGAPIXELS = 100.0  # larger ones are refused before they fill the memory
SIGNATURES = {
    b"\x89PNG": ".png",
    b"\xff\xd8\xff": ".jpg",
    b"BM": ".bmp",
    b"II*\0": ".tif",
    b"MM\0*": ".tif",
}  # how a file of each kind starts


class Detector(PythonModel):
    """Loads the bundle through `components.inspector`, whose code travels with the model."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the bundle from the model's own files, on the CPU or whatever device is found."""
        from components import scorelog
        from components.device import find_device
        from components.inspector import Inspector

        self.inspector = Inspector.load(Path(context.artifacts["package"]), device=str(find_device()))
        folder = scorelog.place()
        self.log = scorelog.Writer(folder / self.inspector.category) if folder else None

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> list[dict[str, Any]]:
        """Inspect every image; one that cannot be read refuses the request, and its row is named."""
        with tempfile.TemporaryDirectory() as folder:
            images = [_decode(text, row, Path(folder)) for row, text in enumerate(model_input["image"])]
        with_map = bool((params or {}).get("return_map", True))
        inspected = self.inspector.inspect(images)
        if self.log is not None:
            self.log.add([self._logged(row, found) for row, found in enumerate(inspected)])
            self.log.flush_in_time()
        return [self._row(found, with_map) for found in inspected]

    def _logged(self, row: int, found: Any) -> dict[str, object]:
        # A request has no file names, and MLflow's server does not say which version it serves.
        least, model = float(found.likelihood.min()), f"sha256:{self.inspector.bundle['sha256']}"
        return {"path": f"row {row}", "score": float(found.score), "least_likelihood": least, "model": model}

    def _row(self, found: Any, with_map: bool) -> dict[str, Any]:
        row = {
            "score": float(found.score),
            "verdict": "defective" if found.anomalous else "normal",
            "threshold": float(self.inspector.image_threshold),
            "pixel_threshold": float(self.inspector.pixel_threshold),
            "regions": _boxes(found.mask),
        }
        if with_map:
            row["map"], row["map_max"] = _encode(found.score_map)
        return row


def _decode(text: str, row: int, folder: Path) -> Any:
    """Base64 text to an image (H, W, 1 or 3), 8 or 16 bit, by the reader that read the training images."""
    from components.dataset.images import read_image
    from components.errors import UserError

    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError, TypeError):
        raise MlflowException.invalid_parameter_value(f"image in row {row} is not base64") from None
    suffix = next((s for start, s in SIGNATURES.items() if content.startswith(start)), None)
    if suffix is None:
        kinds = ", ".join(sorted(set(SIGNATURES.values())))
        raise MlflowException.invalid_parameter_value(f"image in row {row} is none of {kinds}")
    path = folder / f"row-{row}{suffix}"
    path.write_bytes(content)
    try:
        return read_image(path, MAX_MEGAPIXELS)
    except UserError as error:
        raise MlflowException.invalid_parameter_value(f"image in row {row} cannot be read: {error}") from None


def _encode(score_map: Any) -> tuple[str, float]:
    import cv2
    import numpy as np

    top = float(score_map.max())
    scaled = np.clip(score_map / top, 0, 1) * 65535 if top > 0 else np.zeros_like(score_map)
    _, png = cv2.imencode(".png", np.round(scaled).astype(np.uint16))
    return base64.b64encode(png.tobytes()).decode("ascii"), max(top, 0.0)


def _boxes(mask: Any) -> list[dict[str, int]]:
    from components.metrics import region_boxes

    return [{"x": box.x, "y": box.y, "width": box.width, "height": box.height} for box in region_boxes(mask)]


mlflow.models.set_model(Detector())
