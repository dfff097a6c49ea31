"""PoseTrack 2017, 2018 and 2021 and the badminton set, on files in their true layout."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_posetrack

from pose_ros.core.skeletons import POSETRACK15
from pose_ros.errors import ConfigError, SourceError
from pose_ros.training.datasets import parse_spec
from pose_ros.training.datasets.posetrack_files import (
    frame_number,
    predictions_to_json,
    read_labels,
    read_predictions,
    truth_frames,
)
from pose_ros.training.metrics.posetrack import PredictedFrame

VIDEO = toy_posetrack.VIDEOS[0]


@pytest.fixture
def root18(tmp_path: Path) -> Path:
    return toy_posetrack.write(tmp_path, 18)[0]


def change(path: Path, edit: Callable[[Any], None]) -> None:
    data = json.loads(path.read_text())
    edit(data)
    path.write_text(json.dumps(data))


def labels(root: Path) -> Path:
    return root / "annotations" / "val" / f"{VIDEO}.json"


@pytest.mark.parametrize("year", [17, 18, 21])
def test_the_three_years_give_the_same_people(tmp_path: Path, year: int) -> None:
    root, _found = toy_posetrack.write(tmp_path, year)
    dataset = parse_spec(f"posetrack{year}:{root}?frames=3&key=1")
    assert dataset.name == f"posetrack{year}"
    assert dataset.skeleton is POSETRACK15
    data = toy_posetrack.toys()[0].labels18
    person = next(a for a in data["annotations"] if np.any(a["keypoints"]))
    table = np.array(person["keypoints"]).reshape(17, 3)
    frame = person["image_id"] % 10000
    same = [
        s
        for s in (dataset[i] for i in range(len(dataset)))
        if s.track == f"{VIDEO}/{person['track_id']}" and s.frame_index[1] == frame
    ]
    assert len(same) == 1
    sample = same[0]
    for name in ("nose", "left_wrist", "right_ankle"):
        row = table[toy_posetrack.NAMES18.index(name)]
        ours = sample.xy_px[1, POSETRACK15.index(name)]
        if row.any():
            np.testing.assert_allclose(ours, row[:2], rtol=1e-6)
        else:
            assert np.isnan(ours).all()
    head = person["bbox_head"]
    assert sample.head_px == pytest.approx(0.6 * np.hypot(*head[2:]), rel=1e-6)
    assert sample.images[1].read().mean() == pytest.approx(20 * frame, abs=2)


def test_labels_follow_the_track_through_the_window(root18: Path) -> None:
    dataset = parse_spec(f"posetrack18:{root18}?frames=3&key=1")
    single = parse_spec(f"posetrack18:{root18}")
    alone = {
        (s.track, int(s.frame_index[0])): s.xy_px[0]
        for s in (single[i] for i in range(len(single)))
    }
    checked = 0
    for sample in (dataset[i] for i in range(len(dataset))):
        for time, frame in enumerate(sample.frame_index.tolist()):
            expected = alone.get((sample.track, frame))
            if expected is not None:
                np.testing.assert_array_equal(sample.xy_px[time], expected)
                checked += 1
            else:
                assert np.isnan(sample.xy_px[time]).all()
    assert checked > len(dataset)


def test_occluded_joints_are_labelled_and_zeros_are_not(root18: Path) -> None:
    dataset = parse_spec(f"posetrack18:{root18}")
    visible = np.concatenate([dataset[i].visible for i in range(len(dataset))])
    assert set(np.unique(visible)) == {0, 1, 2}
    xy = np.concatenate([dataset[i].xy_px for i in range(len(dataset))])
    np.testing.assert_array_equal(np.isfinite(xy).all(axis=2), visible > 0)


def test_boxes_of_2017_are_the_extent_of_the_joints(tmp_path: Path) -> None:
    root, _found = toy_posetrack.write(tmp_path, 17)
    clip = read_labels(labels(root), root)
    person = next(p for f in clip.frames for p in f.people if p.visible.sum() > 5)
    low, high = np.nanmin(person.xy_px, axis=0), np.nanmax(person.xy_px, axis=0)
    np.testing.assert_allclose(person.box_xyxy_px[:2], low - 0.15 * (high - low), rtol=1e-4)
    np.testing.assert_allclose(person.box_xyxy_px[2:], high + 0.15 * (high - low), rtol=1e-4)


def test_people_without_joints_are_known_to_the_evaluator_but_no_samples(root18: Path) -> None:
    dataset = parse_spec(f"posetrack18:{root18}")
    people = [p for clip in dataset.clips for f in clip.frames for p in f.people]
    assert len(people) > len(dataset)
    assert sum(len(f.xy_px) for c in dataset.clips for f in truth_frames(c)) == len(people)


def test_boxes_without_joints_in_a_frame_that_is_not_labelled_do_not_count(root18: Path) -> None:
    def edit(data: dict) -> None:
        first, second = (image["id"] for image in data["images"][:2])
        box = {"track_id": 40, "category_id": 1, "bbox": [1, 2, 30, 40], "bbox_head": [1, 2, 3, 4]}
        data["annotations"] = [
            a for a in data["annotations"] if a["image_id"] not in (first, second)
        ]
        data["annotations"] += [{**box, "id": 9000, "image_id": first}]
        data["annotations"] += [{**box, "id": 9001, "image_id": second, "keypoints": [0] * 51}]
        data["images"][0]["is_labeled"] = False

    change(labels(root18), edit)
    frames = read_labels(labels(root18), root18).frames
    assert not frames[0].labelled
    assert frames[1].labelled  # as poseval: somebody looked and labelled no joint
    assert len(frames[0].people) == 1


def test_detected_boxes_replace_the_labels_boxes(root18: Path, tmp_path: Path) -> None:
    image = toy_posetrack.image18(VIDEO, 0)["id"]
    found = [
        {"image_id": image, "bbox": [10, 20, 30, 40], "score": 0.9, "category_id": 1},
        {"image_id": image, "bbox": [10, 20, 30, 40], "score": 0.1, "category_id": 1},
        {"image_id": image, "bbox": [10, 20, 0, 40], "score": 0.9, "category_id": 1},
        {"image_id": image, "bbox": [10, 20, 30, 40], "score": 0.9, "category_id": 2},
    ]
    (tmp_path / "boxes.json").write_text(json.dumps(found))
    labelled = parse_spec(f"posetrack18:{root18}").clips[0].frames[0].labelled
    dataset = parse_spec(f"posetrack18:{root18}?boxes={tmp_path / 'boxes.json'}")
    assert labelled
    assert len(dataset) == 1
    sample = dataset[0]
    np.testing.assert_allclose(sample.box_xyxy_px, [9.5, 19.5, 39.5, 59.5])
    assert sample.box_score == pytest.approx(0.9)
    assert np.isnan(sample.xy_px).all()


def test_pictures_of_2017_have_no_ids_so_boxes_come_by_file_name(tmp_path: Path) -> None:
    root, _found = toy_posetrack.write(tmp_path, 17)
    names = [toy_posetrack.image18(video, 2)["file_name"] for video in toy_posetrack.VIDEOS]
    found = [{"file_name": n, "bbox": [10, 20, 30, 40], "score": 0.9} for n in names]
    (tmp_path / "boxes.json").write_text(json.dumps(found))
    dataset = parse_spec(f"posetrack17:{root}?boxes={tmp_path / 'boxes.json'}")
    labelled = [clip.frames[2].labelled for clip in dataset.clips]
    assert len(dataset) == sum(labelled) > 0
    ids = [f.image_id for clip in dataset.clips for f in clip.frames]
    assert len(set(ids)) == len(ids)


def test_boxes_by_name_as_dcpose_published_them(root18: Path, tmp_path: Path) -> None:
    """Its files have image_name, nframes and frame_id, and no image_id."""
    names = [toy_posetrack.image18(VIDEO, n)["file_name"] for n in (0, 1)]
    assert names[0].startswith("images/val/")
    found = [
        {"image_name": n, "bbox": [10, 20, 30, 40], "score": 0.9, "category_id": 1, "nframes": 8,
         "frame_id": 1}
        for n in (names[0], names[1].removeprefix("images/"), "images/val/other/000000.jpg")
    ]  # fmt: skip
    (tmp_path / "boxes.json").write_text(json.dumps(found))
    frames = parse_spec(f"posetrack18:{root18}").clips[0].frames  # type: ignore[attr-defined]
    dataset = parse_spec(f"posetrack18:{root18}?boxes={tmp_path / 'boxes.json'}")
    assert len(dataset) == sum(frame.labelled for frame in frames[:2]) > 0
    assert {sample.video for sample in map(dataset.__getitem__, range(len(dataset)))} == {VIDEO}


def test_a_frame_that_the_file_leaves_out_is_replaced_by_the_key_frame(root18: Path) -> None:
    def edit(data: dict) -> None:
        gone = data["images"].pop(4)["id"]
        data["annotations"] = [a for a in data["annotations"] if a["image_id"] != gone]

    change(labels(root18), edit)
    dataset = parse_spec(f"posetrack18:{root18}?frames=5&key=2")
    rows = [dataset[i] for i in range(len(dataset)) if dataset[i].video == VIDEO]
    after = next(s for s in rows if s.frame_index[2] == 6)
    assert after.frame_index.tolist() == [6, 5, 6, 7, 6]
    assert (after.dt_left, after.dt_right) == (1, 1)


def test_predictions_survive_their_own_file(root18: Path, tmp_path: Path) -> None:
    clip = read_labels(labels(root18), root18)
    rng = np.random.default_rng(0)
    frames = []
    for _frame in clip.frames:
        xy = np.round(rng.uniform(1, 600, (2, 15, 2)), 2)
        xy[0, 3] = np.nan
        score = np.where(np.isfinite(xy).all(axis=2), rng.random((2, 15)), 0.0)
        frames.append(PredictedFrame(xy, score, np.array([4, 7])))
    path = tmp_path / f"{VIDEO}.json"
    path.write_text(json.dumps(predictions_to_json(clip, frames)))
    for ours, back in zip(frames, read_predictions(path, clip), strict=True):
        np.testing.assert_allclose(back.xy_px, ours.xy_px)
        known = np.isfinite(ours.xy_px).all(axis=2)
        np.testing.assert_allclose(back.score[known], ours.score[known])
        assert back.track.tolist() == [4, 7]


def test_a_prediction_without_score_counts_last(root18: Path, tmp_path: Path) -> None:
    _root, found = toy_posetrack.write(tmp_path / "again", 18, pictures=False)
    path = found / f"{VIDEO}.json"
    change(path, lambda d: [a.pop("scores") for a in d["annotations"]])
    frames = read_predictions(path, read_labels(labels(root18), root18))
    scores = np.concatenate([f.score.ravel() for f in frames])
    assert set(scores.tolist()) == {-9999.0}


def test_the_badminton_set_has_posetracks_form(tmp_path: Path) -> None:
    root, _found = toy_posetrack.write(tmp_path, 18)
    (root / "annotations" / "val").rename(root / "annotations" / "test")
    dataset = parse_spec(f"badminton:{root}?frames=5&key=2")
    assert dataset.name == "badminton"
    assert len(dataset[0].images) == 5


def test_a_match_of_badminton_can_be_left_out_and_judged_alone(tmp_path: Path) -> None:
    root, _found = toy_posetrack.write(tmp_path, 18)
    (root / "annotations" / "val").rename(root / "annotations" / "test")
    names = {clip.name for clip in parse_spec(f"badminton:{root}").clips}  # type: ignore[attr-defined]
    assert len(names) == 3
    one = sorted(names)[1]
    kept = parse_spec(f"badminton:{root}?without={one}").clips  # type: ignore[attr-defined]
    judged = parse_spec(f"badminton:{root}?only={one}").clips  # type: ignore[attr-defined]
    assert {clip.name for clip in judged} == {one}
    assert {clip.name for clip in kept} == names - {one}  # nothing is learned from and judged
    with pytest.raises(ConfigError, match=f"no video '{one}x'; did you mean {one}"):
        parse_spec(f"badminton:{root}?without={one}x")
    with pytest.raises(ConfigError, match="no video of 3 is left"):
        parse_spec(f"badminton:{root}?only={one}&without={one}")


# Bad input


def test_half_downloaded_pictures(root18: Path) -> None:
    (root18 / "images" / "val" / VIDEO / "000007.jpg").unlink()
    with pytest.raises(SourceError, match=r"000007\.jpg.*1 of the first and last .* of 3 clips"):
        parse_spec(f"posetrack18:{root18}")


def test_half_downloaded_labels(root18: Path) -> None:
    text = labels(root18).read_text()
    labels(root18).write_text(text[: len(text) // 2])
    with pytest.raises(SourceError, match="half downloaded"):
        parse_spec(f"posetrack18:{root18}")
    labels(root18).write_text('{"videos": []}')
    with pytest.raises(SourceError, match="expected a PoseTrack label file"):
        parse_spec(f"posetrack18:{root18}")


def test_no_label_file_of_the_split(root18: Path) -> None:
    with pytest.raises(SourceError, match="folder of label files is missing"):
        parse_spec(f"posetrack18:{root18}?split=train")
    (root18 / "annotations" / "train").mkdir()
    with pytest.raises(SourceError, match="expected a label file per video"):
        parse_spec(f"posetrack18:{root18}?split=train")


def test_more_frames_than_the_file_states(root18: Path) -> None:
    change(labels(root18), lambda d: [i.update(nframes=5) for i in d["images"]])
    with pytest.raises(ConfigError, match="states 5 frames but lists 8"):
        parse_spec(f"posetrack18:{root18}")


def test_ids_twice_in_a_frame(root18: Path) -> None:
    change(labels(root18), lambda d: [a.update(track_id=3) for a in d["annotations"]])
    with pytest.raises(ConfigError, match="has a track id twice"):
        parse_spec(f"posetrack18:{root18}")


def test_a_frame_that_is_listed_twice(root18: Path) -> None:
    change(labels(root18), lambda d: d["images"].append(dict(d["images"][0])))
    with pytest.raises(ConfigError, match=r"listed twice|lists 9"):
        parse_spec(f"posetrack18:{root18}")


def test_labels_of_another_video(root18: Path) -> None:
    change(labels(root18), lambda d: d["annotations"][0].update(image_id=5))
    with pytest.raises(ConfigError, match="people on pictures that the file does not list"):
        parse_spec(f"posetrack18:{root18}")
    other = "images/val/000522_mpii_test/000003.jpg"
    change(labels(root18), lambda d: d["annotations"][0].update(image_id=d["images"][0]["id"]))
    change(labels(root18), lambda d: d["images"][3].update(file_name=other))
    with pytest.raises(ConfigError, match="expected the frames of one video"):
        parse_spec(f"posetrack18:{root18}")


def test_another_joint_set(root18: Path) -> None:
    change(labels(root18), lambda d: d["annotations"][0].update(keypoints=[1.0] * 48))
    with pytest.raises(ConfigError, match=r"expected 17 joints .* another joint set"):
        parse_spec(f"posetrack18:{root18}")
    names = ["nose", "left_eye", *toy_posetrack.NAMES18[3:]]
    change(labels(root18), lambda d: d["categories"][0].update(keypoints=names))
    with pytest.raises(ConfigError, match="neck, head_top are missing"):
        parse_spec(f"posetrack18:{root18}")


def test_boxes_outside_the_image_are_cut_or_dropped(root18: Path) -> None:
    whole = len(parse_spec(f"posetrack18:{root18}"))

    def edit(data: dict) -> None:
        people = [a for a in data["annotations"] if np.any(a["keypoints"])]
        people[0]["bbox"] = [5000, 10, 50, 50]
        people[1]["bbox"] = [-100, -100, 300, 5000]

    change(labels(root18), edit)
    dataset = parse_spec(f"posetrack18:{root18}")
    assert len(dataset) == whole - 1
    boxes = np.stack([dataset[i].box_xyxy_px for i in range(len(dataset))])
    assert (boxes[:, :2] >= -0.5).all()
    assert (boxes[:, 2:] <= np.array([639.5, 479.5])).all()
    change(labels(root18), lambda d: d["annotations"][0].update(bbox=[1, 2, -3, 4]))
    with pytest.raises(ConfigError, match="expected a box x, y, w, h"):
        parse_spec(f"posetrack18:{root18}")


def test_predictions_of_another_length_or_video(root18: Path, tmp_path: Path) -> None:
    _root, found = toy_posetrack.write(tmp_path / "again", 18, pictures=False)
    clip = read_labels(labels(root18), root18)
    path = found / f"{VIDEO}.json"
    change(path, lambda d: d["images"][2].update(file_name="images/val/x/000099.jpg"))
    with pytest.raises(ConfigError, match="another video"):
        read_predictions(path, clip)
    change(path, lambda d: d["images"].pop())
    with pytest.raises(ConfigError, match=r"predictions for 8 frames .* got 7"):
        read_predictions(path, clip)
    with pytest.raises(SourceError):
        read_predictions(found / "none.json", clip)


def test_an_unlabelled_split_says_so(root18: Path) -> None:
    for path in (root18 / "annotations" / "val").glob("*.json"):
        change(path, lambda d: d["annotations"].clear())
    with pytest.raises(ConfigError, match="no labelled person with a box among 3 clips"):
        parse_spec(f"posetrack18:{root18}")


@pytest.mark.parametrize(
    "name", ["000012.jpg", "a/00000012.jpg", "000012_crop.jpg", "frame_000012.png", "cam2_12.png"]
)
def test_a_frames_number_is_in_its_name(name: str) -> None:
    assert frame_number(name) == 12


def test_a_frame_without_a_number_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'first\.jpg': expected a frame number"):
        frame_number("first.jpg")
