"""Cameras from messages: what the image shows of the sensor."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pose_ros.core.camera_info import camera_from_info, is_rectified
from pose_ros.errors import CalibrationError


def info(**fields: Any) -> SimpleNamespace:
    region = dict.fromkeys(("x_offset", "y_offset", "width", "height"), 0)
    values: dict[str, Any] = {
        "width": 640, "height": 480, "distortion_model": "plumb_bob", "d": np.zeros(5),
        "k": [600.0, 0, 319.5, 0, 610.0, 239.5, 0, 0, 1], "binning_x": 0, "binning_y": 0,
        "p": [500.0, 0, 310.0, 0, 0, 505.0, 230.0, 0, 0, 0, 1, 0],
        "roi": SimpleNamespace(**(region | fields.pop("roi", {}))),
    }  # fmt: skip
    return SimpleNamespace(**(values | fields))


def test_a_point_stays_on_its_pixel_of_the_region_and_of_the_reduced_image() -> None:
    point = np.array([[0.3, -0.2, 2.0]])
    whole = camera_from_info(info()).project(point)[0]
    np.testing.assert_allclose(whole, (319.5 + 600 * 0.15, 239.5 - 610 * 0.1))
    region = {"x_offset": 100, "y_offset": 40, "width": 400, "height": 300}
    part = camera_from_info(info(roi=region))
    assert (part.width_px, part.height_px) == (400, 300)
    np.testing.assert_allclose(part.project(point)[0], whole - (100, 40))
    half = camera_from_info(info(binning_x=2, binning_y=2))
    assert (half.width_px, half.height_px) == (320, 240)
    np.testing.assert_allclose(half.project(point)[0], (whole + 0.5) / 2 - 0.5)
    for x, y in ((2, 0), (1, 2)):  # 0 and 1 both mean that nothing is reduced
        flat = camera_from_info(info(binning_x=x, binning_y=y))
        by = np.maximum((x, y), 1)
        assert (flat.width_px, flat.height_px) == (640 // by[0], 480 // by[1])
        np.testing.assert_allclose(flat.project(point)[0], (whole + 0.5) / by - 0.5)


def test_zero_distortion_is_none_and_the_rest_is_kept() -> None:
    assert camera_from_info(info()).distortion == ()
    bent = camera_from_info(info(d=[0.1, 0.0, 0.0, 0.0, 0.0]))
    assert bent.distortion == (0.1, 0.0, 0.0, 0.0, 0.0)


def test_what_cannot_project_is_refused() -> None:
    with pytest.raises(CalibrationError, match="all-zero K"):
        camera_from_info(info(k=[0.0] * 9))
    with pytest.raises(CalibrationError, match="got 'equidistant'"):
        camera_from_info(info(distortion_model="equidistant"))


def test_a_rectified_image_has_the_projection_and_no_lens() -> None:
    bent = info(d=[0.1, 0.0, 0.0, 0.0, 0.0])
    assert camera_from_info(bent, True).distortion == ()
    whole = camera_from_info(bent, True).project(np.array([[0.3, -0.2, 2.0]]))[0]
    np.testing.assert_allclose(whole, (310 + 500 * 0.15, 230 - 505 * 0.1))
    wide = info(distortion_model="equidistant", d=[0.1, 0.0, 0.0, 0.0])
    assert camera_from_info(wide, True) == camera_from_info(bent, True)
    half = camera_from_info(info(binning_x=2, binning_y=2), True)
    assert (half.width_px, half.fx_px) == (320, 250.0)
    with pytest.raises(CalibrationError, match="P: expected the projection of the rectified"):
        camera_from_info(info(p=[0.0] * 12), True)


@pytest.mark.parametrize(
    ("topic", "rectified"),
    [
        ("/camera/image_rect", True), ("/camera/color/image_rect_color", True),
        ("/camera/image_rect/compressed", True), ("/camera/image_raw", False), ("image", False),
        ("/image_rect/left/image_raw", False), ("/camera/image", False),
    ],
)  # fmt: skip
def test_rectified_images_are_told_by_their_names(topic: str, rectified: bool) -> None:
    assert is_rectified(topic) is rectified
