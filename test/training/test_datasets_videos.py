"""Plain videos, bags, Human3.6M and SportsPose, on tiny files in their true layout."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from scipy.io import savemat

from pose_ros.core.skeletons import COCO17, H36M17, POSETRACK15
from pose_ros.core.video import VideoWriter
from pose_ros.errors import ConfigError, SourceError
from pose_ros.training.datasets import FileImage, parse_spec
from pose_ros.training.datasets.human36m import JOINTS

SIZE = (96, 64)
FRAMES = 6


def write_video(path: Path) -> None:
    """Frame n is grey of level 30 n."""
    with VideoWriter(path, 10.0) as writer:
        for number in range(FRAMES):
            writer.write(np.full((SIZE[1], SIZE[0], 3), 30 * number, np.uint8))


def labels(frames: tuple[int, ...] = (1, 3), **picture: Any) -> dict[str, Any]:
    """COCO labels of one walker; it moves 2 px to the right per frame."""
    images = [
        {"id": 100 + n, "file_name": f"frame_{n:04d}.png", "frame_number": n, **picture}
        for n in frames
    ]
    people = []
    for number in frames:
        xy = np.stack([20.0 + 2 * number + np.arange(17), 10.0 + 2 * np.arange(17)], axis=1)
        table = np.column_stack([xy, np.full(17, 2)])
        people.append(
            {
                "id": number + 1, "image_id": 100 + number, "category_id": 1, "track_id": 7,
                "bbox": [15 + 2 * number, 5, 30, 50], "keypoints": table.ravel().tolist(),
            }
        )  # fmt: skip
    return {"images": images, "annotations": people, "categories": [{"id": 1, "name": "person"}]}


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    write_video(tmp_path / "walk.mp4")
    (tmp_path / "walk.json").write_text(json.dumps(labels()))
    return tmp_path


# Video and COCO labels


def test_a_labs_own_video(lab: Path) -> None:
    dataset = parse_spec(f"video_coco:{lab}?frames=3&key=1")
    assert (dataset.name, len(dataset)) == ("video_coco", 2)
    sample = dataset[1]
    assert sample.skeleton is COCO17
    assert sample.frame_index.tolist() == [2, 3, 4]  # consecutive frames, labelled or not
    levels = [image.read().mean() for image in sample.images]
    np.testing.assert_allclose(levels, [60, 90, 120], atol=4)
    np.testing.assert_allclose(sample.xy_px[1, 0], [26, 10])
    assert np.isnan(sample.xy_px[[0, 2]]).all()
    assert sample.track == "walk/7"
    wide = parse_spec(f"video_coco:{lab}?frames=5&key=2")[1]
    np.testing.assert_allclose(wide.xy_px[0, 0], [22, 10])  # frame 1 is labelled, same track


def test_one_label_file_with_its_video(lab: Path) -> None:
    (lab / "walk.mp4").rename(lab / "other.mp4")
    with pytest.raises(SourceError, match="no video of that name"):
        parse_spec(f"video_coco:{lab}")
    assert len(parse_spec(f"video_coco:{lab / 'walk.json'}?video={lab / 'other.mp4'}")) == 2


def test_frame_numbers_from_file_names_and_people_without_track(lab: Path) -> None:
    data = labels()
    for image in data["images"]:
        del image["frame_number"]
        image["file_name"] = f"{image['id'] - 100:06d}.png"
    for entry in data["annotations"]:
        del entry["track_id"]
    (lab / "walk.json").write_text(json.dumps(data))
    dataset = parse_spec(f"video_coco:{lab}?frames=5&key=2")
    assert dataset[1].frame_index[2] == 3
    assert np.isnan(dataset[1].xy_px[0]).all()  # nobody says it is the same person
    assert dataset[0].track != dataset[1].track


def test_labels_of_another_video(lab: Path) -> None:
    def refuse(match: str, data: dict[str, Any]) -> None:
        (lab / "walk.json").write_text(json.dumps(data))
        with pytest.raises(ConfigError, match=match):
            parse_spec(f"video_coco:{lab}")

    refuse(r"frame 6 is labelled, but the video has frames 0 to 5", labels((1, 6)))
    refuse(r"labelled at 640x480 pixels, the video has 96x64", labels(width=640, height=480))
    twice = labels()
    twice["images"][1]["frame_number"] = 1
    refuse("frame 1 is listed twice", twice)
    tail = labels()
    tail["categories"][0]["keypoints"] = ["nose", "tail"]
    refuse("the joints nose, tail are no joint set we know", tail)
    short = labels()
    short["annotations"][0]["keypoints"] = [1, 2, 2] * 15
    refuse("expected 17 joints", short)


def test_the_joint_set_is_the_one_that_the_file_names(lab: Path) -> None:
    data = labels()
    names = ["head_bottom" if j == "neck" else j for j in POSETRACK15.joints]
    data["categories"][0]["keypoints"] = names
    for entry in data["annotations"]:
        entry["keypoints"] = entry["keypoints"][:45]
    (lab / "second.json").write_text(json.dumps(data))
    write_video(lab / "second.mp4")
    with pytest.raises(ConfigError, match="expected one joint set in all label files"):
        parse_spec(f"video_coco:{lab}")
    (lab / "walk.json").unlink()
    assert parse_spec(f"video_coco:{lab}").skeleton is POSETRACK15


def test_a_video_that_is_none(lab: Path) -> None:
    (lab / "walk.mp4").write_bytes(b"half")
    with pytest.raises(SourceError, match="half copied"):
        parse_spec(f"video_coco:{lab}")


# Bags


def write_bag(path: Path, compressed: bool) -> list[int]:
    """Write FRAMES images 0.1 s apart; their header stamps."""
    pytest.importorskip("rosbags")
    from rosbags.rosbag2 import StoragePlugin, Writer
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(Stores.LATEST)
    types = store.types
    kind = "sensor_msgs/msg/CompressedImage" if compressed else "sensor_msgs/msg/Image"
    stamps = [5_000_000_000 + 100_000_000 * n for n in range(FRAMES)]
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connection = writer.add_connection("/camera/image", kind, typestore=store)
        for number, stamp in enumerate(stamps):
            header = types["std_msgs/msg/Header"](
                stamp=types["builtin_interfaces/msg/Time"](
                    sec=stamp // 10**9, nanosec=stamp % 10**9
                ),
                frame_id="camera",
            )
            bgr = np.full((SIZE[1], SIZE[0], 3), (30 * number, 0, 0), np.uint8)
            if compressed:
                data = cv2.imencode(".png", bgr)[1].ravel()
                message = types[kind](header=header, format="png", data=data)
            else:
                message = types[kind](
                    header=header, height=SIZE[1], width=SIZE[0], encoding="bgr8",
                    is_bigendian=0, step=3 * SIZE[0], data=bgr.ravel(),
                )  # fmt: skip
            writer.write(connection, stamp + 7, store.serialize_cdr(message, kind))
    return stamps


def bag_labels(stamps: list[int]) -> dict[str, Any]:
    data = labels()
    for image in data["images"]:
        image["stamp_ns"] = stamps[image.pop("frame_number")]
    return data


def test_frames_that_windows_need_are_kept_as_pictures(lab: Path, tmp_path: Path) -> None:
    keep = tmp_path / "kept"
    plain = parse_spec(f"video_coco:{lab}?frames=3&key=1")
    fast = parse_spec(f"video_coco:{lab}?frames=3&key=1&cache={keep}")
    (folder,) = keep.iterdir()
    # frames 1 and 3 are labelled: 0 to 4 are needed, 5 is not
    assert sorted(p.name for p in folder.iterdir()) == [f"{n:06d}.jpg" for n in range(5)]
    for i in range(2):
        for slow, image in zip(plain[i].images, fast[i].images, strict=True):
            assert isinstance(image, FileImage)
            np.testing.assert_allclose(image.read(), slow.read(), atol=2)
        np.testing.assert_array_equal(plain[i].xy_px, fast[i].xy_px)
    before = {p: p.stat().st_mtime_ns for p in folder.iterdir()}
    (folder / "000002.jpg").unlink()  # what is missing is written again, and no more
    parse_spec(f"video_coco:{lab}?frames=3&key=1&cache={keep}")
    after = {p: p.stat().st_mtime_ns for p in folder.iterdir()}
    assert {p for p in before if after[p] != before[p]} == {folder / "000002.jpg"}
    os.utime(lab / "walk.mp4", (1, 1))  # another video of that name
    parse_spec(f"video_coco:{lab}?cache={keep}")
    assert len(list(keep.iterdir())) == 2
    (tmp_path / "file").write_text("")
    with pytest.raises(SourceError, match="could not be written"):
        parse_spec(f"video_coco:{lab}?cache={tmp_path / 'file'}")


def test_tracked_people_are_read_from_kept_frames(lab: Path, tmp_path: Path) -> None:
    person = {"id": 1, "state": "TRACKED", "box_xyxy_px": [15, 5, 45, 55]}
    rows = [{"frame": n, "people": [person] if n == 4 else []} for n in range(FRAMES)]
    (lab / "walk.jsonl").write_text("\n".join(map(json.dumps, rows)))
    spec = f"tracks:{lab / 'walk.mp4'}?poses={lab / 'walk.jsonl'}&frames=3&key=1"
    (sample,) = [parse_spec(f"{spec}&cache={tmp_path / 'kept'}")[0]]
    assert all(isinstance(image, FileImage) for image in sample.images)
    levels = [image.read().mean() for image in sample.images]
    np.testing.assert_allclose(levels, [90, 120, 150], atol=4)
    assert len(list((tmp_path / "kept").rglob("*.jpg"))) == 3


@pytest.mark.parametrize("compressed", [False, True])
def test_a_bag_with_labels(tmp_path: Path, compressed: bool) -> None:
    stamps = write_bag(tmp_path / "bag", compressed)
    (tmp_path / "bag" / "labels.json").write_text(json.dumps(bag_labels(stamps)))
    dataset = parse_spec(f"rosbag:{tmp_path / 'bag'}?frames=3&key=1")
    assert (dataset.name, len(dataset)) == ("rosbag", 2)
    sample = dataset[1]
    assert sample.frame_index.tolist() == [2, 3, 4]
    assert [image.read()[0, 0].tolist() for image in sample.images] == [
        [0, 0, 60], [0, 0, 90], [0, 0, 120],
    ]  # fmt: skip
    assert dataset[0].images[0].read()[0, 0, 2] == 0  # and back
    kept = parse_spec(f"rosbag:{tmp_path / 'bag'}?frames=3&key=1&cache={tmp_path / 'kept'}")
    assert all(isinstance(image, FileImage) for image in kept[1].images)
    np.testing.assert_allclose(kept[1].images[0].read(), sample.images[0].read(), atol=3)
    np.testing.assert_allclose(sample.xy_px[1, 0], [26, 10])


def test_labels_of_another_bag(tmp_path: Path) -> None:
    stamps = write_bag(tmp_path / "bag", False)
    path = tmp_path / "labels.json"
    spec = f"rosbag:{tmp_path / 'bag'}?labels={path}"
    path.write_text(json.dumps(bag_labels([stamp + 1 for stamp in stamps])))
    with pytest.raises(ConfigError, match="2 labelled stamps are of no image"):
        parse_spec(spec)
    path.write_text(json.dumps(labels()))
    with pytest.raises(ConfigError, match="expected stamp_ns in every picture"):
        parse_spec(spec)
    path.write_text(json.dumps(bag_labels(stamps)))
    with pytest.raises(ConfigError, match=r"topic='/front'; there are /camera/image"):
        parse_spec(f"{spec}&topic=/front")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="expected a rosbag2 recording"):
        parse_spec(f"rosbag:{tmp_path / 'empty'}?labels={path}")


# 3-D


def h36m(root: Path, frames_2d: int = FRAMES) -> Path:
    poses = root / "S9" / "MyPoseFeatures"
    name = "Directions 1.54138969"
    rng = np.random.default_rng(0)
    xyz = rng.normal(0, 300, (FRAMES, 32, 3)) + np.array([0, 0, 5000])
    xy = 40 + 3 * xyz[..., :2] / xyz[..., 2:]
    for folder, table in (("D3_Positions_mono", xyz), ("D2_Positions", xy[:frames_2d])):
        (poses / folder).mkdir(parents=True)
        cell = np.empty((1, 1), object)
        cell[0, 0] = table.reshape(len(table), -1)
        savemat(poses / folder / f"{name}.cdf.mat", {"data": cell})
    (root / "S9" / "Videos").mkdir()
    write_video(root / "S9" / "Videos" / f"{name}.mp4")
    np.save(root / "truth.npy", xyz)
    return root


def test_human36m_is_in_metres_in_the_cameras_frame(tmp_path: Path) -> None:
    dataset = parse_spec(f"human36m:{h36m(tmp_path)}?stride=2&frames=3&key=1")
    assert dataset.skeleton is H36M17
    assert len(dataset) == 3
    sample = dataset[1]
    truth = np.load(tmp_path / "truth.npy")[2, list(JOINTS)] / 1000
    np.testing.assert_allclose(sample.xyz_m[1], truth, rtol=1e-5)
    assert np.isnan(sample.xyz_m[0]).all()  # a frame between: unlabelled
    assert sample.frame_index.tolist() == [1, 2, 3]
    assert sample.images[1].read().mean() == pytest.approx(60, abs=4)


def test_bad_human36m(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="6 frames of 3-D and 4 of 2-D"):
        parse_spec(f"human36m:{h36m(tmp_path / 'a', frames_2d=4)}")
    with pytest.raises(SourceError, match="no subject of split train"):
        parse_spec(f"human36m:{tmp_path / 'a'}?split=train")
    root = h36m(tmp_path / "b")
    next((root / "S9" / "Videos").iterdir()).unlink()
    with pytest.raises(SourceError, match="the video is missing"):
        parse_spec(f"human36m:{root}")
    file = next((root / "S9" / "MyPoseFeatures" / "D3_Positions_mono").iterdir())
    savemat(file, {"data": np.zeros((3, 5))})
    with pytest.raises(SourceError, match="32 x 3"):
        parse_spec(f"human36m:{root}")


class Unwelcome:
    """Runs something when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("unpickled",))


