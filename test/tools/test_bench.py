"""The bench: how variants are compared, what grows, and the refiner's rows."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from pose_ros.core.values import PoseResult, Poses2D, Tracks, TrackState
from pose_ros.core.video import VideoWriter
from pose_ros.nets.checkpoint import list_cards
from pose_ros.tools import bench
from pose_ros.tools.bench_memory import slope
from pose_ros.tools.bench_nets import medians, on_paper
from pose_ros.tools.bench_pipeline import WARM_UP_FRAMES, agreement, stage_medians

WALKER = Path(__file__).parents[1] / "data" / "walker.jpg"


def people(*offsets_px: float, joints: int = 4, score: float = 0.9) -> PoseResult:
    """People 200 px tall, 300 px apart, whose joints are ``offsets_px`` off to the right."""
    count = len(offsets_px)
    ids, left = np.arange(count), 300.0 * np.arange(count)
    boxes = np.stack([left, 0 * left, left + 80, 0 * left + 200], 1).astype(np.float32)
    xy_px = np.zeros((count, joints, 2), np.float32)
    xy_px[..., 0] = (left + np.array(offsets_px))[:, None]
    known = np.isfinite(xy_px).all(-1)
    state = np.full(count, TrackState.TRACKED, np.int8)
    tracks = Tracks(ids, state, boxes, np.ones(count, np.float32), ids)
    poses = Poses2D(ids, xy_px, np.where(known, score, 0.0).astype(np.float32))
    return PoseResult(0, "", (1920, 1080), tracks, poses, detected=False)


def run(*results: PoseResult) -> dict[int, PoseResult]:
    """A run whose first frames, which do not count, say nothing."""
    return dict(enumerate([*(people() for _ in range(WARM_UP_FRAMES)), *results]))


def test_agreement_by_hand() -> None:
    first = run(people(0, 0), people(0, 0))
    assert agreement(first, first) == 1.0
    # 5 % of 200 px are 10 px: a person 9 px off agrees, one 11 px off does not
    assert agreement(first, run(people(9, 0), people(11, 0))) == 0.75
    assert agreement(first, run(people(0), people(0, 0))) == 0.75  # one person is not there
    assert agreement(first, run(people(0, np.nan), people(0, 0))) == 0.75
    swapped = people(300, -300)  # the same places under each other's id
    assert agreement(first, run(swapped, people(0, 0))) == 1.0
    assert agreement(first, run(people(0, 0))) == 1.0  # a frame not answered yet is left out
    assert agreement(run(people(0, score=0.2)), first) is None  # nothing is sure
    assert agreement(run(people(np.nan, 0)), run(people(0, 0))) == 1.0


def test_medians_are_of_the_frames_in_which_a_stage_ran() -> None:
    stages = [{"a": 1.0}, {"a": 3.0, "lift": 5.0}, {"a": 2.0, "lift": 7.0}]
    assert stage_medians(stages) == {"a": 2.0, "lift": 6.0}


def test_a_slope_is_per_thousand_frames() -> None:
    assert slope([(0, 10.0), (500, 11.0), (1000, 12.0)]) == 2.0
    assert slope([(100, 10.0)]) == 0.0


def test_slow_variants_run_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    calls = {"fast": 0, "slow": 0}

    def call(name: str, seconds: float) -> None:
        nonlocal now
        calls[name] += 1
        now += seconds

    monkeypatch.setattr("time.perf_counter", lambda: now)
    both = {"fast": lambda: call("fast", 0.001), "slow": lambda: call("slow", 2.0)}
    assert medians(both) == {"fast": 1.0, "slow": 2000.0}
    assert calls == {"fast": 4, "slow": 4}  # one to warm up, and no more than it takes
    assert medians({"fast": both["fast"]}) == {"fast": 1.0} and calls["fast"] == 4 + 31


def test_metres_and_angles_are_measured_with_a_field_of_view(tmp_path: Path) -> None:
    path = tmp_path / "walk.mp4"
    with VideoWriter(path, 20.0) as out:
        for _ in range(18):
            out.write(cv2.imread(str(WALKER))[..., ::-1].copy())
    argv = ["pipeline", "--video", str(path), "--frames", "8", "--camera-fov", "60"]
    argv += ["--net", "movenet_lightning", "--device", "cpu", "--variant", "detect.interval=1"]
    first, other = bench.main([*argv, "--variant", "detect.interval=4"])["rows"]
    assert {"lift", "angles", "refine"} <= set(first["stages"])
    assert first["agreement"] == 1.0 and other["agreement"] > 0.9  # a still picture
    assert first["people"] == {"mean": 1.0, "max": 1}


def test_the_refiner_is_compared_on_bodies_that_are_made() -> None:
    rows = bench.main(["refine", "--people", "2", "--seconds", "3"])["rows"]
    assert [row["method"] for row in rows] == ["raw", "one_euro", "kalman", "aprs"]
    wanted = {"visible_mm", "occluded_mm", "jitter", "bone_cv", "lag_frames", "ms", "people"}
    assert all(wanted <= set(row) and row["people"] == 2 for row in rows)
    raw, aprs = rows[0], rows[-1]
    assert aprs["visible_mm"] < raw["visible_mm"] and aprs["bone_cv"] < 0.1 * raw["bone_cv"]
    assert aprs["ms"] > 0 and raw["ms"] is None


def test_refine_takes_mocap(tmp_path: Path) -> None:
    names = ("pelvis", "neck", "head_end", *(
        f"{side}_{part}" for side in ("left", "right")
        for part in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
    ))  # fmt: skip
    place = {"pelvis": 900, "neck": 1400, "head_end": 1700, "shoulder": 1400, "elbow": 1150,
             "wrist": 900, "hip": 900, "knee": 500, "ankle": 80}  # fmt: skip
    still = np.zeros((90, len(names), 3), np.int16)
    for at, name in enumerate(names):
        side, _, part = name.rpartition("_")
        x = 200 if side == "left" else -200 if side == "right" else 0
        still[:, at] = (x, place[name if name in place else part], 0)  # y up, mm
    delta = np.diff(still, axis=0, prepend=np.zeros_like(still[:1]))
    np.savez(
        tmp_path / "m.npz", names=np.array(names), xyz_mm_delta=delta, start=np.array([0, 90]),
        clips=np.array(["still"]), fps=30.0,
    )  # fmt: skip
    argv = ["refine", "--people", "3", "--seconds", "2.5", "--mocap", str(tmp_path)]
    rows = bench.main(argv)["rows"]
    assert rows[-1]["method"] == "aprs" and rows[-1]["visible_mm"] < rows[0]["visible_mm"]


def test_nobody_cannot_be_measured(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bench.main(["nets", "--people", "0"])
    assert "--people: expected at least 1, got 0" in capsys.readouterr().err


def test_cards_tell_what_their_networks_cost() -> None:
    cards = [card for card in list_cards() if card.kind == "pose"]
    assert len(cards) >= 12
    for card in cards:
        facts = on_paper(card)
        told = (card.params_m, card.gmacs, card.gmacs_cached)
        assert told == (facts["params_m"], facts["gmacs"], facts["gmacs_cached"]), card.name
