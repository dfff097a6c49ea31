"""Topics of single people: which there are, for how long, and what is in them."""

import numpy as np
import pytest
import stand_ins
from people import LOST, OCCLUDED, SIZE, STAMP_NS, TENTATIVE, TRACKED, bodies, result
from std_msgs.msg import Header

from pose_ros.core.skeletons import COCO17
from pose_ros.core.values import Frame, PoseResult
from pose_ros.errors import ConfigError
from pose_ros.nodes.bodies import Bodies
from pose_ros.nodes.conversions import time_from_ns

HEADER = Header(stamp=time_from_ns(STAMP_NS), frame_id="camera")
ALWAYS = {"joint_states", "position", "velocity", "urdf"}


@pytest.fixture
def node() -> stand_ins.Node:
    return stand_ins.Node()


@pytest.fixture
def hri(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_ins.install(monkeypatch, "hri_msgs", *stand_ins.HRI)


@pytest.fixture
def no_hri(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_ins.uninstall(monkeypatch, "hri_msgs")


def topics(node: stand_ins.Node, body: str) -> set[str]:
    here = f"/humans/bodies/{body}/"
    return {
        t.removeprefix(here) for t, p in node.publishers.items() if t.startswith(here) and p.open
    }


def seen(states: dict[int, int]) -> PoseResult:
    return result(states, bodies(np.array(sorted(states), np.int64)))


def test_topics_come_when_somebody_is_tracked_and_go_with_them(
    node: stand_ins.Node, no_hri: None
) -> None:
    people = Bodies(node, COCO17)
    people.publish(seen({1: TENTATIVE, 2: TRACKED}), HEADER)
    assert topics(node, "b00001") == set() and topics(node, "b00002") == ALWAYS
    people.publish(seen({1: TRACKED, 2: OCCLUDED}), HEADER)
    assert topics(node, "b00001") == topics(node, "b00002") == ALWAYS
    people.publish(seen({1: TRACKED, 2: LOST}), HEADER)
    assert topics(node, "b00001") == ALWAYS and topics(node, "b00002") == set()
    people.close()
    assert not any(p.open for p in node.publishers.values())
    assert "/humans/bodies/tracked" not in node.publishers


def test_a_list_without_the_lost_one_comes_before_the_topics_go(
    node: stand_ins.Node, hri: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    people = Bodies(node, COCO17)
    people.publish(seen({1: TRACKED, 2: TRACKED, 3: TENTATIVE}), HEADER)
    assert topics(node, "b00002") == ALWAYS | {"roi", "skeleton2d"}
    open_then: list[bool] = []
    tracked = node.publishers["/humans/bodies/tracked"]
    publish = tracked.publish
    monkeypatch.setattr(tracked, "publish", lambda m: (
        publish(m), open_then.append("roi" in topics(node, "b00002"))
    ))  # fmt: skip
    people.publish(seen({1: OCCLUDED, 2: LOST}), HEADER)
    assert [list(m.ids) for m in tracked.sent] == [["b00001", "b00002"], ["b00001"]]
    assert open_then == [True] and topics(node, "b00002") == set()
    people.publish(seen({}), HEADER)  # nobody in the picture, and one known to be behind
    people.publish(seen({1: LOST}), HEADER)
    assert list(tracked.sent[-1].ids) == [] and tracked.qos == 1


def test_where_somebody_is_in_the_picture(node: stand_ins.Node, hri: None) -> None:
    people = Bodies(node, COCO17)
    people.see(Frame(np.zeros((480, 640, 3), np.uint8), STAMP_NS, "camera"))
    people.publish(result({4: TRACKED}), Header(stamp=HEADER.stamp, frame_id="base"))
    (region,) = node.sent("/humans/bodies/b00004/roi")
    (skeleton,) = node.sent("/humans/bodies/b00004/skeleton2d")
    assert (region.xmin, region.xmax) == pytest.approx((0.5 / 640, 80.5 / 640))
    assert (region.ymin, region.ymax) == pytest.approx((40.5 / 480, 400.5 / 480))
    assert region.c == pytest.approx(0.8)
    for message in (region, skeleton, node.sent("/humans/bodies/tracked")[0]):
        assert message.header.stamp == HEADER.stamp
        assert message.header.frame_id == "camera"  # pixels are the camera's in every frame
    assert node.sent("/humans/bodies/b00004/urdf") == []  # no metres


def test_nothing_is_built_that_nobody_reads(node: stand_ins.Node, hri: None) -> None:
    people = Bodies(node, COCO17, cropped=True)
    people.see(picture())
    people.publish(seen({1: TRACKED}), HEADER)
    for publisher in node.publishers.values():
        publisher.readers = 0
        publisher.sent.clear()
    people.publish(seen({1: TRACKED}), HEADER)
    sent = {topic for topic, p in node.publishers.items() if p.sent}
    assert sent == {"/humans/bodies/tracked"}


def test_off_means_no_topic_at_all(node: stand_ins.Node, hri: None) -> None:
    people = Bodies(node, COCO17, hri="off")
    people.see(picture())
    people.publish(seen({1: TRACKED}), HEADER)
    people.close()
    assert node.publishers == {}


def test_what_is_asked_for_and_missing_is_refused_before_anything_is_advertised(
    node: stand_ins.Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_ins.uninstall(monkeypatch, "hri_msgs")
    stand_ins.uninstall(monkeypatch, "tf2_msgs")
    with pytest.raises(ConfigError, match="hri_msgs cannot be imported"):
        Bodies(node, COCO17, hri="on")
    with pytest.raises(ConfigError, match="tf2_msgs cannot be imported"):
        Bodies(node, COCO17, tf="full", convention="rep155")
    assert node.publishers == {}


def picture(stamp_ns: int = STAMP_NS, seed: int = 0) -> Frame:
    pixels = np.random.default_rng(seed).integers(0, 255, (SIZE[1], SIZE[0], 3), np.uint8)
    return Frame(pixels, stamp_ns, "camera")


def test_people_are_cut_out_of_the_picture_that_is_answered(
    node: stand_ins.Node, no_hri: None
) -> None:
    people = Bodies(node, COCO17, cropped=True)
    frames = [picture(STAMP_NS, 1), picture(STAMP_NS + 10, 2)]  # a network that looks ahead
    for frame in frames:
        people.see(frame)
    people.publish(seen({1: TRACKED, 2: TRACKED}), HEADER)
    (cut,) = node.sent("/humans/bodies/b00002/cropped")
    assert (cut.encoding, cut.header) == ("rgb8", HEADER)
    got = np.frombuffer(cut.data, np.uint8).reshape(cut.height, cut.width, 3)
    np.testing.assert_array_equal(got, frames[0].rgb[40:400, 100:180])
    people.publish(result({1: TRACKED}, stamp_ns=STAMP_NS + 5), HEADER)  # of an unknown picture
    assert len(node.sent("/humans/bodies/b00001/cropped")) == 1


def test_no_picture_of_people_leaves_the_node_unless_allowed(
    node: stand_ins.Node, no_hri: None
) -> None:
    people = Bodies(node, COCO17)
    people.see(picture())
    people.publish(seen({1: TRACKED}), HEADER)
    assert topics(node, "b00001") == ALWAYS


def test_a_box_outside_the_picture_is_not_cut(node: stand_ins.Node, hri: None) -> None:
    people = Bodies(node, COCO17, cropped=True)
    people.see(picture())
    far = result({1: TRACKED, 2: TRACKED})
    far.tracks.xyxy_px[0] = (700, 40, 800, 400)
    far.tracks.xyxy_px[1] = np.nan
    people.publish(far, HEADER)
    for body in ("b00001", "b00002"):
        assert node.sent(f"/humans/bodies/{body}/cropped") == []
    assert node.sent("/humans/bodies/b00001/roi")[0].xmin == 1.0
    assert node.sent("/humans/bodies/b00002/roi") == []


def test_the_model_is_sent_once_while_nobody_grows(node: stand_ins.Node, no_hri: None) -> None:
    people = Bodies(node, COCO17)
    for _ in range(5):
        people.publish(seen({1: TRACKED}), HEADER)
    (model,) = node.sent("/humans/bodies/b00001/urdf")
    assert 'link name="l_elbow_b00001"' in model.data
    joints = node.sent("/humans/bodies/b00001/joint_states")
    assert len(joints) == 5 and all(n.endswith("_b00001") for n in joints[0].name)
    assert np.isfinite(joints[0].position).all() and len(joints[0].name) >= 17


def test_pictures_without_topics_of_people_are_refused(node: stand_ins.Node, no_hri: None) -> None:
    """Who allows pictures and switches their topics off is told, not ignored."""
    with pytest.raises(
        ConfigError, match=r"privacy\.publish_cropped is on and hri\.enable is 'off'"
    ):
        Bodies(node, COCO17, hri="off", cropped=True)
    assert node.publishers == {}
