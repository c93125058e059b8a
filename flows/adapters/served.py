"""The model as MLflow stores it: the packaged bundle, the code that reads it, mlflow/model.py around both."""

from __future__ import annotations

import base64
import importlib.metadata
import json
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from components.errors import UserError
from flows import fixity
from flows.adapters import registry
from flows.adapters.hush import hushed

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.models import ModelSignature

# All that a machine which only serves must have installed; DVC, Prefect and Great Expectations are not.
REQUIREMENTS = (
    "mlflow", "torch", "numpy", "pandas", "opencv-python", "scikit-learn", "safetensors", "ruamel.yaml",
)  # fmt: skip
EXAMPLE_SIDE = 128  # pixels; the example shows the form of a request, it is not for measuring
# Written into the folder by MLflow when someone downloads the model, so it is no part of what was stored.
UNSTORED = ("registered_model_meta",)


@dataclass(frozen=True)
class Stored:
    """A logged model and the digest of every file in it."""

    uri: str
    model_id: str
    files: str  # JSON: path -> sha256

    @property
    def digest(self) -> str:
        """sha256 (hex) of the file list."""
        return fixity.text_sha256(self.files)


def log(root: Path, category: str, run_id: str, package_md5: str, card: str) -> Stored:
    """Log the model of artifacts/<category>/package, its card beside it, on the run and read back what was stored.

    Raises UserError when the stored bundle is not the one that was packaged.
    """
    import mlflow.pyfunc

    with (
        warnings.catch_warnings(),
        hushed("stderr"),
        tempfile.TemporaryDirectory() as scratch,
    ):
        readme = Path(scratch, "README.md")
        readme.write_text(card, encoding="utf-8")
        warnings.simplefilter("ignore")  # about type hints; the signature is given
        with mlflow.start_run(run_id=run_id):
            info = mlflow.pyfunc.log_model(
                name="model",
                python_model=str(project_file(root, "mlflow/model.py")),
                artifacts={"package": str(root / "artifacts" / category / "package"), "card": str(readme)},
                code_paths=[str(project_file(root, "components"))],
                signature=signature(),
                input_example=_example(root / "data" / category),
                pip_requirements=[f"{name}=={importlib.metadata.version(name)}" for name in REQUIREMENTS],
            )
    folder = Path(registry.fetched(str(info.artifact_path)))
    if fixity.listing_md5(fixity.listing(package_in(folder))) != package_md5:
        told = f"MLflow's copy of artifacts/{category}/package differs from it"
        raise UserError(f"{told}; check the disk and run again")
    return Stored(info.model_uri, str(info.model_id), list_of(folder))


def files_in(folder: Path) -> dict[str, str]:
    """Path to sha256 of every stored file of a model folder."""
    return {p: digest for p, digest in fixity.listing(folder, "sha256").items() if p not in UNSTORED}


def list_of(folder: Path) -> str:
    """The list of a stored model's files as it is kept and hashed: JSON, path -> sha256."""
    return json.dumps(files_in(folder), indent=1, sort_keys=True)


def checked_package(client: MlflowClient, version: ModelVersion) -> Path:
    """The bundle of a registered version, every file of the stored model hashed against the version's tag.

    UserError when a file is damaged, missing or another one: such a model is never loaded. The tag lies in the
    registry, whose `production.*` a training job cannot write, while it can write a run's files.
    """
    folder = Path(registry.download(client, version))
    recorded = version.tags.get("model.sha256", "")
    if fixity.text_sha256(list_of(folder)) != recorded:
        told = f"the stored files of {version.name} version {version.version} are not those that were registered"
        raise UserError(f"{told}; it is not used: `kintsugi audit {version.name.partition('.')[2]}` names them")
    return package_in(folder)


def package_in(folder: Path) -> Path:
    """The bundle inside a stored model's folder."""
    return folder / "artifacts" / "package"


def project_file(root: Path, name: str) -> Path:
    """A file or folder of the project: the workspace's own, else the one beside the installed code."""
    own = root / name
    return own if own.exists() else Path(__file__).resolve().parents[2] / name


def signature() -> ModelSignature:
    """One column `image` of base64 text in, one row per image out; see mlflow/model.py."""
    from mlflow.models import ModelSignature
    from mlflow.types.schema import (
        Array,
        ColSpec,
        DataType,
        Object,
        ParamSchema,
        ParamSpec,
        Property,
        Schema,
        TensorSpec,
    )

    box = Object([Property(name, DataType.long) for name in ("x", "y", "width", "height")])
    outputs: list[ColSpec | TensorSpec] = [
        ColSpec("double", "score"),
        ColSpec("string", "verdict"),
        ColSpec("double", "threshold"),
        ColSpec("double", "pixel_threshold"),
        ColSpec(Array(box), "regions"),
        ColSpec("string", "map", required=False),
        ColSpec("double", "map_max", required=False),
    ]
    return ModelSignature(
        inputs=Schema([ColSpec("string", "image")]),
        outputs=Schema(outputs),
        params=ParamSchema([ParamSpec("return_map", "boolean", True)]),
    )


def _example(data: Path) -> object:
    import cv2
    import numpy as np
    import pandas as pd

    from components.dataset.manifest import files_of

    image: np.ndarray | None = None
    for path in files_of(data / "train" / "good"):
        stored = np.fromfile(path, dtype=np.uint8)
        if stored.size and (image := cv2.imdecode(stored, cv2.IMREAD_UNCHANGED)) is not None:
            break
    if image is None:
        image = np.full((EXAMPLE_SIDE, EXAMPLE_SIDE, 3), 127, np.uint8)
    small = cv2.resize(image, (EXAMPLE_SIDE, EXAMPLE_SIDE), interpolation=cv2.INTER_AREA)
    _, png = cv2.imencode(".png", small)
    return pd.DataFrame({"image": [base64.b64encode(png.tobytes()).decode("ascii")]})