def sportspose(root: Path) -> Path:
    person = root / "indoors" / "S04"
    (person / "tennis").mkdir(parents=True)
    # The camera stands 4 m behind the origin; 30 px focal length, centre of a 64 x 96 picture.
    view = {
        "f": np.array([30.0, 30.0]), "c": np.array([31.5, 47.5]), "k": np.zeros(5),
        "R": np.eye(3), "T": np.array([0.0, 0.0, 4.0]), "tpr": None,
    }  # fmt: skip
    calibration = {"calibration": [view, view], "numtimesrot90clockwise": [0, 1]}
    (person / "calib.pkl").write_bytes(pickle.dumps(calibration))
    world = np.zeros((FRAMES, 17, 3))
    world[:, :, 1] = np.linspace(-1, 1, 17)
    world[:, :, 0] = 0.1 * np.arange(FRAMES)[:, None]
    world[0, 4] = np.nan
    np.save(person / "tennis" / "tennis0001.npy", world)
    timing = {
        "video_path": ["day1", "take1"], "times_ms": np.zeros((2, FRAMES)),
        "video_index": [np.arange(FRAMES), np.arange(FRAMES)],
    }  # fmt: skip
    (person / "tennis" / "tennis0001_timing.pkl").write_bytes(pickle.dumps(timing))
    (root / "videos" / "day1" / "take1").mkdir(parents=True)
    write_video(root / "videos" / "day1" / "take1" / "CAM1.avi")
    return root


