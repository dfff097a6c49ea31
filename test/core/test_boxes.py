"""Overlap and similarity, against numbers derived by hand and against pycocotools."""

import numpy as np
import pytest

from pose_ros.core.boxes import around_joints, iou, oks
from pose_ros.core.skeletons import COCO17

SIGMA = np.asarray(COCO17.oks_sigma, np.float32)


def test_iou_by_hand() -> None:
    a = np.array([[0, 0, 2, 2]], np.float32)
    b = np.array([[1, 1, 3, 3], [0, 0, 2, 2], [5, 5, 6, 6], [1, 1, 1, 1]], np.float32)
    # overlap 1 of 4 + 4 - 1; identical; apart; empty
    np.testing.assert_allclose(iou(a, b), [[1 / 7, 1, 0, 0]])


def test_nobody() -> None:
    none = np.zeros((0, 4), np.float32)
    assert iou(none, np.ones((3, 4), np.float32)).shape == (0, 3)
    assert iou(none, none).shape == (0, 0)
    nobody = np.zeros((0, 17, 2), np.float32)
    assert oks(nobody, np.zeros((2, 17, 2), np.float32), np.zeros(0), SIGMA).shape == (0, 2)


def test_oks_by_hand() -> None:
    a = np.zeros((1, 17, 2), np.float32)
    b = a.copy()
    b[0, :, 0] = 2 * SIGMA * 10  # one "2 sigma s" away, s^2 = 100: exp(-1/2) for every joint
    np.testing.assert_allclose(oks(a, b, np.array([100.0]), SIGMA), np.exp(-0.5), rtol=1e-6)


def test_oks_leaves_out_unknown_joints() -> None:
    a = np.zeros((1, 17, 2), np.float32)
    b = a.copy()
    b[0, 5:] = np.nan
    b[0, 0] = 1e6
    np.testing.assert_allclose(oks(a, b, np.array([100.0]), SIGMA), 4 / 5)
    b[:] = np.nan
    assert oks(a, b, np.array([100.0]), SIGMA) == 0


def test_oks_agrees_with_pycocotools() -> None:
    pycocotools_coco = pytest.importorskip("pycocotools.coco")
    from pycocotools.cocoeval import COCOeval

    random = np.random.default_rng(0)
    label, found = random.uniform(0, 200, (2, 1, 17, 2)).astype(np.float32)
    found = label + random.normal(0, 5, label.shape).astype(np.float32)
    triple = np.concatenate([label[0], np.full((17, 1), 2)], axis=1)
    truth = pycocotools_coco.COCO()
    person = {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "num_keypoints": 17}
    person |= {"area": 5000.0, "bbox": [0, 0, 100, 100], "keypoints": triple.ravel().tolist()}
    truth.dataset = {
        "info": {},
        "images": [{"id": 1}],
        "categories": [{"id": 1, "name": "person"}],
    }
    truth.dataset["annotations"] = [person]
    truth.createIndex()
    answer = np.concatenate([found[0], np.ones((17, 1))], axis=1).ravel().tolist()
    result = truth.loadRes([{"image_id": 1, "category_id": 1, "keypoints": answer, "score": 1.0}])
    judge = COCOeval(truth, result, "keypoints")
    judge.evaluate()
    wanted = judge.computeOks(1, 1)
    np.testing.assert_allclose(oks(label, found, np.array([5000.0]), SIGMA), wanted, rtol=1e-5)


def test_box_around_joints() -> None:
    xy = np.array([[[10, 20], [30, 60], [500, 500]], [[1, 1], [2, 2], [3, 3]]], np.float32)
    used = np.array([[True, True, False], [False, False, False]])
    box = around_joints(xy, used, (0.1, 0.2, 0.3, 0.4))
    # longer side 40: 4 px left, 8 px up, 12 px right, 16 px down
    np.testing.assert_allclose(box[0], [6, 12, 42, 76])
    assert np.isnan(box[1]).all()
