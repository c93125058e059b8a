"""The served model: MLflow's shell around the packaged bundle. Logged as source code, so nothing is pickled.

Input: a table with one column, `image`, of base64-encoded PNG, JPEG or any file that OpenCV reads.
Parameter: `return_map` (default true). Output, one row per image:

score      the image's anomaly score; `threshold` is where `verdict` turns from "normal" to "defective"
regions    bounding boxes of what is defective: x, y, width, height in pixels of the map
map        base64 PNG, 16-bit grey, at the model's size: anomaly score = pixel / 65535 * map_max
map_max    the largest value of the map; pixel_threshold is where a pixel counts as defective
"""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PythonModel, PythonModelContext


class Detector(PythonModel):
    """Loads the bundle through `components.inspector`, whose code travels with the model."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the bundle from the model's own files, on the CPU or whatever device is found."""
        from components.device import find_device
        from components.inspector import Inspector

        self.inspector = Inspector.load(Path(context.artifacts["package"]), device=str(find_device()))

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> list[dict[str, Any]]:
        """Inspect every image; one that cannot be read refuses the request, and its row is named."""
        images = [_decode(text, row) for row, text in enumerate(model_input["image"])]
        with_map = bool((params or {}).get("return_map", True))
        return [self._row(found, with_map) for found in self.inspector.inspect(images)]

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


def _decode(text: str, row: int) -> Any:
    """Base64 text to an image, height x width x channels in RGB order, 8 or 16 bit as it came."""
    import cv2
    import numpy as np

    try:
        encoded = np.frombuffer(base64.b64decode(text, validate=True), dtype=np.uint8)
    except (binascii.Error, ValueError, TypeError):
        raise MlflowException.invalid_parameter_value(f"image in row {row} is not base64") from None
    image = cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED) if encoded.size else None
    if image is None:
        raise MlflowException.invalid_parameter_value(f"image in row {row} is not an image that can be read")
    if image.ndim == 2:
        return image[:, :, None]
    order = {3: cv2.COLOR_BGR2RGB, 4: cv2.COLOR_BGRA2RGBA}.get(image.shape[2])
    return image if order is None else cv2.cvtColor(image, order)


def _encode(score_map: Any) -> tuple[str, float]:
    import cv2
    import numpy as np

    top = float(score_map.max())
    scaled = np.clip(score_map / top, 0, 1) * 65535 if top > 0 else np.zeros_like(score_map)
    _, png = cv2.imencode(".png", np.round(scaled).astype(np.uint16))
    return base64.b64encode(png.tobytes()).decode("ascii"), max(top, 0.0)


def _boxes(mask: Any) -> list[dict[str, int]]:
    import cv2
    import numpy as np

    count, _, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    keys = ("x", "y", "width", "height")
    return [dict(zip(keys, map(int, stats[i][:4]), strict=True)) for i in range(1, count)]


mlflow.models.set_model(Detector())
