"""Messages of hri_msgs: joints by the message's constants, shares of the picture, no NaN."""

import importlib.util
import logging
from typing import Any

import numpy as np
import pytest
import stand_ins
from std_msgs.msg import Header

from pose_ros.core.skeletons import COCO17, SKELETONS, convert
from pose_ros.core.values import Poses2D
from pose_ros.errors import ConfigError
from pose_ros.nodes.hri import HriMessages, message_types

SIZE = (640, 480)
HEADER = Header(frame_id="camera")
REAL = importlib.util.find_spec("hri_msgs") is not None


@pytest.fixture(params=["stand-in", "real"])
def types(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    if request.param == "real":
        return pytest.importorskip("hri_msgs.msg", reason="hri_msgs is not installed")
    return stand_ins.install(monkeypatch, "hri_msgs", *stand_ins.HRI)


def poses(score: float = 0.9) -> Poses2D:
    """One person, every joint at a pixel of its own."""
    xy = np.stack([20.0 * np.arange(17) + 10, 10.0 * np.arange(17) + 5], axis=-1)
    return Poses2D(np.array([7]), xy[None].astype(np.float32), np.full((1, 17), score, np.float32))


def told(types: Any, seen: Poses2D, skeleton: Any = COCO17) -> Any:
    build = HriMessages(types, skeleton)
    return build.skeleton2d(build.points(seen, SIZE)[0], HEADER)


def test_every_joint_is_where_its_constant_says(types: Any) -> None:
    seen, message = poses(), told(types, poses())
    assert len(message.skeleton) == 18 and message.header.frame_id == "camera"
    for joint in COCO17.joints:
        point = message.skeleton[getattr(types.Skeleton2D, joint.upper())]
        u, v = seen.xy_px[0, COCO17.index(joint)]
        got = (point.x, point.y, point.c)
        assert got == pytest.approx(((u + 0.5) / 640, (v + 0.5) / 480, 0.9), abs=1e-6)


def test_left_and_right_of_the_face_are_not_openpose_s(types: Any) -> None:
    """By hand: COCO's left eye (index 1, at pixel 30) is 14 here; OpenPose has the right one."""
    message = told(types, poses())
    assert message.skeleton[14].x == pytest.approx(30.5 / 640, abs=1e-6)
    assert message.skeleton[17].x == pytest.approx((20 * 4 + 10.5) / 640, abs=1e-6)  # right ear


def test_the_neck_is_between_the_shoulders_and_as_sure_as_the_less_sure(types: Any) -> None:
    seen = poses()
    seen.score[0, 5] = 0.4
    neck = told(types, seen).skeleton[types.Skeleton2D.NECK]
    assert neck.x == pytest.approx((20 * 5.5 + 10.5) / 640, abs=1e-6)
    assert neck.c == pytest.approx(0.4)
    seen.xy_px[0, 6] = np.nan
    assert told(types, seen).skeleton[types.Skeleton2D.NECK].c == 0.0


def test_what_is_unknown_or_outside_has_no_confidence_and_no_nan(types: Any) -> None:
    seen = poses()
    seen.xy_px[0, 0] = np.nan
    seen.score[0, 0] = 0.0
    seen.xy_px[0, 9] = (700.0, 100.0)  # right of the picture
    seen.xy_px[0, 10] = (-0.4, 479.4)  # in the corner pixel
    message = told(types, seen)
    for code in (types.Skeleton2D.NOSE, types.Skeleton2D.LEFT_WRIST):
        point = message.skeleton[code]
        assert (point.x, point.y, point.c) == (0.0, 0.0, 0.0)
    corner = message.skeleton[types.Skeleton2D.RIGHT_WRIST]
    assert (0 <= corner.x < 1e-3) and (0.999 < corner.y <= 1.0) and corner.c > 0


@pytest.mark.parametrize("name", sorted(SKELETONS))
def test_other_joint_sets(types: Any, name: str) -> None:
    seen, skeleton = poses(), SKELETONS[name]
    xy, score = convert(seen.xy_px, seen.score, COCO17, skeleton)
    message = told(types, Poses2D(seen.ids, xy, score), skeleton)
    for code in (types.Skeleton2D.LEFT_ANKLE, types.Skeleton2D.NECK):
        whole = told(types, seen).skeleton[code]
        point = message.skeleton[code]
        assert (point.x, point.y, point.c) == pytest.approx((whole.x, whole.y, whole.c), abs=1e-6)


def test_a_region_is_cut_at_the_picture(types: Any) -> None:
    build = HriMessages(types, COCO17)
    box = np.array([-50.0, 119.5, 319.5, 900.0], np.float32)
    region = build.region(box, 0.75, SIZE, HEADER)
    assert (region.xmin, region.ymin, region.xmax, region.ymax) == (0.0, 0.25, 0.5, 1.0)
    assert region.c == 0.75 and region.header.frame_id == "camera"


def test_ids(types: Any) -> None:
    listed = HriMessages(types, COCO17).tracked([3, 12], HEADER)
    assert list(listed.ids) == ["b00003", "b00012"] and listed.header.frame_id == "camera"
    assert list(HriMessages(types, COCO17).tracked([], HEADER).ids) == []


def test_nobody(types: Any) -> None:
    assert HriMessages(types, COCO17).points(Poses2D.empty(17), SIZE).shape == (0, 18, 3)


def test_without_hri_msgs(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stand_ins.uninstall(monkeypatch, "hri_msgs")
    with caplog.at_level(logging.INFO):
        assert message_types("off") is None
        assert not caplog.records
        assert message_types("auto") is None
    assert len(caplog.records) == 1 and "hri_msgs is not installed" in caplog.text
    with pytest.raises(ConfigError, match=r"hri.enable is 'on' .* install"):
        message_types("on")


def test_with_hri_msgs(types: Any) -> None:
    assert message_types("auto") is types and message_types("on") is types
    assert message_types("off") is None


@pytest.mark.skipif(not REAL, reason="hri_msgs is not installed")
def test_the_stand_ins_are_as_the_real_messages() -> None:
    import hri_msgs.msg as real

    for kind in stand_ins.HRI:
        mine, theirs = kind(), getattr(real, kind.__name__)()
        assert list(vars(mine)) == list(theirs.get_fields_and_field_types())
    codes = {k: v for k, v in vars(stand_ins.Skeleton2D).items() if k.isupper()}
    assert codes == {name: getattr(real.Skeleton2D, name) for name in codes} and len(codes) == 18
