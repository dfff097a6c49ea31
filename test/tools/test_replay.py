"""Bags in, bags out: the same bytes every time."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from world import Person, World, times

rosbags_rosbag2 = pytest.importorskip("rosbags.rosbag2")

from rosbags.highlevel import AnyReader  # noqa: E402

from pose_ros.core.values import TrackState  # noqa: E402
from pose_ros.errors import ConfigError, SourceError  # noqa: E402
from pose_ros.messages import PoseMessages  # noqa: E402
from pose_ros.tools import replay, replay_report  # noqa: E402
from pose_ros.tools.bag_messages import (  # noqa: E402
    POSES_TYPE,
    message_types,
    new_message,
    pose_typestore,
)

STORE = pose_typestore()
IMAGE = "sensor_msgs/msg/Image"
LIGHT = ["--net", "movenet_lightning", "--device", "cpu"]


def image(number: int, broken: bool = False):
    stamp = new_message(STORE, "builtin_interfaces/msg/Time", sec=5, nanosec=number * 50_000_000)
    header = new_message(STORE, "std_msgs/msg/Header", stamp=stamp, frame_id="eye")
    pixels = np.full(64 * 48 * 3, 100, np.uint8)
    return new_message(STORE, IMAGE, header=header, height=48, width=64, encoding="bgr8",
                       step=1 if broken else 192, data=pixels)  # fmt: skip


def make_bag(path: Path, topics: tuple[str, ...] = ("/eye/image",), sqlite: bool = False) -> Path:
    plugin = (
        rosbags_rosbag2.StoragePlugin.SQLITE3 if sqlite else rosbags_rosbag2.StoragePlugin.MCAP
    )
    with rosbags_rosbag2.Writer(path, version=9, storage_plugin=plugin) as writer:
        for topic in topics:
            connection = writer.add_connection(topic, IMAGE, typestore=STORE)
            for number in range(6):
                message = image(number, broken=number == 2)
                writer.write(connection, number * 50_000_000, STORE.serialize_cdr(message, IMAGE))
    return path


@pytest.mark.parametrize("sqlite", [False, True])
def test_every_good_image_is_answered_with_its_stamp_and_the_bytes_repeat(
    tmp_path: Path, sqlite: bool
) -> None:
    bag = make_bag(tmp_path / "bag", sqlite=sqlite)
    answers = [replay.main([str(bag), "--out", str(tmp_path / out), *LIGHT]) for out in "ab"]
    assert answers[0]["frames"] == 5 and answers[0]["skipped"] == 1
    files = [(tmp_path / out / "poses" / "poses.mcap").read_bytes() for out in "ab"]
    assert files[0] == files[1]
    with AnyReader([tmp_path / "a" / "poses"]) as reader:
        got = [reader.deserialize(raw, c.msgtype) for c, _, raw in reader.messages()]
    assert [m.header.stamp.nanosec // 50_000_000 for m in got] == [0, 1, 3, 4, 5]
    assert [m.sequence for m in got] == list(range(1, 6))
    assert {m.header.frame_id for m in got} == {"eye"}
    assert "<table>" in (tmp_path / "a" / "report.html").read_text()


def test_the_topic_must_be_clear(tmp_path: Path) -> None:
    bag = make_bag(tmp_path / "bag", ("/left", "/right"))
    with pytest.raises(
        ConfigError, match=r"exactly one image topic \(choose with --topic\).* /left, /right"
    ):
        replay.main([str(bag), "--out", str(tmp_path / "o"), *LIGHT])
    with pytest.raises(ConfigError, match="expected image topic '/up' in the bag"):
        replay.main([str(bag), "--out", str(tmp_path / "o"), "--topic", "/up", *LIGHT])


def test_what_is_no_bag_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="expected a rosbag2 directory"):
        replay.main([str(tmp_path / "missing"), "--out", str(tmp_path / "o"), *LIGHT])


def test_messages_say_what_is_known_and_nan_for_the_rest() -> None:
    results = World([Person(lambda t: (600.0, 240.0))]).run(times(10, 0.4))
    messages = PoseMessages(message_types(STORE), World([]).pipeline().skeleton, 0.2)
    header = new_message(STORE, "std_msgs/msg/Header", frame_id="eye")
    message = messages.array(results[-1], header)
    message = STORE.deserialize_cdr(STORE.serialize_cdr(message, POSES_TYPE), POSES_TYPE)
    human = message.humans[0]
    assert (human.id, human.body_id, human.state) == (1, "b00001", TrackState.TRACKED)
    assert len(human.keypoints) == 17 and len(human.segment_lengths) == 16
    for joint, truth in zip(
        human.keypoints, Person(lambda t: (600.0, 240.0)).joints(0), strict=True
    ):
        np.testing.assert_allclose((joint.u, joint.v), truth, atol=0.1)
        assert joint.status == (4 if truth[0] > 639.5 else 1)
        assert np.isnan([joint.position.x, joint.velocity.z, joint.speed_stddev]).all()
        assert joint.covariance[0] == -1
    assert human.roi.x_offset + human.roi.width == 640
    assert np.isnan(human.root.pose.position.x) and human.root.covariance[0] == -1


def test_jitter_by_hand_and_accuracy_against_a_truth() -> None:
    walker = Person(lambda t: (100 + 100 * t, 240.0))
    shaky = Person(lambda t: (100 + 100 * t + (2 if round(t * 20) % 2 else 0), 240.0))
    smooth, rough = (World([p]).run(times(20, 2.0)) for p in (walker, shaky))
    assert replay_report.jitter_px(smooth, 17) < 0.01
    assert abs(replay_report.jitter_px(rough, 17) - 4.0) < 0.01  # |0 - 2 * 2 + 0|
    truth = {r.stamp_ns: {5: walker.joints(r.stamp_ns * 1e-9)} for r in rough}
    report = replay_report.accuracy(rough, truth)
    assert report == {"id_switches": 0, "accuracy": {"mean_px": 1.0, "found": 1.0}}


def test_a_truth_of_another_form_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"frame": 1}\n')
    with pytest.raises(SourceError, match="expected JSON lines with stamp_ns and people"):
        replay_report.read_truth(tmp_path / "t.jsonl")


def test_a_change_of_id_is_counted_once() -> None:
    still = Person(lambda t: (200.0, 240.0))
    hides = dataclasses.replace(still, hidden=lambda t: 0.5 <= t < 1.8)
    results = World([hides]).run(times(20, 2.5))
    truth = {r.stamp_ns: {1: still.joints(0)} for r in results}
    assert replay_report.accuracy(results, truth)["id_switches"] == 1
