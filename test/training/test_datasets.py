"""The dataset registry, windows and lazily read pictures."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
import toy_posetrack

from pose_ros.core.skeletons import COCO17, POSETRACK15
from pose_ros.core.video import VideoWriter
from pose_ros.errors import ConfigError, ShapeError, SourceError
from pose_ros.training import inspect
from pose_ros.training.datasets import (
    ArrayImage,
    ClipSample,
    FileImage,
    Subset,
    VideoImage,
    WindowSpec,
    list_datasets,
    parse_spec,
    register_dataset,
)
from pose_ros.training.datasets.base import (
    box_of_joints,
    clip_box,
    has_area,
    labels_from_triples,
    picture_size,
)

NEEDED = {
    "badminton", "coco", "crowdpose", "human36m", "mpii", "ochuman", "posetrack17",
    "posetrack18", "posetrack21", "rosbag", "sportspose", "video_coco",
}  # fmt: skip


def write_video(path: Path, frames: int, size: tuple[int, int] = (96, 64)) -> Path:
    """Frame n is grey of level 20 n."""
    with VideoWriter(path, 10.0) as writer:
        for number in range(frames):
            writer.write(np.full((size[1], size[0], 3), 20 * number, np.uint8))
    return path


def test_every_dataset_is_registered() -> None:
    assert set(list_datasets()) >= NEEDED


@pytest.mark.parametrize("name", sorted(NEEDED))
def test_a_missing_folder_says_what_to_download_and_where_to_put_it(
    name: str, tmp_path: Path
) -> None:
    with pytest.raises(SourceError) as error:
        parse_spec(f"{name}:{tmp_path / 'nowhere'}")
    text = str(error.value)
    assert str(tmp_path / "nowhere") in text
    assert "Expected layout:" in text
    assert "\n" not in text  # errors are one line
    assert any(word in text for word in ("ROOT/", "BAG/"))


def test_specifications_convert_options_by_the_type_of_their_default(tmp_path: Path) -> None:
    root, _found = toy_posetrack.write(tmp_path, 18)
    dataset = parse_spec(f"posetrack18:{root}?frames=3&key=1", key=2, frames=5, unknown=1)
    sample = dataset[0]
    assert (len(sample.images), sample.key) == (3, 1)
    assert len(parse_spec(f"posetrack18:{root}", frames=5)[0].images) == 5


def test_bad_specifications_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean posetrack"):
        parse_spec("posetrack19:/data")
    with pytest.raises(ConfigError, match="no option 'split_'; it has split, frames"):
        parse_spec("coco:/data?split_=val")
    with pytest.raises(ConfigError, match="option frames: expected int, got 'three'"):
        parse_spec("coco:/data?frames=three")
    with pytest.raises(ConfigError, match="two datasets are called 'coco'"):
        register_dataset("coco")(lambda path: None)  # type: ignore[arg-type,return-value]


def test_windows_repeat_the_key_frame_at_the_border() -> None:
    window = WindowSpec(frames=5, key=2, step=1)
    assert window.around(10, 0, 20)[0].tolist() == [8, 9, 10, 11, 12]
    index, left, right = window.around(1, 0, 20)
    assert index.tolist() == [1, 0, 1, 2, 3]  # frame -1 is replaced by the key frame
    assert (left, right) == (1, 2)  # and counts as one frame away
    index, left, right = window.around(20, 0, 20)
    assert index.tolist() == [18, 19, 20, 20, 20]
    assert (left, right) == (2, 1)


def test_windows_of_one_side() -> None:
    index, left, right = WindowSpec(3, 2, 2).around(9, 0, 9)
    assert (index.tolist(), left, right) == ([5, 7, 9], 4, 0)
    assert WindowSpec().around(4, 4, 4)[1:] == (0, 0)
    for bad in ((0, 0, 1), (3, 3, 1), (3, -1, 1), (3, 1, 0)):
        with pytest.raises(ConfigError, match="a window needs"):
            WindowSpec(*bad)


def test_pictures_are_rgb_and_read_when_asked(tmp_path: Path) -> None:
    ref = FileImage(tmp_path / "a.png")
    with pytest.raises(SourceError, match="is missing"):
        ref.read()
    red = np.zeros((4, 6, 3), np.uint8)
    red[..., 2] = 255  # BGR
    cv2.imwrite(str(tmp_path / "a.png"), red)
    assert ref.read()[0, 0].tolist() == [255, 0, 0]
    assert picture_size(tmp_path / "a.png") == (6, 4)
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:40])
    with pytest.raises(SourceError, match="half downloaded"):
        ref.read()


def test_the_size_of_a_jpeg_is_read_from_its_header(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    cv2.imwrite(str(path), np.zeros((48, 80, 3), np.uint8))
    assert picture_size(path) == (80, 48)
    with pytest.raises(SourceError, match="is missing"):
        picture_size(tmp_path / "b.jpg")
    path.write_bytes(path.read_bytes()[:-20])  # OpenCV would fill the rest with grey
    with pytest.raises(SourceError, match="half downloaded"):
        FileImage(path).read()


def test_datasets_travel_to_worker_processes(tmp_path: Path) -> None:
    root, _found = toy_posetrack.write(tmp_path, 18)
    dataset = parse_spec(f"posetrack18:{root}?frames=3&key=1")
    again = pickle.loads(pickle.dumps(dataset))
    np.testing.assert_array_equal(again[4].xy_px, dataset[4].xy_px)
    np.testing.assert_array_equal(again[4].images[0].read(), dataset[4].images[0].read())


def test_video_frames_in_any_order(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", 10)
    levels = [VideoImage(path, n).read().mean() for n in (3, 4, 0, 9, 3)]
    np.testing.assert_allclose(levels, [60, 80, 0, 180, 60], atol=4)
    with pytest.raises(SourceError, match="frame 12 was asked for, but the video ends"):
        VideoImage(path, 12).read()
    with pytest.raises(SourceError, match="expected a video"):
        VideoImage(tmp_path / "none.mp4", 0).read()


def test_samples_check_themselves() -> None:
    image = ArrayImage(np.zeros((4, 4, 3), np.uint8))
    fields = {
        "images": (image,), "key": 0, "box_xyxy_px": np.zeros(4, np.float32),
        "xy_px": np.zeros((1, 17, 2), np.float32), "visible": np.zeros((1, 17), np.uint8),
        "skeleton": COCO17, "track": "a", "frame_index": np.zeros(1, np.int64),
        "dt_left": 0, "dt_right": 0,
    }  # fmt: skip
    assert ClipSample(**fields).images[0].read().shape == (4, 4, 3)
    with pytest.raises(ShapeError, match="xy_px"):
        ClipSample(**{**fields, "skeleton": POSETRACK15})
    with pytest.raises(ConfigError, match="key"):
        ClipSample(**{**fields, "key": 1})


def test_joint_triples() -> None:
    xy, visible = labels_from_triples([1, 2, 2, 3, 4, 1, 5, 6, 0], 3, "here")
    np.testing.assert_array_equal(xy, [[1, 2], [3, 4], [np.nan, np.nan]])
    assert visible.tolist() == [2, 1, 0]
    with pytest.raises(ConfigError, match=r"here: expected 2 joints .* another joint set"):
        labels_from_triples([1, 2, 2], 2, "here")


def test_boxes() -> None:
    box = np.array([-10, -10, 30, 30], np.float32)
    assert clip_box(box, (20, 10)).tolist() == [-0.5, -0.5, 19.5, 9.5]
    assert not has_area(clip_box(box + 100, (20, 10)))
    xy = np.array([[0, 0], [10, 20], [np.nan, 0]], np.float32)
    np.testing.assert_allclose(box_of_joints(xy, 0.1), [-1, -2, 11, 22])
    assert np.isnan(box_of_joints(xy[2:])).all()


def test_subsets(tmp_path: Path) -> None:
    root, _found = toy_posetrack.write(tmp_path, 18)
    dataset = parse_spec(f"posetrack18:{root}")
    part = Subset(dataset, [3, 1])
    assert len(part) == 2
    assert part[0].track == dataset[3].track
    assert (part.name, part.skeleton) == ("posetrack18", POSETRACK15)


def test_inspect_draws_and_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, _found = toy_posetrack.write(tmp_path, 18)
    out = tmp_path / "drawn"
    spec = f"posetrack18:{root}?frames=3&key=1"
    assert inspect.command([spec, "--out", str(out), "--count", "4"]) == 0
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (answer["files"], answer["skeleton"]) == (4, "posetrack15")
    assert 0.3 < answer["labelled_share"] < 1.0
    drawn = [cv2.imread(str(path)) for path in out.iterdir()]
    assert {picture.shape for picture in drawn} == {(480, 3 * 640, 3)}
    assert all(np.ptp(picture, axis=2).max() > 100 for picture in drawn)  # colours on grey
    assert inspect.command(["--list"]) == 0
    assert "posetrack18: split=val frames=1" in capsys.readouterr().out
    assert inspect.command(["nothing:here"]) == 1
    assert "error: dataset specification" in capsys.readouterr().err
