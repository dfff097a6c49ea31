"""OKS and COCO's AP: worked examples, and pycocotools' own numbers."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest

from pose_ros.core.skeletons import COCO17
from pose_ros.errors import ShapeError
from pose_ros.training.metrics.coco import (
    LabelledPeople,
    PredictedPeople,
    bootstrap,
    crowd_levels,
    crowdpose_ap,
    instance_score,
    keypoint_ap,
    oks,
    oks_nms,
)

SIGMA = COCO17.oks_sigma
NAMES = ("ap", "ap50", "ap75", "ap_m", "ap_l", "ar", "ar50", "ar75", "ar_m", "ar_l")


def labels(*xy: np.ndarray, area: float = 100.0**2) -> LabelledPeople:
    joints = np.array(xy, float).reshape(-1, 17, 2)
    box = np.tile([0.0, 0.0, 100.0, 100.0], (len(joints), 1))
    return LabelledPeople(joints, box, np.full(len(joints), area), np.zeros(len(joints), bool))


def people(*xy: np.ndarray, score: tuple[float, ...] = ()) -> PredictedPeople:
    joints = np.array(xy, float).reshape(-1, 17, 2)
    return PredictedPeople(joints, np.array(score or [1.0] * len(joints)))


def body(shift: float = 0.0) -> np.ndarray:
    return np.stack([np.full(17, shift), 6.0 * np.arange(17)], axis=1)


def random_pictures(seed: int) -> tuple[list, list, list]:
    """Files for pycocotools, and the same as values: images, annotations, results, ours."""
    rng = np.random.default_rng(seed)
    annotations, results, ours = [], [], []
    for image in range(1, 13):
        here, guesses = [], []
        for _person in range(rng.integers(0, 5)):
            size, centre = rng.choice([20, 60, 200]), rng.uniform(50, 400, 2)
            xy = np.round(centre + rng.normal(0, size / 3, (17, 2)), 1)
            flag = (rng.random(17) < 0.7) * 2
            flag[:] = 0 if rng.random() < 0.15 else flag
            low, extent = xy.min(axis=0), np.ptp(xy, axis=0)
            area, crowd = float(np.round(0.6 * extent.prod(), 2)), int(rng.random() < 0.1)
            table = np.column_stack([np.where(flag[:, None] > 0, xy, 0), flag])
            annotations.append(
                {
                    "id": len(annotations) + 1, "image_id": image, "category_id": 1, "area": area,
                    "keypoints": table.ravel().tolist(), "num_keypoints": int((flag > 0).sum()),
                    "bbox": [*low.tolist(), *extent.tolist()], "iscrowd": crowd,
                }
            )  # fmt: skip
            known = np.where(flag[:, None] > 0, xy, np.nan)
            here.append((known, [*low, *extent], area, bool(crowd)))
            for _guess in range(rng.integers(0, 3)):
                spread = rng.choice([0.03, 0.1, 0.3]) * size
                guess = np.round(xy + rng.normal(0, spread, (17, 2)), 2)
                score = float(np.round(rng.random(), 2))
                flat = np.column_stack([guess, np.ones(17)]).ravel().tolist()
                entry = {"image_id": image, "category_id": 1, "keypoints": flat, "score": score}
                results.append(entry)
                guesses.append((guess, score))
        truth = LabelledPeople(
            np.array([h[0] for h in here]).reshape(-1, 17, 2),
            np.array([h[1] for h in here], float).reshape(-1, 4),
            np.array([h[2] for h in here], float),
            np.array([h[3] for h in here], bool),
        )
        found = PredictedPeople(
            np.array([g[0] for g in guesses]).reshape(-1, 17, 2),
            np.array([g[1] for g in guesses], float),
        )
        ours.append((truth, found))
    return annotations, results, ours


@pytest.mark.parametrize("seed", range(4))
def test_numbers_are_those_of_pycocotools(seed: int) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    judge = pytest.importorskip("pycocotools.cocoeval")
    annotations, results, ours = random_pictures(seed)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco.COCO()
        truth.dataset = {
            "info": {},
            "images": [{"id": i} for i in range(1, 13)],
            "annotations": annotations,
            "categories": [{"id": 1, "name": "person"}],
        }
        truth.createIndex()
        theirs = judge.COCOeval(truth, truth.loadRes(results), "keypoints")
        theirs.evaluate()
        theirs.accumulate()
        theirs.summarize()
    answer = keypoint_ap([t for t, _ in ours], [p for _, p in ours], SIGMA)
    np.testing.assert_allclose([answer[name] for name in NAMES], theirs.stats, atol=1e-12)
    assert 0.0 < answer["ap"] < 1.0


def test_oks_worked_by_hand() -> None:
    # One joint, 10 px off, area 10000, sigma 0.05: e = 100 / (2 * 10000 * 0.01) = 0.5.
    label = LabelledPeople(
        np.zeros((1, 1, 2)), np.zeros((1, 4)), np.array([1e4]), np.zeros(1, bool)
    )
    assert oks(label, np.array([[[6.0, 8.0]]]), (0.05,))[0, 0] == pytest.approx(np.exp(-0.5))


def test_unlabelled_joints_do_not_enter_oks() -> None:
    some = body()
    some[3:] = np.nan
    far = body()
    far[3:] += 1000.0
    assert oks(labels(some), far[None], SIGMA)[0, 0] == pytest.approx(1.0)


def test_a_label_without_joints_forgives_what_lies_in_three_times_its_box() -> None:
    blank = labels(np.full((17, 2), np.nan))  # box 0, 0, 100, 100: forgiving from -100 to 200
    inside, outside = np.full((17, 2), 199.0), np.full((17, 2), 200.0 + 10.0)
    similarity = oks(blank, np.stack([inside, outside]), SIGMA)[:, 0]
    assert similarity[0] == 1.0
    # 10 px too far in both directions, at every joint.
    spread = 2 * 1e4 * (2 * np.array(SIGMA)) ** 2
    assert similarity[1] == pytest.approx(np.exp(-200.0 / spread).mean())


def test_two_poses_for_one_person_halve_the_precision_only_when_the_wrong_one_leads() -> None:
    good, bad = body(), body(90.0)
    leading = keypoint_ap([labels(good)], [people(good, bad, score=(0.9, 0.1))], SIGMA)
    trailing = keypoint_ap([labels(good)], [people(good, bad, score=(0.1, 0.9))], SIGMA)
    assert leading["ap"] == pytest.approx(1.0)
    assert trailing["ap"] == pytest.approx(0.5)
    assert trailing["ar"] == 1.0


def test_nothing_to_find_is_unknown_and_nothing_found_is_0() -> None:
    assert np.isnan(keypoint_ap([labels()], [people(body())], SIGMA)["ap"])
    assert keypoint_ap([labels(body())], [people()], SIGMA)["ap"] == 0.0
    assert np.isnan(keypoint_ap([], [], SIGMA)["ap"])


def test_crowds_are_neither_found_nor_missed() -> None:
    crowd = labels(body(), body(500.0))
    crowd = LabelledPeople(crowd.xy_px, crowd.box_xywh_px, crowd.area_px2, np.array([False, True]))
    answer = keypoint_ap([crowd], [people(body(), body(500.0), body(501.0))], SIGMA)
    assert (answer["ap"], answer["ar"]) == (pytest.approx(1.0), 1.0)


def test_suppression_keeps_the_better_of_two_alike() -> None:
    xy = np.stack([body(), body(0.5), body(300.0)])
    area = np.full(3, 1e4)
    kept = oks_nms(xy, np.array([0.3, 0.8, 0.5]), area, SIGMA)
    assert kept.tolist() == [1, 2]
    assert oks_nms(xy[:0], np.zeros(0), area[:0], SIGMA).tolist() == []


def test_instance_scores_leave_weak_joints_out() -> None:
    joints = np.array([[0.8, 0.6, 0.1], [0.1, 0.1, 0.2]])
    np.testing.assert_allclose(instance_score(np.array([0.5, 1.0]), joints), [0.35, 0.0])


def test_crowd_levels_split_as_crowdpose_does() -> None:
    levels = crowd_levels(np.array([0.0, 0.1, 0.11, 0.8, 0.81]))
    assert levels["easy"].tolist() == [True, True, False, False, False]
    assert levels["medium"].tolist() == [False, False, True, True, False]
    assert levels["hard"].tolist() == [False, False, False, False, True]
    answer = crowdpose_ap(
        [labels(body()), labels(body())], [people(body()), people()], SIGMA, np.array([0.0, 0.9])
    )
    assert (answer["ap_easy"], answer["ap_hard"]) == (pytest.approx(1.0), 0.0)
    assert np.isnan(answer["ap_medium"])


def test_the_interval_holds_the_value_and_the_seed_fixes_it() -> None:
    values = np.array([0.0, 1.0] * 20)

    def mean(rows: np.ndarray) -> float:
        return float(values[rows].mean())

    low, high = bootstrap(mean, 40)
    assert 0.3 < low < 0.5 < high < 0.7
    assert bootstrap(mean, 40) == (low, high)


def test_bad_input_is_refused() -> None:
    with pytest.raises(ShapeError, match="2 pictures, got 1"):
        keypoint_ap([labels(), labels()], [people()], SIGMA)
    with pytest.raises(ShapeError, match="expected 14 joints"):
        oks(labels(body()), body()[None], SIGMA[:14])
    with pytest.raises(ShapeError, match=r"LabelledPeople\.area_px2"):
        LabelledPeople(body()[None], np.zeros((1, 4)), np.zeros(2), np.zeros(1, bool))
