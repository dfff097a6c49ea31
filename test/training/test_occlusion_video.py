"""Clips cut from real video: where the dots of a drawn film are, whatever its rate."""

import dataclasses
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from pose_ros.core.skeletons import COCO17
from pose_ros.core.values import Frame
from pose_ros.errors import ConfigError, SourceError
from pose_ros.training import ablate, consensus, occlusion_video
from pose_ros.training.consensus import Track
from pose_ros.training.occlusion_set import KEY, PICTURES, view
from pose_ros.training.occlusion_video import LabelledVideo, VideoConfig

SIZE = (160, 120)
WRIST = COCO17.index("left_wrist")


def film(folder: Path, name: str, speed: float, frames: int = 60, rate: float = 16.0) -> str:
    """A white disc that is the left wrist and walks to the right; the other joints walk along."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.avi"
    out = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), rate, SIZE)
    body = np.stack([np.linspace(30, 60, 17), np.linspace(30, 90, 17)], axis=1)
    xy = body[None] + np.stack([speed * np.arange(frames), np.zeros(frames)], -1)[:, None]
    for points in xy:
        picture = np.full((SIZE[1], SIZE[0], 3), 40, np.uint8)
        cv2.circle(picture, tuple(np.rint(points[WRIST]).astype(int).tolist()), 4, (255,) * 3, -1)
        out.write(picture)
    out.release()
    box = np.stack([xy[:, 0, 0] - 5, xy[:, 0, 1] - 5, xy[:, -1, 0] + 5, xy[:, -1, 1] + 5], 1)
    xy = xy.astype(np.float32)
    xy[:, 3] = np.nan  # an ear that nobody is sure of
    labels = folder / f"{name}.npz"
    consensus.save(labels, [Track(np.arange(frames), box.astype(np.float32), xy)])
    return f"{path}={labels}"


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[LabelledVideo, ...]]:
    folder = tmp_path_factory.mktemp("films")
    walks, stands = film(folder, "walks", 1.0), film(folder / "other", "stands", 0.0, 40)
    return {"train": (LabelledVideo.parse(stands),), "test": (LabelledVideo.parse(walks),)}


def test_joints_are_where_the_crops_show_them(
    films: dict[str, tuple[LabelledVideo, ...]], tmp_path: Path
) -> None:
    config = VideoConfig(films, train=6, test=5)
    clips = config.load("test", tmp_path)
    assert clips.frames.shape == (5, PICTURES, 96, 64, 3) and not clips.hidden.any()
    assert np.isnan(clips.xy_px[:, :, 3]).all() and np.isfinite(clips.xy_px[:, KEY, :3]).all()
    for clip in range(5):
        for picture in range(PICTURES):
            weight = np.maximum(clips.frames[clip, picture, :, :, 0].astype(float) - 150, 0)
            if weight.sum() == 0:  # it walked out of the crop, which stands still
                continue
            rows, columns = np.mgrid[:96, :64]
            at = [(weight * grid).sum() / weight.sum() for grid in (columns, rows)]
            if min(at[0], 63 - at[0]) > 6:
                np.testing.assert_allclose(clips.xy_px[clip, picture, WRIST], at, atol=1.0)
    # 70 px high, 1.25 times enlarged: 96 / 87.5 crop pixels per pixel; 2 px per picture
    step = np.diff(clips.xy_px[:, :, WRIST, 0], axis=1)
    np.testing.assert_allclose(step, 2.0 * 96 / 87.5, rtol=0.01)
    np.testing.assert_allclose(clips.side_px, 96 / 1.25, rtol=0.01)
    again = dataclasses.replace(config, train=5).load("test", tmp_path)
    np.testing.assert_array_equal(again.frames, clips.frames)
    assert np.isfinite(view(clips, "occluded", 0).xy_px).any()


def test_labels_are_made_once_where_only_boxes_are_known(
    films: dict[str, tuple[LabelledVideo, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The teacher finds the disc in every picture; it looks once, and never again."""
    looked = []

    class Teacher:
        def __init__(self, threads: int) -> None:
            pass

        def __call__(self, frame: Frame, boxes: np.ndarray) -> np.ndarray:
            bright = np.argwhere(frame.rgb[..., 0] > 150).mean(axis=0)[::-1]
            looked.append(bright)
            return np.tile(bright, (len(boxes), 17, 1)).astype(np.float32)

    monkeypatch.setattr(consensus, "Consensus", Teacher)
    walks, known = films["test"][0], consensus.load(films["test"][0].labels)[0]
    poses = tmp_path / "walks.jsonl"
    poses.write_text("".join(
        json.dumps({"frame": t, "people": [{"id": 1, "state": "TRACKED", "box_xyxy_px": box}]})
        + "\n" for t, box in enumerate(known.box_xyxy_px.tolist())), encoding="utf-8")  # fmt: skip
    film = LabelledVideo.parse(f"{walks.video}={poses}")
    (found,) = film.tracks(tmp_path / "cache")
    assert len(looked) == 60 and len(found) == 60
    np.testing.assert_allclose(found.xy_px[:, 0], known.xy_px[:, WRIST], atol=1.0)
    np.testing.assert_array_equal(film.tracks(tmp_path / "cache")[0].xy_px, found.xy_px)
    assert len(looked) == 60


