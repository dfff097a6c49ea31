"""`training.inspect` draws samples of every data set that there is, from files in its layout."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import rig
import test_datasets_pictures as pictures
import test_datasets_videos as videos
import toy_posetrack

from pose_ros.training import inspect
from pose_ros.training.datasets import list_datasets


def posetrack(root: Path, year: int) -> str:
    return f"posetrack{year}:{toy_posetrack.write(root, year)[0]}"


def badminton(root: Path) -> str:
    found, _ = toy_posetrack.write(root, 18)
    (found / "annotations" / "val").rename(found / "annotations" / "test")
    return f"badminton:{found}"


def coco(root: Path) -> str:
    labels = "annotations/person_keypoints_val2017.json"
    return f"coco:{pictures.lay_out(root, labels, 'val2017', pictures.coco_file(17))}"


def coco_file(root: Path) -> str:
    data = pictures.coco_file(17)
    pictures.lay_out(root / "p", "labels.json", "pictures", data)
    return f"coco_file:{root}/p/labels.json?images={root}/p/pictures"


def crowdpose(root: Path) -> str:
    data = pictures.coco_file(14, crowdIndex=0.4)
    return (
        f"crowdpose:{pictures.lay_out(root, 'json/crowdpose_val.json', 'images', data)}?split=val"
    )


def ochuman(root: Path) -> str:
    name = "annotations/ochuman_coco_format_test_range_0.00_1.00.json"
    found = pictures.lay_out(root / "och", name, "images", pictures.coco_file(17))
    return f"ochuman:{found}?split=test"


def mpii(root: Path) -> str:
    pictures.mpii_release(root / "mpii_human_pose_v1_u12_1.mat")
    for number in range(1, 5):
        pictures.picture(root / "images" / f"{number:09d}.jpg")
    return f"mpii:{root}?split=trainval"


def video_coco(root: Path) -> str:
    videos.write_video(root / "walk.mp4")
    (root / "walk.json").write_text(json.dumps(videos.labels()))
    return f"video_coco:{root}?frames=3&key=1"


def rosbag(root: Path) -> str:
    stamps = videos.write_bag(root / "bag", compressed=False)
    (root / "bag" / "labels.json").write_text(json.dumps(videos.bag_labels(stamps)))
    return f"rosbag:{root / 'bag'}"


def human36m(root: Path) -> str:
    return f"human36m:{videos.h36m(root)}?stride=2"


def sportspose(root: Path) -> str:
    return f"sportspose:{videos.sportspose(root)}?camera=1&stride=1"


def tracks(root: Path) -> str:
    videos.write_video(root / "walk.mp4")
    person = {"id": 1, "state": "TRACKED", "box_xyxy_px": [20.0, 5.0, 60.0, 60.0]}
    rows = [json.dumps({"frame": n, "people": [person]}) for n in range(videos.FRAMES)]
    (root / "walk.jsonl").write_text("\n".join(rows))
    return f"tracks:{root}/walk.mp4?poses={root}/walk.jsonl"


LAYOUTS: dict[str, Callable[[Path], str]] = {
    "posetrack17": lambda root: posetrack(root, 17),
    "posetrack18": lambda root: posetrack(root, 18),
    "posetrack21": lambda root: posetrack(root, 21),
    "badminton": badminton, "coco": coco, "coco_file": coco_file, "crowdpose": crowdpose,
    "ochuman": ochuman, "mpii": mpii, "video_coco": video_coco, "rosbag": rosbag,
    "human36m": human36m, "sportspose": sportspose, "tracks": tracks,
    "views": rig.write,
    "synthetic": lambda root: "synthetic:?clips=1&people=1&seed=3&size=80x60",
}  # fmt: skip


def test_no_data_set_is_left_out() -> None:
    assert set(LAYOUTS) == set(list_datasets()) - {"dots"}  # which is of these tests


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_samples_are_drawn(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data").mkdir()
    spec = LAYOUTS[name](tmp_path / "data")
    out = tmp_path / "drawn"
    assert inspect.command([spec, "--out", str(out), "--count", "2"]) == 0
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert answer["samples"] >= answer["files"] == len(list(out.iterdir())) > 0
    unlabelled = name in ("tracks", "views")
    assert (answer["labelled_share"] == 0) == unlabelled
    drawn = cv2.imread(str(next(out.iterdir())))
    assert drawn.shape[0] == inspect.HEIGHT
    coloured = (np.ptp(drawn.astype(int), axis=2) > 60).mean()
    assert unlabelled or coloured > 0.0001  # bones are orange, blue and green