def test_sportspose_is_projected_into_the_upright_picture(tmp_path: Path) -> None:
    dataset = parse_spec(f"sportspose:{sportspose(tmp_path)}?camera=1&stride=1")
    assert (dataset.skeleton, len(dataset)) == (COCO17, FRAMES)
    sample = dataset[2]
    assert sample.images[0].read().shape == (SIZE[0], SIZE[1], 3)  # turned by a quarter
    np.testing.assert_allclose(sample.xyz_m[0, 0], [0.2, -1, 4], atol=1e-6)
    # 30 px x 0.2 / 4 right of the centre, 30 px x 1 / 4 above it
    np.testing.assert_allclose(sample.xy_px[0, 0], [31.5 + 1.5, 47.5 - 7.5], atol=1e-4)
    assert np.isnan(dataset[0].xy_px[0, 4]).all()
    assert dataset[0].visible[0, 4] == 0


def test_bad_sportspose(tmp_path: Path) -> None:
    root = sportspose(tmp_path)
    with pytest.raises(SourceError, match=r"no person 'S05' \(found: S04\)"):
        parse_spec(f"sportspose:{root}?split=S05&camera=1")
    with pytest.raises(SourceError, match="calibration of camera 5"):
        parse_spec(f"sportspose:{root}?camera=5")
    with pytest.raises(SourceError, match="the video is missing"):
        parse_spec(f"sportspose:{root}?camera=0")


def test_a_pickle_runs_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = sportspose(tmp_path)
    (root / "indoors" / "S04" / "calib.pkl").write_bytes(pickle.dumps(Unwelcome()))
    with pytest.raises(SourceError, match="does not belong into a calibration"):
        parse_spec(f"sportspose:{root}")
    assert capsys.readouterr().out == ""
