"""PoseTrack's AP and MOTA: worked examples, and poseval's own numbers on made-up videos."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import toy_posetrack

from pose_ros.core.skeletons import POSETRACK15
from pose_ros.errors import ConfigError, ShapeError
from pose_ros.training.datasets.posetrack_files import (
    read_labels,
    read_predictions,
    truth_frames,
)
from pose_ros.training.metrics.mot import MotCounter, assign_allowed
from pose_ros.training.metrics.posetrack import (
    PredictedFrame,
    TruthFrame,
    Video,
    assign,
    average_precision,
    inside_polygon,
    precision_recall_area,
    summary,
    tracking,
)

# poseval (commit 4258a15) with motmetrics 1.4.0 and numpy 2.4, on the files that
# `toy_posetrack.write(folder, 18)` writes, and the same on `write(folder, 17)`:
#   gt, pr = eval_helpers.load_data_dir(["", "annotations/val/", "found/"])
#   evaluateAP(gt, pr, "", False, False); evaluateTracking(gt, pr, "", False, False)
POSEVAL_AP = {
    "right_ankle": 29.61296779153922, "right_knee": 13.520678685047722,
    "right_hip": 14.060258249641318, "left_hip": 23.311790050920482,
    "left_knee": 19.836980179481476, "left_ankle": 7.977191940040237,
    "right_wrist": 11.31117021276596, "right_elbow": 21.259087735677156,
    "right_shoulder": 11.842105263157894, "left_shoulder": 17.556450771798083,
    "left_elbow": 17.972246955107067, "left_wrist": 15.17073934837093,
    "neck": 21.38888888888889, "nose": 14.247740563530037, "head_top": 18.280242872441455,
    "total": 17.156569300560527, "precision": 32.717445138986044, "recall": 40.493683933145384,
}  # fmt: skip
POSEVAL_MOT = {
    "mota_right_ankle": -30.555555555555557, "mota_right_knee": -50.0,
    "mota_right_hip": -58.06451612903225, "mota_left_hip": -32.49999999999999,
    "mota_left_knee": -36.111111111111114, "mota_left_ankle": -67.64705882352942,
    "mota_right_wrist": -76.92307692307692, "mota_right_elbow": -68.75,
    "mota_right_shoulder": -62.5, "mota_left_shoulder": -51.35135135135136,
    "mota_left_elbow": -50.0, "mota_left_wrist": -64.70588235294117,
    "mota_neck": -27.777777777777768, "mota_nose": -40.625,
    "mota_head_top": -54.28571428571429, "mota_total": -51.453136287339326,
    "mota": -51.453136287339326, "motp": 51.63804584811097, "pre": 32.69768783867061,
    "rec": 39.39811921832795,
}  # fmt: skip


def body(x: float = 0.0) -> np.ndarray:
    """(15, 2) a body whose joints are 10 px apart."""
    return np.stack([np.full(15, x), 10.0 * np.arange(15)], axis=1)


def truth(*people: np.ndarray, head: float = 10.0, **more: object) -> TruthFrame:
    xy = np.array(people, float).reshape(-1, 15, 2)
    return TruthFrame(xy, np.full(len(xy), head), np.arange(len(xy)), **more)


def found(*people: np.ndarray, score: float = 1.0) -> PredictedFrame:
    xy = np.array(people, float).reshape(-1, 15, 2)
    return PredictedFrame(xy, np.full(xy.shape[:2], score), np.arange(len(xy)))


def one(*frames: tuple[TruthFrame, PredictedFrame]) -> list[Video]:
    return [Video("toy", [t for t, _ in frames], [p for _, p in frames])]


@pytest.mark.parametrize("form", [17, 18])
def test_numbers_are_those_of_poseval(tmp_path: Path, form: int) -> None:
    root, predictions = toy_posetrack.write(tmp_path, form, pictures=False)
    videos = []
    for path in sorted((root / "annotations" / "val").glob("*.json")):
        clip = read_labels(path, root)
        frames = read_predictions(predictions / path.name, clip)
        videos.append(Video(clip.name, truth_frames(clip), frames))
    ap, mot = average_precision(videos), tracking(videos)
    assert {k: ap[k] for k in POSEVAL_AP} == pytest.approx(POSEVAL_AP, abs=1e-9)
    assert {k: mot[k] for k in POSEVAL_MOT} == pytest.approx(POSEVAL_MOT, abs=1e-9)


def test_a_perfect_prediction_scores_100_and_an_empty_one_0() -> None:
    assert average_precision(one((truth(body()), found(body()))))["total"] == 100.0
    answer = average_precision(one((truth(body()), PredictedFrame.empty())))
    assert (answer["total"], answer["m7"], answer["recall"]) == (0.0, 0.0, 0.0)


def test_the_reach_is_half_a_head_and_the_border_counts() -> None:
    shifted = body(5.0)  # 5 px away of a head of 10 px: exactly 0.5
    assert average_precision(one((truth(body()), found(shifted))))["total"] == 100.0
    assert average_precision(one((truth(body()), found(body(5.001)))))["total"] == 0.0


def test_head_counts_three_times_in_the_total_and_once_in_m7() -> None:
    values = np.array([60.0] * 3 + [0.0] * 12)  # nose, neck and head_top lead POSETRACK15
    answer = summary(values)
    assert answer["Head"] == pytest.approx(60.0)
    assert answer["total"] == pytest.approx(3 * 60 / 15)
    assert answer["m7"] == pytest.approx(60 / 7)


def test_a_joint_that_nobody_labelled_is_a_false_positive_but_only_of_its_own_type() -> None:
    label = body()
    label[POSETRACK15.index("nose")] = np.nan
    answer = average_precision(one((truth(label), found(body()))))
    assert np.isnan(answer["nose"])  # predictions, but nothing to find: left out of the mean
    assert answer["neck"] == 100.0
    assert answer["total"] == 100.0
    two = one((truth(label), found(body())), (truth(body()), found(body(), score=0.5)))
    # Sorted by score: first the false one, then the right one: precision 1/2 at recall 1.
    assert average_precision(two)["nose"] == pytest.approx(50.0)


def test_a_joint_without_any_prediction_has_ap_0_and_counts() -> None:
    guess = body()
    guess[POSETRACK15.index("nose")] = np.nan
    answer = average_precision(one((truth(body()), found(guess))))
    assert answer["nose"] == 0.0
    assert answer["total"] == pytest.approx(100 * 14 / 15)


def test_average_precision_of_a_curve_worked_by_hand() -> None:
    # right, wrong, right of 3 positives: precision 1, 1/2, 2/3; recall 1/3, 1/3, 2/3.
    # Envelope 1 up to recall 1/3, 2/3 up to 2/3, 0 beyond: 1/3 + 2/9 = 5/9.
    score, right = np.array([0.9, 0.8, 0.7]), np.array([True, False, True])
    area, precision, recall = precision_recall_area(score, right, 3)
    assert (area, precision, recall) == pytest.approx((5 / 9, 2 / 3, 2 / 3))


def test_every_prediction_has_one_label_and_every_label_one_prediction() -> None:
    right = assign(truth(body(0.0), body(100.0)), found(body(1.0), body(0.0), body(100.0))).right
    # Both of the first two are perfect for label 0: the first one gets it.
    assert right.all(axis=1).tolist() == [True, False, True]


def test_nobody_on_either_side() -> None:
    nobody = truth()
    assert assign(nobody, found(body())).right.tolist() == [[False] * 15]
    assert assign(truth(body()), PredictedFrame.empty()).right.shape == (0, 15)


def test_an_unlabelled_frame_does_not_count() -> None:
    frames = [(truth(body()), found(body())), (truth(labelled=False), found(body(300.0)))]
    assert average_precision(one(*frames))["total"] == 100.0


def test_ignore_regions_take_points_of_both_sides_and_people_without_points() -> None:
    square = np.array([[-5.0, -5.0], [200.0, -5.0], [200.0, 200.0], [-5.0, 200.0]])
    frames = (truth(body(), body(300.0), ignore=(square,)), found(body(50.0), body(300.0)))
    answer = average_precision(one(frames))
    assert answer["total"] == 100.0
    assert answer["recall"] == 100.0


def test_a_point_on_the_border_of_a_region_is_outside() -> None:
    triangle = np.array([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]])
    points = np.array([[1, 1], [0, 0], [2, 0], [2, 2], [3, 3], [-1, 1], [np.nan, 1]])
    assert inside_polygon(points, triangle).tolist() == [True] + [False] * 6
    assert not inside_polygon(points, triangle[:2]).any()


def test_a_person_without_a_head_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    label = truth(body(), body(300.0))
    headless = TruthFrame(label.xy_px, np.array([10.0, np.nan]), label.track)
    assert average_precision(one((headless, found(body()))))["total"] == 100.0
    assert "1 labels have no head rectangle" in caplog.text


def test_mota_of_a_swap_worked_by_hand() -> None:
    # Three frames, of which poseval counts two; two people; ids swap in the second frame.
    # Per joint: 4 objects, no miss, no FP, 2 switches: MOTA 1 - 2/4.
    both = truth(body(0.0), body(100.0))
    first, swapped = found(body(0.0), body(100.0)), found(body(100.0), body(0.0))
    answer = tracking(one((both, first), (both, swapped), (both, PredictedFrame.empty())))
    assert answer["mota"] == pytest.approx(50.0)
    assert (answer["pre"], answer["rec"]) == (100.0, 100.0)
    plain = tracking(one((both, first), (both, swapped)), poseval_compat=False)
    assert plain["mota"] == pytest.approx(50.0)


def test_a_frame_with_one_empty_side_counts_as_poseval_counts_it() -> None:
    # 2 people, nobody predicted: poseval books 1 miss and 1 FP per joint, CLEAR-MOT 2 misses.
    frames = [(truth(body(), body(100.0)), PredictedFrame.empty())] * 2
    assert tracking(one(*frames))["mota"] == pytest.approx(100 * (1 - 2 / 1))
    assert tracking(one(*frames), poseval_compat=False)["mota"] == pytest.approx(0.0)


def test_a_pair_that_is_still_allowed_is_kept_though_another_is_nearer() -> None:
    counter = MotCounter()
    ids = np.array([7, 8])
    counter.update(ids, ids, np.array([[0.1, np.nan], [np.nan, 0.1]]))
    counter.update(ids, ids, np.array([[0.4, 0.1], [0.1, 0.4]]))
    assert (counter.totals.switches, counter.totals.detections) == (0, 4)
    assert counter.totals.distance == pytest.approx(1.0)


def test_assignment_prefers_more_pairs_over_a_shorter_distance() -> None:
    costs = np.array([[0.1, 0.4], [0.4, np.nan]])
    assert sorted(assign_allowed(costs)) == [(0, 1), (1, 0)]
    assert assign_allowed(np.full((2, 3), np.nan)) == []


def test_bad_input_is_refused() -> None:
    with pytest.raises(ShapeError, match="expected predictions for 2 frames, got 1"):
        Video("v", [truth(), truth()], [PredictedFrame.empty()])
    twice = np.zeros((2, 15, 2))
    with pytest.raises(ConfigError, match="every track id once"):
        PredictedFrame(twice, np.zeros((2, 15)), np.array([3, 3]))
    with pytest.raises(ConfigError, match="below 10000"):
        PredictedFrame(twice[:1], np.zeros((1, 15)), np.array([10000]))
    with pytest.raises(ShapeError, match="TruthFrame"):
        TruthFrame(np.zeros((1, 17, 2)), np.ones(1), np.zeros(1, np.int64))
    untracked = PredictedFrame(twice, np.zeros((2, 15)), None)
    with pytest.raises(ConfigError, match="needs a track id"):
        tracking(one((truth(body()), untracked), (truth(body()), untracked)))
