"""Joint sets, against COCO's own."""

import numpy as np
import pytest

from pose_ros.core.skeletons import COCO17, get_skeleton
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
