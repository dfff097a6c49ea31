"""Joint sets, against COCO's own."""

import numpy as np
import pytest

from pose_ros.core.skeletons import (
    COCO17,
    CROWDPOSE14,
    H36M17,
    LSP14,
    MPII16,
    POSETRACK15,
    POSETRACK17_SLOTS,
    POSEVAL15,
    SKELETONS,
    Skeleton,
    convert,
    get_skeleton,
    mapping,
)
from pose_ros.errors import ConfigError


def test_coco_order_and_sigmas_are_those_of_pycocotools() -> None:
    params = pytest.importorskip("pycocotools.cocoeval").Params(iouType="keypoints")
    np.testing.assert_allclose(COCO17.oks_sigma, params.kpt_oks_sigmas)


def test_flipping_twice_changes_nothing() -> None:
    order = COCO17.flip_order()
    np.testing.assert_array_equal(order[order], np.arange(17))
    assert [COCO17.joints[i] for i in order[:5]] == [
        "nose",
        "right_eye",
        "left_eye",
        "right_ear",
        "left_ear",
    ]


def test_bones_join_known_joints_and_reach_every_joint() -> None:
    edges = COCO17.edge_indices()
    assert edges.shape == (16, 2)
    assert set(edges.ravel().tolist()) == set(range(17))


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="known: coco17"):
        get_skeleton("coco18")
    with pytest.raises(ConfigError, match="has no joint 'tail'; it has nose"):
        COCO17.index("tail")


@pytest.mark.parametrize("skeleton", SKELETONS.values(), ids=lambda s: s.name)
def test_every_joint_set_hangs_together(skeleton: Skeleton) -> None:
    joints = len(skeleton)
    assert len(set(skeleton.joints)) == joints
    assert len(skeleton.oks_sigma) == joints
    assert min(skeleton.oks_sigma) > 0.0
    order = skeleton.flip_order()
    np.testing.assert_array_equal(order[order], np.arange(joints))
    names = {skeleton.joints[i].replace("left", "right") for i in range(joints)}
    mirrored = {skeleton.joints[order[i]].replace("left", "right") for i in range(joints)}
    assert names == mirrored
    assert (order != np.arange(joints)).sum() == sum(
        "_" in j and j != "head_top" for j in skeleton.joints
    )
    edges = {frozenset(edge) for edge in skeleton.edge_indices().tolist()}
    assert {frozenset(order[list(edge)].tolist()) for edge in edges} == edges
    assert {joint for edge in edges for joint in edge} == set(range(joints))


def test_the_orders_are_those_of_the_files() -> None:
    # PoseTrack21's kit, poseval's ids, MPII's and CrowdPose's files, Human3.6M's usual 17.
    assert POSETRACK15.joints[:5] == (
        "nose",
        "neck",
        "head_top",
        "left_shoulder",
        "right_shoulder",
    )
    assert POSETRACK17_SLOTS.joints[3:5] == ("left_ear", "right_ear")
    assert [POSEVAL15.index(j) for j in ("right_ankle", "left_hip", "neck", "head_top")] == [
        0,
        3,
        12,
        14,
    ]
    assert [MPII16.index(j) for j in ("pelvis", "thorax", "neck", "head_top")] == [6, 7, 8, 9]
    assert [CROWDPOSE14.index(j) for j in ("left_shoulder", "right_ankle", "neck")] == [0, 11, 13]
    assert [LSP14.index(j) for j in ("right_ankle", "left_wrist", "neck")] == [0, 11, 12]
    assert [H36M17.index(j) for j in ("pelvis", "right_hip", "left_hip", "thorax")] == [0, 1, 4, 8]
    assert len(POSETRACK15.edges) == 16


def test_mappings_go_by_name() -> None:
    to_slots = mapping(POSETRACK15, POSETRACK17_SLOTS)
    assert to_slots[:6].tolist() == [0, 1, 2, -1, -1, 3]
    back = mapping(POSEVAL15, POSETRACK15)[mapping(POSETRACK15, POSEVAL15)]
    np.testing.assert_array_equal(back, np.arange(15))
    assert mapping(COCO17, H36M17)[0] == -1


def test_converting_derives_the_middle_of_the_body() -> None:
    xy = np.zeros((2, 17, 2), np.float32)
    score = np.full((2, 17), 0.5, np.float32)
    xy[:, COCO17.index("left_shoulder")], xy[:, COCO17.index("right_shoulder")] = (4, 10), (2, 10)
    score[:, COCO17.index("left_shoulder")] = 0.9
    xy[1, COCO17.index("nose")] = np.nan
    got, rate = convert(xy, score, COCO17, POSETRACK15)
    np.testing.assert_allclose(got[:, 1], [[3, 10], [3, 10]])  # neck
    np.testing.assert_allclose(rate[:, 1], [0.7, 0.7])
    np.testing.assert_allclose(got[0, 2], [-3, -10])  # head_top = 2 nose - neck
    np.testing.assert_allclose(rate[0, 2], 0.6)
    assert np.isnan(got[1, 2]).all()
    assert (rate[1, 2], rate[1, 0]) == (0.0, 0.0)
    np.testing.assert_array_equal(got[:, 3], xy[:, 5])
    pelvis, _ = convert(xy + 1, score, COCO17, H36M17)
    np.testing.assert_allclose(pelvis[0, 0], [1, 1])
    assert np.isnan(pelvis[0, H36M17.index("spine")]).all()
    nobody, _ = convert(xy[:0], score[:0], COCO17, MPII16)
    assert nobody.shape == (0, 16, 2)
    deep, _ = convert(np.ones((17, 3), np.float32), np.ones(17, np.float32), COCO17, H36M17)
    np.testing.assert_allclose(deep[8], [1, 1, 1])
