"""What is published for readers that know no health, and what is said without an image."""

from __future__ import annotations

import dataclasses
from copy import deepcopy
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rclpy.clock import Clock
from std_msgs.msg import Header

from pose_ros.core.node_config import NodeConfig
from pose_ros.core.skeletons import COCO17
from pose_ros.core.values import (
    Body,
    KeypointStatus,
    PoseResult,
    Poses2D,
    Poses3D,
    Tracks,
    TrackState,
)
from pose_ros.msg import HumanJointStateArray, HumanPoseArray, Keypoint
from pose_ros.nodes.conversions import ns_from_time, pose_messages
from pose_ros.nodes.outputs import Outputs, pose_array


def people(known: list[int], state: int = TrackState.TRACKED) -> PoseResult:
    """As many people as ``known`` says, each with that many known positions."""
    ids = np.arange(1, len(known) + 1)
    count = len(ids)
    tracks = Tracks(
        ids, np.full(count, state, np.int8), np.zeros((count, 4), np.float32),
        np.ones(count, np.float32), np.zeros(count, np.int64),
    )  # fmt: skip
    flat = Poses2D(ids, np.zeros((count, 17, 2), np.float32), np.ones((count, 17), np.float32))
    poses = Poses3D.unknown(ids, 17)
    for row, joints in enumerate(known):
        poses.xyz_m[row, :joints] = (1.0, 2.0, 3.0 + row)
    body = Body(poses, np.zeros((count, 16), np.float32))
    return PoseResult(0, "camera", (8, 8), tracks, flat, True, body=body)


def test_everybody_who_has_a_place_is_in_it() -> None:
    message = pose_array(people([17, 2]), Header(frame_id="camera"))
    assert message is not None and message.header.frame_id == "camera"
    assert [p.position.z for p in message.poses] == [3.0] * 17 + [4.0] * 2
    assert all(p.orientation.w == 1.0 for p in message.poses)


def test_nobody_is_an_empty_message() -> None:
    assert pose_array(people([]), Header()).poses == []
    nobody = dataclasses.replace(people([]), body=None)
    assert pose_array(nobody, Header()).poses == []


@pytest.mark.parametrize("known", [[0], [17, 0]])
def test_a_person_without_a_place_is_not_an_empty_room(known: list[int]) -> None:
    assert pose_array(people(known), Header()) is None
    assert pose_array(dataclasses.replace(people(known), body=None), Header()) is None


def test_who_was_lost_just_now_may_still_be_there() -> None:
    assert pose_array(people([0], TrackState.LOST), Header()) is None


def opened() -> tuple[Any, list[HumanPoseArray], list[PoseResult]]:
    """Outputs without DDS, what they send on /human_pose, and what is told of single people."""
    outputs: Any = Outputs(SimpleNamespace(get_clock=Clock), NodeConfig(), 0.2)  # type: ignore[arg-type]
    sent: list[HumanPoseArray] = []
    told: list[PoseResult] = []
    outputs._messages, outputs._angles = pose_messages(COCO17, 0.2), None
    outputs._poses = SimpleNamespace(publish=lambda message: sent.append(deepcopy(message)))
    outputs._markers = SimpleNamespace(get_subscription_count=lambda: 0)
    outputs._bodies = SimpleNamespace(publish=lambda result, header: told.append(result))
    outputs._diagnostics = SimpleNamespace(health=0, frame=lambda times_ms: None)
    outputs._array = None
    return outputs, sent, told


def test_positions_of_stale_input_are_said_once_and_only_with_their_health() -> None:
    carried = people([17], TrackState.OCCLUDED)
    carried.body.poses.status[:] = KeypointStatus.PREDICTED
    carried.poses.xy_px[:], carried.poses.score[:] = np.nan, 0.0
    outputs, sent, told = opened()
    header = Header(frame_id="camera")
    outputs.publish(carried, header, 7, HumanPoseArray.STALE_INPUT)
    outputs.repeat(0.0)  # the worker is busy: nobody moves the positions on
    outputs.repeat(0.0)
    first, *later = sent
    assert {p.status for p in first.humans[0].keypoints} == {Keypoint.PREDICTED}
    for again in later:
        assert (again.header, again.sequence, again.health) == (header, 7, first.health)
        assert [h.id for h in again.humans] == [1]
        points = again.humans[0].keypoints
        assert all(p.status == Keypoint.MISSING and np.isnan(p.position.x) for p in points)
        assert ns_from_time(again.publish_stamp) > ns_from_time(first.publish_stamp)
    assert [result.body for result in told] == [None]  # their topics know no health


def test_an_answer_is_repeated_only_after_a_silence_and_nobody_is_lost_twice() -> None:
    result = people([17, 17])
    result.tracks.state[1] = TrackState.LOST
    outputs, sent, _ = opened()
    angles: list[HumanJointStateArray] = []
    outputs._angles = SimpleNamespace(publish=lambda message: angles.append(deepcopy(message)))
    outputs._convention = "rep155"
    outputs.publish(result, Header(frame_id="camera"), 3, HumanPoseArray.OK)
    outputs.repeat(60.0)
    assert len(sent) == len(angles) == 1
    outputs.repeat(0.0)
    assert [h.id for h in sent[0].humans] == [1, 2] and [h.id for h in sent[1].humans] == [1]
    assert {h.id for h in angles[1].humans} <= {1}
    assert (sent[1].sequence, sent[1].health) == (3, HumanPoseArray.OVERLOADED)
    assert angles[1].health == HumanPoseArray.OVERLOADED
