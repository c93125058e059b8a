"""From somebody's folder or archive to data/<category> in the canonical layout (MVTec's).

Images are byte copies under their own names: the split and the duplicate check hang on the bytes. Each
importer fills a scratch folder, which must pass `check` and the split before it becomes the category.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from components.dataset import known_defects as known
from components.dataset import layouts, sample
from components.dataset.archive import is_archive, unpack
from components.dataset.manifest import build_manifest, check, repeats_of
from components.dataset.split import assign_parts
from components.dataset.staging import Stage, staged
from components.errors import UserError
from components.settings import POLICIES, Dataset

ROTATION_FREE = ("bottle", "hazelnut", "metal_nut", "screw")  # MVTec's objects that lie any way round
TEXTURES = ("carpet", "grid", "leather", "tile", "wood")

Validate = Callable[[pd.DataFrame], None]
Fill = Callable[[Stage], list[str]]


@dataclass(frozen=True)
class ImportReport:
    """What an import brought: images by folder ("train/good": 209), what to know about them."""

    category: str
    policy: str  # augmentation: object, rotation_free or texture
    counts: dict[str, int]
    warnings: tuple[str, ...] = ()


def import_mvtec(
    source: Path, data_root: Path, category: str, dataset: Dataset, *,
    policy: str | None = None, replace: bool = False, validate: Validate | None = None,
) -> ImportReport:  # fmt: skip
    """Import a category that is laid out like MVTec AD: `source` is its folder, or the folder above it.

    Like every importer here: `source` may be a zip or tar archive; `validate` is called with the manifest
    before anything is put in place and may raise; `replace` allows the category to exist. Raises UserError,
    leaving data/ as it was, for what `check` and `assign_parts` refuse, a source without the layout, an
    unsafe archive or a full disk.
    """
    guess = "rotation_free" if category in ROTATION_FREE else "texture" if category in TEXTURES else "object"

    def fill(stage: Stage) -> list[str]:
        return layouts.mvtec(_opened(source, stage.scratch), stage.category, category)

    return _import(data_root, category, fill, dataset, policy or guess, replace, validate)


def import_btad(
    source: Path, data_root: Path, category: str, dataset: Dataset, *,
    policy: str | None = None, replace: bool = False, validate: Validate | None = None,
) -> ImportReport:  # fmt: skip
    """Import a category of BTAD: train/ok, test/ok, test/ko, ground_truth/ko/<stem>.png or .bmp."""

    def fill(stage: Stage) -> list[str]:
        return layouts.btad(_opened(source, stage.scratch), stage.category, category)

    return _import(data_root, category, fill, dataset, policy or "object", replace, validate)


def import_magnetic_tile(
    source: Path, data_root: Path, category: str, dataset: Dataset, *,
    train_list: Path | None = None, policy: str | None = None, replace: bool = False,
    validate: Validate | None = None,
) -> ImportReport:  # fmt: skip
    """Import the Magnetic Tile Surface Defects: MT_Free and MT_<kind>, each NAME.jpg with its mask NAME.png.

    The MT_Free images that `train_list` names (default: train_filenames.txt in the source, where it is)
    become train/good and the others test/good: 761 and 191 with the papers' list. Without a list, the hash
    of the bytes sends about four in five to train. Masks are binarised at > 127; MT_Free's are ignored.
    """

    def fill(stage: Stage) -> list[str]:
        return layouts.magnetic_tile(_opened(source, stage.scratch), stage.category, train_list)

    return _import(data_root, category, fill, dataset, policy or "object", replace, validate)


def import_folder(
    source: Path, data_root: Path, category: str, dataset: Dataset, *,
    defects: Path | None = None, masks: Path | None = None, policy: str | None = None, replace: bool = False,
    validate: Validate | None = None,
) -> ImportReport:  # fmt: skip
    """Import a flat folder of normal images as train/good, and optionally defective ones as the test set.

    `defects`: images, in subfolders named after the kinds of defect or, without subfolders, of the kind
    "defect"; a subfolder "good" holds normal test images. `masks`: NAME.* or NAME_mask.* for the defective
    image NAME.*, in the same subfolders or, where names are unique, in any. A mask without image is refused.
    """

    def fill(stage: Stage) -> list[str]:
        normal = _opened(source, stage.scratch)
        bad = _opened(defects, stage.scratch / "defects") if defects else None
        truth = _opened(masks, stage.scratch / "masks") if masks else None
        return layouts.folder(normal, stage.category, bad, truth)

    return _import(data_root, category, fill, dataset, policy or "object", replace, validate)


def import_known(
    source: Path, data_root: Path, category: str, dataset: Dataset, *,
    masks: Path | None = None, replace: bool = False, validate: Validate | None = None,
) -> ImportReport:  # fmt: skip
    """Import known defects, for the calibration of a category that is there: images in subfolders named after the
    kinds of defect or, without subfolders, of the kind "defect"; `masks` as for `import_folder`.

    `replace` allows the category to have known defects. Raises UserError, leaving data/ as it was, also for a defect
    that is in the test set or among the normal images (see `check_known`).
    """
    base = data_root / category
    with staged(data_root, category, replace, known.FOLDER) as stage:
        if not (base / "train" / "good").is_dir():
            raise UserError(f"data/{category} is not there; import its normal images first")
        images, truth = (stage.category / known.FOLDER / name for name in (known.IMAGES, known.MASKS))
        bad = _opened(source, stage.scratch)
        said = layouts.known(bad, images, truth, _opened(masks, stage.scratch / "masks") if masks else None)
        manifest = build_manifest(base, max_megapixels=dataset.max_megapixels)
        everything = _with_known(stage.category, base, manifest, dataset)
        if validate is not None:
            validate(everything)
    return ImportReport(category, "", layouts.count(base), tuple(said))


def import_sample(
    data_root: Path, dataset: Dataset, *,
    seed: int = 0, policy: str | None = None, replace: bool = False, validate: Validate | None = None,
) -> ImportReport:  # fmt: skip
    """Make the built-in category `brick`; see components.dataset.sample."""

    def fill(stage: Stage) -> list[str]:
        sample.make_sample(stage.category, seed)
        return []

    return _import(data_root, sample.CATEGORY, fill, dataset, policy or "texture", replace, validate)


def count_images(category_dir: Path) -> dict[str, int]:
    """Images by folder of a category that is in place, without reading them."""
    return layouts.count(category_dir)


def _import(
    data_root: Path, category: str, fill: Fill, dataset: Dataset, policy: str, replace: bool,
    validate: Validate | None,
) -> ImportReport:  # fmt: skip
    if policy not in POLICIES:
        raise UserError(f"'{policy}' is no augmentation policy; use one of {', '.join(POLICIES)}")
    with staged(data_root, category, replace) as stage:
        said = fill(stage)
        known.keep_known(data_root / category, stage.category)
        manifest = build_manifest(stage.category, max_megapixels=dataset.max_megapixels)
        # The scratch folder is gone when the message is read: name files by their place in the category.
        prefix = f"{stage.category}/"
        manifest["error"] = manifest["error"].str.replace(prefix, "", regex=False)
        check(manifest, dataset)
        assign_parts(manifest, dataset.val_fraction, dataset.calib_fraction)
        everything = _with_known(stage.category, stage.category, manifest, dataset)
        if validate is not None:
            validate(everything)
        repeats = repeats_of(manifest)
        if repeats:
            said = [*said, f"{len(repeats)} training images repeat another's bytes, e.g. {' = '.join(repeats[0])}"]
        counts = layouts.count(stage.category)
    return ImportReport(category, policy, counts, tuple(said))


def _with_known(holder: Path, category_dir: Path, manifest: pd.DataFrame, dataset: Dataset) -> pd.DataFrame:
    """The category's manifest and that of the known defects in `holder`, checked against it."""
    found = known.list_known(holder, dataset.max_megapixels)
    found["error"] = [error.replace(f"{holder}/", "") for error in found["error"]]
    known.check_known(holder, found, category_dir, manifest, dataset.max_megapixels)
    return pd.concat([manifest, found], ignore_index=True) if len(found) else manifest


def _opened(source: Path, scratch: Path) -> Path:
    """The folder that `source` is, or the one that it unpacks to."""
    if source.is_dir():
        return source
    if not source.exists():
        raise UserError(f"{source} does not exist; check the path")
    if not is_archive(source):
        raise UserError(f"{source} is neither a folder nor a zip or tar archive; unpack it first")
    unpack(source, scratch / "unpacked")
    return scratch / "unpacked"
