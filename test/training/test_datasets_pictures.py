"""COCO, CrowdPose, OCHuman and MPII, on tiny files in their true layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from scipy.io import savemat

from pose_ros.core.skeletons import COCO17, CROWDPOSE14, MPII16
from pose_ros.errors import ConfigError, SourceError
from pose_ros.training.datasets import parse_spec
from pose_ros.training.datasets.clips import LabelledClips

SIZE = (80, 60)


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((SIZE[1], SIZE[0], 3), 90, np.uint8))


def person(number: int, image: int, joints: int, **more: Any) -> dict[str, Any]:
    """Annotation whose joint k is at (10 + k, 20 + k); joint 0 occluded, the last unlabelled."""
    table = np.stack([10 + np.arange(joints), 20 + np.arange(joints), np.full(joints, 2)], axis=1)
    table[0, 2], table[-1] = 1, 0
    return {
        "id": number, "image_id": image, "category_id": 1, "bbox": [5, 6, 30, 40],
        "keypoints": table.ravel().tolist(), "num_keypoints": joints - 1, "iscrowd": 0, **more,
    }  # fmt: skip


def coco_file(joints: int, **image: Any) -> dict[str, Any]:
    images = [
        {"id": n, "file_name": f"{n:06d}.jpg", "width": SIZE[0], "height": SIZE[1], **image}
        for n in (1, 2)
    ]
    people = [
        person(1, 1, joints, area=700.0),
        person(2, 1, joints, area=600.0, iscrowd=1),
        person(3, 2, joints, area=500.0, num_keypoints=0, keypoints=[0] * 3 * joints),
        person(4, 2, joints, area=400.0, bbox=[70, 50, 500, 500]),
    ]
    return {"images": images, "annotations": people, "categories": [{"id": 1, "name": "person"}]}


def lay_out(root: Path, labels: str, images: str, data: dict[str, Any]) -> Path:
    (root / labels).parent.mkdir(parents=True)
    (root / labels).write_text(json.dumps(data))
    for image in data["images"]:
        picture(root / images / image["file_name"])
    return root


def rewrite(path: Path, **change: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))


@pytest.fixture
def coco_root(tmp_path: Path) -> Path:
    labels = "annotations/person_keypoints_val2017.json"
    return lay_out(tmp_path, labels, "val2017", coco_file(17))


def test_coco(coco_root: Path) -> None:
    dataset = parse_spec(f"coco:{coco_root}")
    assert isinstance(dataset, LabelledClips)
    assert len(dataset) == 2  # neither the crowd nor the person without joints
    sample = dataset[0]
    assert sample.skeleton is COCO17
    np.testing.assert_allclose(sample.xy_px[0, 3], [13, 23])
    assert sample.visible[0].tolist() == [1, *[2] * 15, 0]
    assert np.isnan(sample.xy_px[0, 16]).all()
    # Edges 5, 6, 35, 46 of the file are half a pixel off the pixel centres.
    np.testing.assert_allclose(sample.box_xyxy_px, [4.5, 5.5, 34.5, 45.5])
    assert (sample.area_px2, sample.image_id) == (700.0, 1)
    assert sample.images[0].read().shape == (60, 80, 3)
    np.testing.assert_allclose(dataset[1].box_xyxy_px, [69.5, 49.5, 79.5, 59.5])
    assert [p.ignore for p in dataset.clips[0].frames[0].people] == [False, True]


def test_a_still_repeats_itself_in_a_window(coco_root: Path) -> None:
    sample = parse_spec(f"coco:{coco_root}", frames=3, key=1)[0]
    assert len({id(image) for image in sample.images}) == 1
    assert (sample.dt_left, sample.dt_right) == (1, 1)


def test_any_file_in_cocos_form(coco_root: Path) -> None:
    path = coco_root / "annotations" / "person_keypoints_val2017.json"
    dataset = parse_spec(f"coco_file:{path}?images={coco_root / 'val2017'}")
    assert len(dataset) == 2
    with pytest.raises(SourceError, match="images=DIR"):
        parse_spec(f"coco_file:{path}")
    with pytest.raises(ConfigError, match="no picture is of source 'mine'"):
        parse_spec(f"coco_file:{path}?source=mine")


def test_crowdpose_has_14_joints_a_crowd_index_and_no_area(tmp_path: Path) -> None:
    data = coco_file(14, crowdIndex=0.4)
    for entry in data["annotations"]:
        del entry["area"]
    root = lay_out(tmp_path, "json/crowdpose_val.json", "images", data)
    dataset = parse_spec(f"crowdpose:{root}?split=val")
    assert dataset.skeleton is CROWDPOSE14
    assert dataset[0].area_px2 == pytest.approx(0.53 * 30 * 40)
    assert isinstance(dataset, LabelledClips)
    assert dataset.clips[0].frames[0].crowd_index == 0.4


@pytest.mark.parametrize("folder", ["", "annotations/"])
def test_ochuman_wherever_the_archive_puts_its_labels(tmp_path: Path, folder: str) -> None:
    name = f"{folder}ochuman_coco_format_test_range_0.00_1.00.json"
    root = tmp_path / "och"
    lay_out(root, name, "images", coco_file(17)) if folder else None
    if not folder:
        data = coco_file(17)
        for image in data["images"]:
            picture(root / "images" / image["file_name"])
        (root / name).write_text(json.dumps(data))
    assert len(parse_spec(f"ochuman:{root}?split=test")) == 2


def test_bad_coco_files(coco_root: Path) -> None:
    path = coco_root / "annotations" / "person_keypoints_val2017.json"
    good = coco_file(17)
    people, images = good["annotations"], good["images"]

    def refuse(error: type[Exception], match: str, **change: Any) -> None:
        path.write_text(json.dumps({**good, **change}))
        with pytest.raises(error, match=match):
            parse_spec(f"coco:{coco_root}")

    refuse(ConfigError, "a picture id is there twice", images=[*images, images[0]])
    refuse(ConfigError, "an annotation id is there twice", annotations=[*people, people[0]])
    refuse(
        ConfigError,
        r"1 pictures with people are not listed \(\[9\]",
        annotations=[*people, person(9, 9, 17)],
    )
    refuse(ConfigError, r"expected 17 joints .* another joint set", annotations=[person(1, 1, 14)])
    refuse(ConfigError, "expected a box", annotations=[person(1, 1, 17, bbox=[1, 2, 3])])
    refuse(ConfigError, "no labelled person", annotations=[])
    refuse(SourceError, "expected COCO keypoint labels", images="none")
    refuse(
        ConfigError, "no labelled person", annotations=[person(1, 1, 17, bbox=[500, 500, 20, 20])]
    )
    path.write_text(json.dumps(good)[:200])
    with pytest.raises(SourceError, match="half downloaded"):
        parse_spec(f"coco:{coco_root}")


def test_half_downloaded_coco_pictures(coco_root: Path) -> None:
    (coco_root / "val2017" / "000002.jpg").unlink()
    with pytest.raises(SourceError, match=r"000002\.jpg: .*half downloaded"):
        parse_spec(f"coco:{coco_root}")


# MPII


def mpii_release(path: Path) -> None:
    """Write RELEASE as MATLAB does: struct arrays, empty where nothing is known."""

    def points(*rows: tuple[int, float, float, object]) -> np.ndarray:
        kind = [(n, object) for n in ("x", "y", "id", "is_visible")]
        return np.array([(x, y, i, v) for i, x, y, v in rows], dtype=kind)

    def rect(point: np.ndarray | None, scale: float | None) -> tuple:
        annopoints = {"point": point} if point is not None else np.zeros((0, 0))
        objpos = {"x": 41.0, "y": 31.0} if scale else np.zeros((0, 0))
        return (30.0, 10.0, 36.0, 18.0, annopoints, scale or np.zeros((0, 0)), objpos)

    kind = [(n, object) for n in ("x1", "y1", "x2", "y2", "annopoints", "scale", "objpos")]
    one = points((0, 11.0, 12.0, "1"), (9, 33.0, 10.0, np.zeros((0, 0))), (3, 21.0, 22.0, "0"))
    people = np.array([rect(one, 0.25), rect(None, None)], dtype=kind)
    entry = [("image", object), ("annorect", object)]
    pictures = np.array(
        [
            ({"name": "000000001.jpg"}, people),
            ({"name": "000000002.jpg"}, np.array([rect(one, 0.25)], dtype=kind)),
            ({"name": "000000003.jpg"}, np.array([rect(one, 0.25)], dtype=kind)),
            ({"name": "000000004.jpg"}, np.zeros((0, 0))),
        ],
        dtype=entry,
    )
    release = {"annolist": pictures, "img_train": np.array([1.0, 1.0, 0.0, 1.0])}
    savemat(path, {"RELEASE": release})


@pytest.fixture
def mpii_root(tmp_path: Path) -> Path:
    mpii_release(tmp_path / "mpii_human_pose_v1_u12_1.mat")
    for number in range(1, 5):
        picture(tmp_path / "images" / f"{number:09d}.jpg")
    return tmp_path


def test_mpii_counts_from_0_and_knows_the_head(mpii_root: Path) -> None:
    dataset = parse_spec(f"mpii:{mpii_root}?split=trainval")
    assert len(dataset) == 2  # a test picture, an empty one, and a person with a head only
    sample = dataset[0]
    assert sample.skeleton is MPII16
    np.testing.assert_allclose(sample.xy_px[0, 0], [10, 11])
    assert sample.visible[0, [0, 3, 9, 1]].tolist() == [2, 1, 1, 0]
    assert sample.head_px == pytest.approx(0.6 * 10)  # a head of 6 x 8 pixels
    # centre (40, 30) and 15 x 0.25 below it; 200 x 0.25 = 50 high, 37.5 wide
    np.testing.assert_allclose(sample.box_xyxy_px, [21.25, 8.75, 58.75, 58.75])


def test_mpii_splits_by_hrnets_list(mpii_root: Path) -> None:
    with pytest.raises(SourceError, match=r"valid\.json.*list of the split is missing"):
        parse_spec(f"mpii:{mpii_root}?split=val")
    (mpii_root / "annot").mkdir()
    (mpii_root / "annot" / "valid.json").write_text(json.dumps([{"image": "000000002.jpg"}]))
    assert parse_spec(f"mpii:{mpii_root}?split=val")[0].video == "000000002"
    assert parse_spec(f"mpii:{mpii_root}?split=train")[0].video == "000000001"
    with pytest.raises(ConfigError, match="expected split train, val, trainval, got 'test'"):
        parse_spec(f"mpii:{mpii_root}?split=test")


def test_a_damaged_release(mpii_root: Path) -> None:
    path = mpii_root / "mpii_human_pose_v1_u12_1.mat"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(SourceError, match="expected MPII's release file"):
        parse_spec(f"mpii:{mpii_root}?split=trainval")
    savemat(path, {"other": 1})
    with pytest.raises(SourceError, match="expected MPII's release file"):
        parse_spec(f"mpii:{mpii_root}?split=trainval")
