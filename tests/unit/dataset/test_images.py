"""Every kind of good and bad image file, and what becomes of it."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from components.dataset.images import bits_used, read_image, read_mask, resize, resize_mask
from components.errors import UserError
from tests.unit.dataset.pictures import encoded, picture, write


def png_header(width: int, height: int) -> bytes:
    """A PNG that says it is large and holds next to nothing: a decompression bomb's first bytes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def refusal(path: Path, limit: float = 100) -> str:
    with pytest.raises(UserError) as caught:
        read_image(path, limit)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 24), st.integers(1, 24), st.sampled_from([1, 3]), st.booleans(), st.integers(0, 9))
def test_lossless_files_come_back_as_they_were(
    tmp_path_factory: pytest.TempPathFactory, height: int, width: int, channels: int, deep: bool, seed: int
) -> None:
    kind = np.uint16 if deep else np.uint8
    rng = np.random.default_rng(seed)
    image = rng.integers(0, np.iinfo(kind).max, (height, width, channels), dtype=kind, endpoint=True)
    path = write(tmp_path_factory.mktemp("images") / "ein bißchen Bild 画像.png", image)
    back = read_image(path, 1)
    assert back.dtype == kind
    np.testing.assert_array_equal(back, image)


def test_an_opaque_alpha_is_dropped_and_another_shows_mid_grey(tmp_path: Path) -> None:
    image = picture(channels=4)
    image[..., 3] = 255
    np.testing.assert_array_equal(read_image(write(tmp_path / "opaque.png", image), 1), image[..., :3])
    image[:10, :, 3] = 0
    image[10:20, :, 3] = 128
    back = read_image(write(tmp_path / "clear.png", image), 1).astype(float)
    assert np.abs(back[:10] - 127.5).max() <= 0.5
    share = 128 / 255
    half = image[10:20, :, :3] * share + 127.5 * (1 - share)
    assert np.abs(back[10:20] - half).max() <= 0.51
    np.testing.assert_array_equal(back[20:], image[20:, :, :3])


def test_alpha_of_16_bits_stays_16_bits(tmp_path: Path) -> None:
    image = picture(channels=4).astype(np.uint16) * 257
    image[..., 3] = 65535
    back = read_image(write(tmp_path / "deep.png", image), 1)
    np.testing.assert_array_equal(back, image[..., :3])


@pytest.mark.parametrize("mode", ["1", "P", "L", "LA", "CMYK"])
def test_other_modes_become_grey_or_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("image.jpg" if mode == "CMYK" else "image.png")
    Image.fromarray(picture()).convert(mode).save(path)
    back = read_image(path, 1)
    assert back.shape[:2] == (40, 48)
    assert back.shape[2] in (1, 3)
    assert back.std() > 10


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif", ".webp", ".jp2"])
@pytest.mark.parametrize("lost", [2, 12, 200, 0.5, 0.9])
def test_truncated(tmp_path: Path, suffix: str, lost: float) -> None:
    data = encoded(picture(height=120, width=160), suffix)
    path = tmp_path / f"cut{suffix}"
    path.write_bytes(data)
    assert read_image(path, 1).shape == (120, 160, 3)
    path.write_bytes(data[: len(data) - int(lost if lost >= 1 else lost * len(data))])
    assert "truncated" in refusal(path)


