"""Pictures from files and folders."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from pose_ros.core.source import open_source
from pose_ros.core.video import VideoWriter
from pose_ros.errors import SourceError


def clip(path: Path, frames: int = 12, rate_hz: float = 25.0) -> Path:
    with VideoWriter(path, rate_hz) as video:
        for number in range(frames):
            video.write(np.full((48, 64, 3), 20 * number % 240, np.uint8))
    return path


def test_a_video_has_its_frames_and_its_rate(tmp_path: Path) -> None:
    source = open_source(str(clip(tmp_path / "a.mp4")))
    assert (source.rate_hz, source.count, source.live) == (25.0, 12, False)
    pictures = list(source)
    assert len(pictures) == 12 and pictures[0].shape == (48, 64, 3)
    assert abs(int(pictures[5].mean()) - 100) < 10
    assert len(list(source)) == 12  # from the start again


def test_colours_survive_the_round_trip(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "b.mp4", 10) as video:
        video.write(np.broadcast_to(np.array([200, 30, 30], np.uint8), (48, 64, 3)).copy())
    bgr = next(iter(open_source(str(tmp_path / "b.mp4"))))
    assert bgr[..., 2].mean() > 150 > 80 > bgr[..., 0].mean()


def test_pictures_of_another_size_are_resized(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "c.mp4", 10) as video:
        video.write(np.zeros((48, 64, 3), np.uint8))
        video.write(np.zeros((96, 128, 3), np.uint8))
    assert [p.shape for p in open_source(str(tmp_path / "c.mp4"))] == [(48, 64, 3)] * 2


def test_a_folder_in_the_order_of_names(tmp_path: Path) -> None:
    for number in (2, 0, 1):
        cv2.imwrite(str(tmp_path / f"{number:03d}.png"), np.full((4, 5, 3), number, np.uint8))
    (tmp_path / "notes.txt").write_text("not a picture")
    source = open_source(str(tmp_path))
    assert source.count == 3 and [int(p[0, 0, 0]) for p in source] == [0, 1, 2]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda p: p / "missing.mp4",
            "expected a video file, a folder of pictures or /dev/videoN",
        ),
        (lambda p: "/dev/video97", "this camera does not open; expected a free V4L2 device"),
        (lambda p: p, "expected pictures .*, found none"),
    ],
)
def test_what_does_not_open(tmp_path: Path, make, words: str) -> None:
    with pytest.raises(SourceError, match=words):
        open_source(str(make(tmp_path)))


def test_a_file_that_is_no_video(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"nothing of the kind" * 100)
    with pytest.raises(SourceError, match="this video does not open"):
        open_source(str(tmp_path / "a.mp4"))


def test_a_truncated_video_ends_and_says_so(tmp_path: Path) -> None:
    whole = clip(tmp_path / "a.avi", 60)
    (tmp_path / "b.avi").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    try:
        source = open_source(str(tmp_path / "b.avi"))
    except SourceError:
        return
    assert 0 < len(list(source)) < 60


def test_a_broken_picture_in_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"no")
    with pytest.raises(SourceError, match=r"x\.png: expected a picture"):
        list(open_source(str(tmp_path)))


def test_a_video_that_did_not_reach_the_disk_is_an_error(tmp_path: Path) -> None:
    """OpenCV's writer says nothing of a full disk; what it left is looked at."""
    whole = clip(tmp_path / "whole.mp4").read_bytes()
    for left in (b"", whole[: len(whole) // 2]):
        video = VideoWriter(tmp_path / "cut.mp4", 25.0)
        with pytest.raises(SourceError, match="of 12 pictures, the file does not have all"), video:
            for number in range(12):
                video.write(np.full((48, 64, 3), 20 * number, np.uint8))
            assert video._writer is not None
            video._writer.release()
            (tmp_path / "cut.mp4").write_bytes(left)
    with pytest.raises(KeyError), VideoWriter(tmp_path / "other.mp4", 25.0) as video:
        video.write(np.zeros((48, 64, 3), np.uint8))
        raise KeyError("an error before is not hidden")


@pytest.mark.parametrize("form", ["mp4", "avi", "mkv"])
@pytest.mark.parametrize("rate_hz", [7.5, 29.97])
def test_videos_of_all_forms_are_whole(tmp_path: Path, form: str, rate_hz: float) -> None:
    for frames in (1, 2, 61):
        assert clip(tmp_path / f"{frames}.{form}", frames, rate_hz).is_file()
