import io

import numpy as np
import pytest
import torch
from PIL import Image

from maskwise.data.images import ImageReadError, read_image
from maskwise.predictions.pictures import Asked, pixels

RGB = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
GREY = RGB[..., 0]
SIXTEEN = (np.arange(54, dtype=np.uint16) * 1100).reshape(6, 9)


def saved(array, **options):
    data = io.BytesIO()
    Image.fromarray(array).save(data, "PNG", **options)
    return data.getvalue()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (RGB, RGB),
        (RGB[:, ::-1], RGB[:, ::-1]),
        (GREY, np.dstack([GREY] * 3)),
        (GREY[..., None], np.dstack([GREY] * 3)),
        (RGB / 255, RGB),
        ((RGB / 255).astype(np.float32), RGB),
        (RGB.astype(np.int64), RGB),
        (SIXTEEN, read_image(saved(SIXTEEN))),
        (torch.from_numpy(RGB).permute(2, 0, 1), RGB),
        (torch.from_numpy(RGB).permute(2, 0, 1) / 255, RGB),
        (torch.from_numpy(GREY)[None], np.dstack([GREY] * 3)),
        (torch.from_numpy(GREY), np.dstack([GREY] * 3)),
        (Image.fromarray(RGB), RGB),
        (Image.fromarray(GREY), np.dstack([GREY] * 3)),
        (Image.fromarray(SIXTEEN), read_image(saved(SIXTEEN))),
        (saved(RGB), RGB),
    ],
)
def test_whatever_it_is_given_as_it_is_the_same_picture(given, expected):
    result = pixels(given)
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, expected)


def test_what_is_transparent_lies_on_white_as_in_files():
    rgba = np.dstack([RGB, np.arange(54, dtype=np.uint8).reshape(6, 9) * 4])
    of_file = read_image(saved(rgba)).astype(int)
    for given in (rgba, Image.fromarray(rgba), torch.from_numpy(rgba).permute(2, 0, 1)):
        assert np.abs(pixels(given).astype(int) - of_file).max() <= 1


def test_a_picture_of_pillow_is_turned_upright():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = saved(RGB, exif=exif)
    with Image.open(io.BytesIO(data)) as opened:
        np.testing.assert_array_equal(pixels(opened), read_image(data))
    assert pixels(data).shape == (9, 6, 3)


def test_bfloat16_is_understood():
    assert np.abs(pixels(torch.full((3, 4, 4), 0.5, dtype=torch.bfloat16)).astype(int) - 128).max() <= 1


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (np.zeros((2, 4, 4, 3), np.uint8), "give a list of pictures"),
        (np.zeros((4, 4, 2), np.uint8), r"shape \(4, 4, 2\): expected h w"),
        (np.zeros((0, 4, 3), np.uint8), "without pixels"),
        (np.full((4, 4), 1.5), "must be from 0 to 1, these are from 1.5 to 1.5"),
        (np.full((4, 4), np.nan), "must be from 0 to 1"),
        (np.zeros((4, 4), bool), "pixels of type bool"),
        (torch.zeros(7, 4, 4), r"shape \(7, 4, 4\)"),
    ],
)
def test_what_is_no_picture_is_refused(given, complaint):
    with pytest.raises(ValueError, match=complaint):
        pixels(given)


def test_a_damaged_picture_of_pillow_is_a_read_error():
    with (
        Image.open(io.BytesIO(saved(np.zeros((200, 200, 3), np.uint8))[:-60])) as opened,
        pytest.raises(ImageReadError),
    ):
        pixels(opened)


def test_a_file_that_formats_would_not_take_for_a_picture_is_called_one(tmp_path):
    assert Asked.file(tmp_path / "scan").name == "scan.png"
    assert Asked.file(tmp_path / "a.JPG").name == "a.JPG"


@pytest.mark.parametrize("side", [1500, 2000, 2500])
def test_all_colours_decide_what_is_white(side):
    values = np.zeros((side, side, 3), np.uint16)
    values[..., 0], values[..., 1:] = 300, np.linspace(0, 4000, side, dtype=np.uint16)[:, None, None]
    found = pixels(values)
    assert found[..., 0].max() < 25
    assert (found[..., 1:] == 255).mean() < 0.01


@pytest.mark.parametrize("opaque", [255, 4095, 65535])
def test_alpha_is_scaled_by_itself(opaque):
    grey = np.linspace(0, 4095, 64, dtype=np.uint16).reshape(8, 8)
    colours = np.dstack([grey] * 3)
    assert np.array_equal(pixels(np.dstack([colours, np.full_like(grey, opaque)])), pixels(colours))
    clear = np.full_like(grey, opaque)
    clear[0] = 0
    assert (pixels(np.dstack([colours, clear]))[0] == 255).all()