def test_a_png_with_one_wrong_byte(tmp_path: Path) -> None:
    data = bytearray(encoded(picture()))
    data[len(data) // 2] ^= 1
    path = tmp_path / "damaged.png"
    path.write_bytes(data)
    assert "damaged" in refusal(path)


def test_empty_missing_and_folder(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    assert "empty" in refusal(tmp_path / "empty.png")
    assert "No such file" in refusal(tmp_path / "nowhere.png")
    assert "cannot be read" in refusal(tmp_path)


def test_not_an_image(tmp_path: Path) -> None:
    (tmp_path / "notes.png").write_text("to whom it may concern")
    assert "is not an image" in refusal(tmp_path / "notes.png")


def test_unsupported(tmp_path: Path) -> None:
    Image.fromarray(picture()).save(tmp_path / "film.gif")
    assert "GIF" in refusal(tmp_path / "film.gif")
    (tmp_path / "real.tif").write_bytes(cv2.imencode(".tif", picture()[..., 0].astype(np.float32))[1].tobytes())
    assert "unsupported" in refusal(tmp_path / "real.tif")


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png_header(30_000, 30_000))
    tracemalloc.start()
    message = refusal(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "30000x30000" in message
    assert peak < 10e6


def test_the_limit_is_ours(tmp_path: Path) -> None:
    path = write(tmp_path / "image.png", picture(height=100, width=100))
    assert read_image(path, 0.01).shape == (100, 100, 3)
    assert "megapixels" in refusal(path, 0.0099)


def test_nothing_but_the_refusal_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for suffix in (".png", ".jpg", ".tif"):
        data = encoded(picture(height=120, width=160), suffix)
        (tmp_path / f"cut{suffix}").write_bytes(data[: len(data) // 2])
        refusal(tmp_path / f"cut{suffix}")
    assert capfd.readouterr() == ("", "")


def test_a_mask_is_defective_above_127(tmp_path: Path) -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    mask = read_mask(write(tmp_path / "m.png", levels), 16, 16)
    assert mask.dtype == bool
    np.testing.assert_array_equal(mask.ravel(), np.arange(256) > 127)
    deep = read_mask(write(tmp_path / "deep.png", levels.astype(np.uint16) * 257), 16, 16)
    np.testing.assert_array_equal(deep, mask)


def test_what_is_transparent_in_a_mask_is_not_defective(tmp_path: Path) -> None:
    painted = np.zeros((8, 9, 4), np.uint8)
    painted[2:4, 5:7] = 255
    mask = read_mask(write(tmp_path / "m.png", painted), 8, 9)
    assert mask.sum() == 4 and mask[2:4, 5:7].all()


@pytest.mark.parametrize(("dtype", "value"), [(np.uint8, 1), (np.uint8, 127), (np.uint16, 255)])
def test_a_mask_of_class_numbers_is_refused_and_an_empty_one_is_not(tmp_path: Path, dtype: type, value: int) -> None:
    levels = np.zeros((8, 9, 1), dtype)
    assert not read_mask(write(tmp_path / "empty.png", levels), 8, 9).any()
    levels[2, 3] = value
    with pytest.raises(UserError, match=rf"no value above {value} of \d+; export it with white"):
        read_mask(write(tmp_path / "m.png", levels), 8, 9)


def test_a_mask_of_another_size(tmp_path: Path) -> None:
    path = write(tmp_path / "m.png", picture(channels=1))
    with pytest.raises(UserError, match=r"48x40 but its image is 50x40"):
        read_mask(path, 40, 50)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 70), st.integers(1, 70), st.sampled_from([1, 3]), st.integers(1, 70), st.integers(0, 255))
def test_resize_keeps_shape_dtype_and_flat_grey(height: int, width: int, channels: int, size: int, grey: int) -> None:
    flat = np.full((height, width, channels), grey, np.uint8)
    out = resize(flat, size)
    assert out.shape == (size, size, channels)
    assert out.dtype == np.uint8
    assert (out == grey).all()


@pytest.mark.parametrize("shape", [(200, 2048), (2048, 200)])
def test_a_thin_line_on_a_long_strip_is_averaged_and_not_lost(shape: tuple[int, int]) -> None:
    strip = np.zeros((*shape, 1), np.uint8)
    strip[(slice(None), slice(3, None, 8)) if shape[1] > shape[0] else (slice(3, None, 8),)] = 255
    assert resize(strip, 256).mean() == pytest.approx(strip.mean(), abs=0.6)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 20), st.integers(1, 4), st.integers(0, 99))
def test_masks_survive_enlarging_and_shrinking(side: int, factor: int, seed: int) -> None:
    mask = np.random.default_rng(seed).random((side, side)) > 0.5
    large = resize_mask(mask, side * factor)
    np.testing.assert_array_equal(large, np.kron(mask, np.ones((factor, factor))) > 0)
    np.testing.assert_array_equal(resize_mask(large, side), mask)


def test_shrinking_averages_areas() -> None:
    image = np.zeros((4, 4, 1), np.uint8)
    image[:2, :2] = [[[0], [100]], [[200], [100]]]
    assert resize(image, 2)[0, 0, 0] == 100


@pytest.mark.parametrize(
    ("largest", "bits"), [(0, 8), (255, 8), (256, 10), (1023, 10), (1024, 12), (4095, 12), (4096, 14), (65535, 16)]
)
def test_bits_used(largest: int, bits: int) -> None:
    assert bits_used(np.array([[[largest]]], np.uint16)) == bits


def test_a_jpeg_with_a_trailer_is_whole(tmp_path: Path) -> None:
    """Phones append data after the end marker."""
    out = io.BytesIO()
    Image.fromarray(picture()).save(out, "jpeg")
    path = tmp_path / "phone.jpg"
    path.write_bytes(out.getvalue() + b"\x00" * 100 + b"trailer")
    assert read_image(path, 1).shape == (40, 48, 3)