def test_where_people_move_comes_first(films: dict[str, tuple[LabelledVideo, ...]]) -> None:
    tracks = consensus.load(films["test"][0].labels)
    still = dataclasses.replace(tracks[0], xy_px=tracks[0].xy_px[:1].repeat(60, axis=0))
    step = occlusion_video.step_of(16.0, 8.0)
    assert step == 2 and occlusion_video.step_of(3.0, 8.0) == 1
    places = occlusion_video.places_in([still, tracks[0]], step)
    assert len(places) == 2 * (60 - 4 * step)
    assert (np.diff(places[0][1]) == step).all() and len(places[0][1]) == PICTURES
    some = occlusion_video.chosen([still, tracks[0]], places, 10)
    assert [track for track, _ in some] == [1] * 10
    more = occlusion_video.chosen([still, tracks[0]], places, 60)
    assert sum(track for track, _ in more) == 52
    unsure = dataclasses.replace(tracks[0], xy_px=np.full_like(tracks[0].xy_px, np.nan))
    assert occlusion_video.places_in([unsure], step) == []


def test_films_share_the_clips_as_far_as_they_reach() -> None:
    assert occlusion_video.shares([100, 3, 50], 90) == [44, 3, 43]
    assert occlusion_video.shares([5, 3], 90) == [5, 3]


def test_what_cannot_be_cut_is_refused(
    films: dict[str, tuple[LabelledVideo, ...]], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="two files"):
        LabelledVideo.parse("absent.mp4=absent.npz")
    with pytest.raises(ConfigError, match="to learn and to test"):
        VideoConfig({"train": films["train"], "test": films["train"]})
    with pytest.raises(ConfigError, match="videos to test with"):
        VideoConfig({"train": films["train"], "test": ()})
    with pytest.raises(ConfigError, match="split"):
        VideoConfig(films).load("val", tmp_path)
    track = consensus.load(films["train"][0].labels)[0]
    late = dataclasses.replace(track, frames=track.frames + 30)
    with pytest.raises(SourceError, match="has no picture"):
        occlusion_video.cut_clips(films["train"][0], [late], [(0, np.arange(20, 25))], (96, 64))
    short = tmp_path / "short.npz"
    consensus.save(short, [dataclasses.replace(
        track, frames=track.frames[:4], box_xyxy_px=track.box_xyxy_px[:4], xy_px=track.xy_px[:4]
    )])  # fmt: skip
    brief = LabelledVideo(films["train"][0].video, short)
    with pytest.raises(SourceError, match="long enough"):
        VideoConfig({**films, "train": (brief,)}).load("train", tmp_path)


def test_the_command_says_whose_clips_a_result_is_of(
    films: dict[str, tuple[LabelledVideo, ...]], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    out = tmp_path / "x.jsonl"
    shown = [
        "--net",
        "pstpose",
        "--rows",
        "off",
        "--seeds",
        "1",
        "--steps",
        "1",
        "--out",
        str(out),
    ]
    asked = [*shown, "--cache", str(tmp_path), "--train", "3", "--test", "2"]
    for split, found in films.items():
        asked += [f"--{split}-video", f"{found[0].video}={found[0].labels}"]
    assert ablate.main(asked)["ran"] == 1
    assert ablate.main(asked)["ran"] == 0
    assert ablate.read_results(out)[0]["clips"] == "video"
    shown = [
        "--net",
        "pstpose",
        "--rows",
        "off",
        "--seeds",
        "1",
        "--steps",
        "1",
        "--out",
        str(out),
    ]
    assert ablate.main([*shown, "--table", "text", "--clips", "video"])["runs"] == 1
    assert ablate.main([*shown, "--table", "text"])["runs"] == 0
    capsys.readouterr()
    assert ablate.command([*asked, "--test-video", "absent.mp4=x"]) == 1
    assert "two files" in capsys.readouterr().err
