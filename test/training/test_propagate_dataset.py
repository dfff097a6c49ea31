"""Paper 003's protocol on PoseTrack: every T-th label given, the rest answered and judged."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import toy_posetrack

from pose_ros.errors import ConfigError
from pose_ros.training import evaluate, propagate_dataset
from pose_ros.training.datasets import parse_spec
from pose_ros.training.datasets.base import ArrayImage
from pose_ros.training.datasets.clips import Clip, FrameLabel
from pose_ros.training.datasets.sparse import given_frames, longest_run, sparse_clips
from pose_ros.training.predict import open_network
from pose_ros.training.propagate_dataset import answer, sparse_video
from pose_ros.training.propagation import finish
from pose_ros.training.propagation_nets import _windows

torch.set_num_threads(1)
FRAMES = 10
VIDEO = "000342_mpii_test"
STDPOSE = {"backbone": "vit_tiny", "size_hw_px": (64, 48), "head_channels": 16}


def write(root: Path, labelled: range = range(1, 9), step_px: float = 6.0) -> Path:
    """A PoseTrack18 folder: people who walk straight on, labelled in some frames of a video."""
    rng, people = np.random.default_rng(0), 2
    body = rng.uniform(-40, 40, (people, 17, 2)) + 120 + 200 * np.arange(people)[:, None, None]
    data: dict[str, Any] = {"images": [], "annotations": [], "categories": toy_posetrack.CATEGORY}
    for t in range(FRAMES):
        image = toy_posetrack.image18(VIDEO, t) | {"nframes": FRAMES, "is_labeled": t in labelled}
        data["images"].append(image)
        path = root / image["file_name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.full((480, 640, 3), 20 * t, np.uint8))
        for p in range(people if t in labelled else 0):
            xy = np.round(body[p] + (step_px * t, 0), 1)
            low, size = xy.min(axis=0), np.ptp(xy, axis=0)
            data["annotations"].append(
                {
                    "id": len(data["annotations"]), "image_id": image["id"], "track_id": p,
                    "category_id": 1, "bbox": [*low.tolist(), *size.tolist()],
                    "bbox_head": [*xy[2].tolist(), 30.0, 40.0], "scores": [],
                    "keypoints": np.column_stack([xy, np.ones(17)]).ravel().tolist(),
                }
            )  # fmt: skip
    labels = root / "annotations" / "val" / f"{VIDEO}.json"
    labels.parent.mkdir(parents=True)
    labels.write_text(json.dumps(data))
    return root


def command(root: Path, *options: str) -> dict[str, Any]:
    return propagate_dataset.main(["--dataset", f"posetrack18:{root}", *options])


def clip_of(labelled: list[int], numbers: list[int] | None = None) -> Clip:
    grey = ArrayImage(np.zeros((8, 8, 3), np.uint8))
    count = max(labelled, default=0) + 1
    numbers = numbers or list(range(count))
    frames = [FrameLabel(grey, n, n, labelled=i in labelled) for i, n in enumerate(numbers)]
    return Clip("clip", tuple(frames))


@pytest.mark.parametrize(
    ("interval", "percent"),
    [(2, 50.0), (3, 36.7), (4, 26.7), (5, 23.3), (7, 16.7), (9, 13.3), (15, 10.0)],
)
def test_the_papers_labelled_ratios(interval: int, percent: float) -> None:
    clip = clip_of(list(range(5, 35)))
    given = given_frames(clip, interval)
    assert given[0] == 5 and 100 * len(given) / 30 == pytest.approx(percent, abs=0.05)
    assert given_frames(clip, 0) == []


def test_a_run_is_the_longest_without_a_gap() -> None:
    assert longest_run(clip_of([0, 1, 3, 4, 5, 8])) == range(3, 6)
    assert longest_run(clip_of([])) == range(0)
    # the file leaves frame 3 out: positions go on, numbers do not
    assert longest_run(clip_of([0, 1, 2, 3, 4], [0, 1, 2, 4, 5])) == range(0, 3)


def test_only_every_label_of_an_interval_is_learned_from(tmp_path: Path) -> None:
    root = write(tmp_path)
    sparse = parse_spec(f"posetrack18:{root}?interval=3&frames=3&key=1")
    assert [f.number for f in sparse.clips[0].frames if f.labelled] == [1, 4, 7]  # type: ignore
    assert len(sparse) == 2 * 3
    window = sparse[2]
    assert window.frame_index.tolist() == [3, 4, 5]  # side frames are there, without labels
    assert np.isnan(window.xy_px[[0, 2]]).all() and np.isfinite(window.xy_px[1]).all()
    assert len(parse_spec(f"posetrack18:{root}")) == 2 * 8
    with pytest.raises(ConfigError, match="none of 1 clips has a labelled frame"):
        sparse_clips([clip_of([])], 3)
    with pytest.raises(ConfigError, match="expected 0"):
        sparse_clips([], -1)


def test_people_who_walk_straight_on_are_interpolated_to_100(tmp_path: Path) -> None:
    root = write(tmp_path)
    found = command(root, "--interval", "3", "--method", "interpolate")
    assert found["metrics"]["total"] == pytest.approx(100.0)
    assert found["metrics"]["unlabelled_m7"] == pytest.approx(100.0)
    assert (found["frames"], found["labelled"]) == (8, 3)
    assert found["labelled_ratio"] == 0.375
    copied = command(root, "--interval", "7", "--method", "copy")
    # heads are 50 px: three frames of 6 px are within half of 0.6 of that, four are not
    assert copied["metrics"]["unlabelled_total"] < 100.0
    assert copied["metrics"]["unlabelled_total"] < copied["metrics"]["total"] < 100.0


def test_what_is_written_is_judged_alike_and_can_be_learned_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write(tmp_path / "root", labelled=range(FRAMES), step_px=3.0)
    out, dense = tmp_path / "found", tmp_path / "dense"
    options = ["--interval", "4", "--method", "copy", "--out", str(out), "--labels", str(dense)]
    saved = ["--save", str(tmp_path / "s" / "x.json"), "--table", "stdpose.1.18"]
    found = command(root, *options, *saved, "--score-min", "0")
    spec = f"posetrack18:{root}"
    assert evaluate.command(["--dataset", spec, "--predictions", str(out)]) == 0
    judged = json.loads(capsys.readouterr().out.splitlines()[-1])["metrics"]
    assert judged["total"] == pytest.approx(found["metrics"]["total"], abs=1e-3)
    assert evaluate.command(["--table", "stdpose.1.18", "--results", str(tmp_path / "s")]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["measured"] == 1
    learned = parse_spec(f"{spec}?labels={dense}")
    truth = parse_spec(spec)
    assert len(learned) == len(truth) == 2 * FRAMES
    nearest = {0: 0, 1: 0, 2: 0, 3: 4, 4: 4, 5: 4, 6: 4, 7: 8, 8: 8, 9: 8}  # the earlier of two
    for i in range(len(truth)):
        mine, given = learned[i], truth[i]
        time = int(given.frame_index[0])
        assert (mine.track, int(mine.frame_index[0])) == (given.track, time)
        off = np.full((1, 15, 2), (3.0 * (nearest[time] - time), 0.0))
        np.testing.assert_allclose(mine.xy_px - given.xy_px, off, atol=0.02)
    assert (
        command(root, *options, "--score-min", "0.9")["metrics"] == found["metrics"]
    )  # who learns does not judge
    assert len(parse_spec(f"{spec}?labels={dense}")) < 2 * FRAMES  # what is not sure is left out


def test_stdpose_answers_everybody_whose_box_is_known(tmp_path: Path) -> None:
    root = write(tmp_path)
    torch.manual_seed(0)
    network = open_network("stdpose_vitl", **STDPOSE)
    torch.nn.init.constant_(network.module.get_parameter("head.final.bias"), 0.5)
    (clip,) = parse_spec(f"posetrack18:{root}").clips  # type: ignore[attr-defined]
    _run, video = sparse_video(clip, 7, known_boxes=True)
    assert np.flatnonzero(video.labelled).tolist() == [0, 7]
    found = finish(video, answer(video, "stdpose", network), 9, 0.0)
    assert np.isfinite(found.xy_px).all(axis=3).any(axis=2).all()
    np.testing.assert_array_equal(found.xy_px[:, 0], video.xy_px[:, 0])
    _run, nobody = sparse_video(clip, 0, known_boxes=True)
    assert not nobody.labelled.any()
    (windows,) = _windows(nobody, network, (0, 7), 9)
    assert len(windows.people) == 2 * 8 and (windows.labels[..., 2] == 0).all()
    assert (windows.dt == 1).all()
    inner = windows.times == 3
    # the frames before and after, which are 20 grey levels apart
    grey = windows.crops[inner].max(axis=(2, 3, 4))[0].astype(int)
    assert np.diff(grey).tolist() == [20, 20]
    raw = answer(nobody, "stdpose", network)
    assert (raw.score > 0).all()
    # nobody is labelled anywhere, and everybody whose box is known is answered
    known = nobody.known_xyxy_px
    assert known is not None
    away = replace(
        nobody, known_xyxy_px=np.where(np.eye(2, 8)[..., None], np.nan, known).astype("f4")
    )
    there = np.isfinite(finish(away, raw, 9, 0.0).xy_px).all(axis=(2, 3))
    np.testing.assert_array_equal(there, np.eye(2, 8) == 0)
    # without known boxes nobody is anywhere
    between = replace(nobody, known_xyxy_px=None)
    assert (answer(between, "stdpose", network).score == 0).all()


def test_what_does_not_fit_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write(tmp_path)
    spec = ["--dataset", f"posetrack18:{root}"]
    for options, message in (
        (["--dataset", "synthetic:?clips=1"], "expected a PoseTrack set"),
        ([*spec, "--method", "network"], "needs a network: --net"),
        ([*spec, "--table", "stdpose.1.18", "--row", "nosuch"], "has no row"),
        ([*spec, "--net", "stdpose_vitl", "--net-option", "x"], "expected NAME=VALUE"),
        ([*spec, "--interval", "-1"], "expected a length and an interval"),
    ):
        assert propagate_dataset.command(propagate_dataset.main, options) == 1
        assert message in capsys.readouterr().err


def test_how_far_a_label_reaches_is_an_option(tmp_path: Path) -> None:
    root = write(tmp_path)
    clip = parse_spec(f"posetrack18:{root}").clips[0]  # type: ignore[attr-defined]
    run, video = sparse_video(clip, 5, known_boxes=False)
    assert np.flatnonzero(video.labelled).tolist() == [0, 5]  # 6 and 7 have a label before only
    near, far = (
        propagate_dataset.Propagated(run, video, answer(video, "copy", None, n), reach=n)
        for n in (1, 9)
    )
    known = [np.isfinite(p.found.xy_px).all(axis=(2, 3)).all(axis=0).tolist() for p in (near, far)]
    assert known[1] == [True] * 8
    assert known[0] == [True] * 7 + [False]
