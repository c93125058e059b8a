"""Stored images: written in order, read by place, with nothing left in memory."""

from __future__ import annotations

import io
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.arrays import Images, evenly, new_images
from components.dataset import layouts

MANY = 150  # megabytes


def write(path: Path, images: np.ndarray) -> Images:
    with new_images(path, images.shape, images.dtype) as file:
        for image in images:
            file.write(image.tobytes())
    return Images(path)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_the_file_is_numpys_own(tmp_path: Path, dtype: type) -> None:
    images = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (5, 4, 4, 3)).astype(dtype)
    stored = write(tmp_path / "a.npy", images)
    kept = io.BytesIO()
    np.save(kept, images)
    assert (tmp_path / "a.npy").read_bytes() == kept.getvalue()
    assert (stored.shape, stored.dtype, len(stored)) == (images.shape, images.dtype, 5)


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_any_places_and_slices_are_those_of_an_array(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    images = np.arange(7 * 2 * 2 * 1, dtype=np.uint8).reshape(7, 2, 2, 1)
    stored = write(tmp_path_factory.mktemp("arrays") / "a.npy", images)
    places = np.array(data.draw(st.lists(st.integers(0, 6))), int)
    assert np.array_equal(stored[places], images[places])
    some = data.draw(st.slices(7))
    assert np.array_equal(stored[some], images[some])


def test_a_place_that_is_not_there_and_a_file_that_is_cut(tmp_path: Path) -> None:
    stored = write(tmp_path / "a.npy", np.ones((3, 4, 4, 1), np.uint8))
    for place in (3, -1):
        with pytest.raises(IndexError):
            stored[np.array([place])]
    with (tmp_path / "a.npy").open("r+b") as file:
        file.truncate(140)
    with pytest.raises(OSError, match=r"a\.npy ends early"):
        stored[:3]
    with pytest.raises(ValueError, match="holds"), new_images(tmp_path / "b.npy", (2, 4, 4, 1), np.dtype(np.uint8)):
        pass  # nothing written


def resident() -> float:
    """Megabytes of this process in memory, mapped files included."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def test_a_pass_over_many_images_leaves_none_in_memory(tmp_path: Path) -> None:
    shape = (MANY * 2**20 // (256 * 256 * 3), 256, 256, 3)
    path = tmp_path / "a.npy"
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        file.truncate(file.tell() + int(np.prod(shape)))  # holes: no byte is written
    stored, before = Images(path), resident()
    for start in range(0, len(stored), 16):
        assert not stored[start : start + 16].any()
    assert resident() - before < MANY / 5
    mapped = np.load(path, mmap_mode="r")
    assert not mapped.any() and resident() - before > MANY / 2, "as a memory map would, so this can be seen"


def test_a_folder_of_many_files_takes_the_time_of_few_each(tmp_path: Path) -> None:
    """Bytes of one kind or the other: placing them decodes nothing."""
    seconds = {}
    for count in (300, 3000):
        source = tmp_path / f"given {count}"
        (source / "bad").mkdir(parents=True)
        (source / "masks").mkdir()
        for number in range(count):
            (source / f"{number}.png").touch()
        for number in range(count // 3):
            (source / "bad" / f"d{number}.png").touch()
            (source / "masks" / f"d{number}_mask.png").touch()
        started = time.process_time()
        layouts.folder(source, tmp_path / f"made {count}", source / "bad", source / "masks")
        seconds[count] = time.process_time() - started
    assert seconds[3000] < 10 * 2.5 * seconds[300], seconds


@given(st.integers(0, 5000), st.integers(1, 1500))
def test_drawn_evenly_are_as_many_as_wanted_from_the_first_to_the_last(count: int, most: int) -> None:
    drawn = evenly(count, most)
    assert len(drawn) == min(count, most)
    steps = np.diff(drawn)
    assert not len(steps) or (steps.min() >= 1 and steps.max() - steps.min() <= 1)
    if len(drawn) > 1:
        assert (drawn[0], drawn[-1]) == (0, count - 1)
