"""One-camera lifting with a network that knows the truth: place, scale, covariance, windows."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from pose_ros.core.camera import PinholeCamera
from pose_ros.core.lift_mono import ABSENT, STATURE_M, STATURE_STD, History, MonocularLifter
from pose_ros.core.lift_mono_view import FEATURES, FRAMES, look_at_people, place_bodies
from pose_ros.core.skeletons import COCO17
from pose_ros.core.values import Frame, KeypointStatus, Poses2D, Poses3D, ScaleSource
from pose_ros.errors import ConfigError, ShapeError

CAMERA = PinholeCamera(1280, 720, 800.0, 810.0, 630.0, 370.0, (-0.12, 0.05, 0.001, -0.001, 0.0))
HIPS = [COCO17.index("left_hip"), COCO17.index("right_hip")]
AT = {name: i for i, name in enumerate(COCO17.joints)}
# A person of 1.70 m who faces the camera with one arm ahead; x right, y down, z away, metres.
BODY = np.array(
    [
        [0.0, -0.62, -0.12], [0.03, -0.65, -0.1], [-0.03, -0.65, -0.1], [0.08, -0.63, 0.0],
        [-0.08, -0.63, 0.0], [0.19, -0.47, 0.0], [-0.19, -0.47, 0.02], [0.25, -0.2, -0.05],
        [-0.25, -0.3, -0.25], [0.24, 0.05, -0.1], [-0.2, -0.4, -0.45], [0.1, 0.0, 0.0],
        [-0.1, 0.0, 0.0], [0.12, 0.4, -0.1], [-0.11, 0.41, 0.03], [0.12, 0.8, 0.0],
        [-0.12, 0.82, 0.1],
    ]
)  # fmt: skip
BLANK = np.zeros((1, 1, 3), np.uint8)


class Oracle:
    """A network that knows every body; it finds the view in the features' last columns."""

    def __init__(self, bodies: npt.NDArray[np.float64], spread: float = 0.01) -> None:
        self.bodies = bodies  # (P, 17, 3) in the camera, statures
        self.spread = np.full((len(bodies), 17, 2), spread)
        self.seen: list[npt.NDArray[np.float32]] = []

    def __call__(
        self, windows: npt.NDArray[np.float32]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        assert windows.shape[1:] == (FRAMES, FEATURES) and windows.dtype == np.float32
        assert np.isfinite(windows).all()
        self.seen.append(windows)
        answers = []
        for body, window in zip(self.bodies, windows, strict=True):
            x, y = window[-1, 52:54].astype(np.float64)
            z_axis = np.array([x, y, 1.0]) / np.linalg.norm([x, y, 1.0])
            x_axis = np.array([z_axis[2], 0.0, -z_axis[0]]) / np.hypot(z_axis[0], z_axis[2])
            turn = np.stack([x_axis, np.cross(z_axis, x_axis), z_axis])
            relative = body - body[HIPS].mean(axis=0)
            answers.append(relative @ turn.T)
        return np.array(answers, np.float32), np.log(self.spread).astype(np.float32)


def poses_of(xyz_m: npt.NDArray[np.float64]) -> Poses2D:
    xy = CAMERA.project(xyz_m).astype(np.float32)
    return Poses2D(np.arange(1, len(xy) + 1), xy, np.full(xy.shape[:2], 0.8, np.float32))


def without(poses: Poses2D, person: int, *joints: str) -> Poses2D:
    xy, score = poses.xy_px.copy(), poses.score.copy()
    for joint in joints:
        xy[person, AT[joint]], score[person, AT[joint]] = np.nan, 0.0
    return replace(poses, xy_px=xy, score=score)


def frame(stamp_s: float = 1.0, camera: PinholeCamera | None = CAMERA) -> Frame:
    return Frame(BLANK, round(stamp_s * 1e9), "camera", camera)


PLACES = np.array([[0.3, 0.1, 3.0], [-1.4, 0.5, 2.8], [1.0, -0.4, 6.0]])
PEOPLE = BODY + PLACES[:, None]


def lifted(poses: Poses2D, oracle: Oracle | None = None, **settings: float) -> Poses3D:
    oracle = oracle or Oracle(PEOPLE[: len(poses)] / STATURE_M)
    return MonocularLifter(oracle, **settings).lift(frame(), poses)


def test_true_bodies_come_back_to_where_they_stand() -> None:
    poses = lifted(poses_of(PEOPLE))
    assert np.abs(poses.xyz_m - PEOPLE).max() < 2e-3
    assert (poses.status == KeypointStatus.MEASURED).all()
    assert (poses.scale == ScaleSource.MONO).all()
    assert poses.score == pytest.approx(np.full((3, 17), 0.8))
    assert np.isnan(poses.velocity_m_s).all()


def test_a_wrong_stature_moves_everything_along_the_rays() -> None:
    """A person of 1.87 m taken for 1.70 m: the same picture, ten parts in eleven as far away."""
    tall = BODY * 1.1 + PLACES[:, None]
    poses = lifted(poses_of(tall), Oracle(tall / (1.1 * STATURE_M)))
    assert np.abs(poses.xyz_m * 1.1 - tall).max() < 3e-3
    gap = np.linalg.norm(poses.xyz_m - tall, axis=-1)
    std = np.sqrt(np.linalg.eigvalsh(poses.covariance_m2)[..., 2])
    assert ((gap / std > 1.5) & (gap / std < 2.5)).all()  # 0.1 / 1.1 over 0.05


def test_the_covariance_is_long_along_the_ray_and_short_across() -> None:
    poses = lifted(poses_of(PEOPLE))
    values, vectors = np.linalg.eigh(poses.covariance_m2.astype(np.float64))
    distance = np.linalg.norm(PEOPLE, axis=-1)
    assert (values > 0).all()
    along = np.abs((vectors[..., 2] * PEOPLE).sum(axis=-1)) / distance
    assert along.min() > 0.995
    assert np.sqrt(values[..., 2]) / distance == pytest.approx(STATURE_STD, rel=0.25)
    assert (np.sqrt(values[..., 1]) < 0.25 * np.sqrt(values[..., 2])).all()


def test_given_pixel_deviations_are_those_across_the_ray() -> None:
    exact = poses_of(PEOPLE[:1])
    noisy = replace(exact, std_px=np.full((1, 17), 8.0, np.float32))
    poses = lifted(noisy, stature_std=0.0)
    across = np.sqrt(np.linalg.eigvalsh(poses.covariance_m2[0, AT["left_hip"]])[0])
    assert across == pytest.approx(8.0 / 805.0 * PEOPLE[0, AT["left_hip"], 2], rel=0.1)


@pytest.mark.parametrize("seed", range(3))
def test_measured_joints_reproject_whatever_the_network_says(seed: int) -> None:
    rng = np.random.default_rng(seed)
    poses = poses_of(PEOPLE)
    oracle = Oracle((PEOPLE + rng.normal(0, 0.08, PEOPLE.shape)) / STATURE_M)
    result = lifted(without(poses, 1, "left_wrist", "nose"), oracle)
    gap = np.linalg.norm(CAMERA.project(result.xyz_m) - poses.xy_px, axis=-1)
    measured = result.status == KeypointStatus.MEASURED
    assert measured.sum() == 3 * 17 - 2
    assert gap[measured].max() < 0.1
    assert gap[~measured].min() > 1.0  # these came from the network, which is wrong


def test_joints_that_were_not_seen_are_inferred() -> None:
    legs = ("left_knee", "right_knee", "left_ankle", "right_ankle")
    poses = lifted(without(poses_of(PEOPLE), 2, *legs))
    rows = [AT[name] for name in legs]
    assert (poses.status[2, rows] == KeypointStatus.INFERRED).all()
    assert (poses.status[:2] == KeypointStatus.MEASURED).all()
    assert np.abs(poses.xyz_m - PEOPLE).max() < 3e-3
    assert poses.score[2, rows] == pytest.approx(0.4)


def test_joints_that_the_pose_network_doubts_count_as_not_seen() -> None:
    """A pose network puts the legs of somebody cut at the hips somewhere near the border."""
    legs = [AT[f"{side}_{part}"] for part in ("knee", "ankle") for side in ("left", "right")]
    poses = poses_of(PEOPLE[:1])
    poses.xy_px[0, legs] = poses.xy_px[0, AT["left_hip"]] + [5.0, 20.0]
    poses.score[0, legs] = 0.15
    oracle = Oracle(PEOPLE[:1] / STATURE_M)
    result = lifted(poses, oracle)
    gone = lifted(without(poses, 0, *(COCO17.joints[i] for i in legs)))
    assert (result.status[0, legs] == KeypointStatus.INFERRED).all()
    np.testing.assert_array_equal(result.xyz_m, gone.xyz_m)
    np.testing.assert_array_equal(result.covariance_m2, gone.covariance_m2)
    assert (oracle.seen[0][0, -1, :51].reshape(17, 3)[legs] == 0).all()  # as it was taught
    poses.score[0, AT["left_wrist"]] = np.nan
    assert lifted(poses).status[0, AT["left_wrist"]] == KeypointStatus.INFERRED


def test_what_the_network_only_guesses_is_missing_and_nan() -> None:
    oracle = Oracle(PEOPLE[:1] / STATURE_M)
    oracle.spread[0, AT["left_wrist"]] = 0.3
    poses = lifted(without(poses_of(PEOPLE[:1]), 0, "left_wrist"), oracle)
    wrist = AT["left_wrist"]
    assert poses.status[0, wrist] == KeypointStatus.MISSING
    assert poses.score[0, wrist] == 0.0
    assert np.isnan(poses.xyz_m[0, wrist]).all() and np.isnan(poses.covariance_m2[0, wrist]).all()


@pytest.mark.parametrize(
    "gone",
    [COCO17.joints[5:], ("left_shoulder", "right_shoulder", "left_hip")],
    ids=["only a face", "one joint of the trunk"],
)
def test_too_little_of_a_person_is_unknown(gone: tuple[str, ...]) -> None:
    poses = lifted(without(poses_of(PEOPLE), 1, *gone))
    assert np.isnan(poses.xyz_m[1]).all() and np.isnan(poses.covariance_m2[1]).all()
    assert poses.scale.tolist() == [ScaleSource.MONO, ScaleSource.UNKNOWN, ScaleSource.MONO]
    assert (poses.status[1] == KeypointStatus.MISSING).all() and (poses.score[1] == 0.0).all()
    assert np.abs(poses.xyz_m[[0, 2]] - PEOPLE[[0, 2]]).max() < 2e-3


def test_without_a_camera_or_people_nothing_is_known() -> None:
    lifter = MonocularLifter(Oracle(PEOPLE / STATURE_M))
    blind = lifter.lift(frame(camera=None), poses_of(PEOPLE))
    assert np.isnan(blind.xyz_m).all() and (blind.scale == ScaleSource.UNKNOWN).all()
    nobody = lifter.lift(frame(), Poses2D.empty(17))
    assert nobody.xyz_m.shape == (0, 17, 3)


def test_a_measured_stature_counts_for_one_person() -> None:
    lifter = MonocularLifter(Oracle(PEOPLE / STATURE_M))
    lifter.set_stature(2, 0.5 * STATURE_M, 0.01)
    poses = lifter.lift(frame(), poses_of(PEOPLE))
    halved = PEOPLE.copy()
    halved[1] *= 0.5
    assert np.abs(poses.xyz_m - halved).max() < 3e-3
    relative = np.sqrt(np.trace(poses.covariance_m2, axis1=-2, axis2=-1).mean(axis=1))
    assert relative[1] / np.linalg.norm(halved[1].mean(axis=0)) < 0.04
    lifter.lift(frame(), Poses2D.empty(17))  # ids that are gone do not come back
    again = lifter.lift(frame(), poses_of(PEOPLE))
    assert np.abs(again.xyz_m - PEOPLE).max() < 2e-3


@pytest.mark.parametrize(("stature", "std"), [(0.0, 0.05), (3.0, 0.05), (1.7, -0.1), (1.7, 0.9)])
def test_impossible_statures_are_refused(stature: float, std: float) -> None:
    with pytest.raises(ConfigError, match=r"expected 0\.4 to 2\.6 m"):
        MonocularLifter(Oracle(PEOPLE), stature, std)


def test_another_joint_set_is_refused() -> None:
    with pytest.raises(ShapeError, match="expected 17 joints"):
        MonocularLifter(Oracle(PEOPLE)).lift(frame(), Poses2D.empty(15))


def test_people_do_not_influence_each_other() -> None:
    everybody = lifted(poses_of(PEOPLE))
    for person in range(3):
        alone = lifted(poses_of(PEOPLE[[person]]), Oracle(PEOPLE[[person]] / STATURE_M))
        assert alone.xyz_m[0] == pytest.approx(everybody.xyz_m[person], abs=1e-5)
        assert alone.covariance_m2[0] == pytest.approx(everybody.covariance_m2[person], abs=1e-6)


def test_the_view_is_the_same_wherever_the_camera_looks() -> None:
    """The person on the axis, and after turning the camera by 25 degrees: the same features."""
    angle = np.radians(25)
    turn = np.array(
        [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
    )
    centred = BODY - BODY[[5, 6, 11, 12]].mean(axis=0) + [0.0, 0.0, 3.0]

    def features(points: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
        rays = points[..., :2] / points[..., 2:]
        window = np.broadcast_to(rays, (1, FRAMES, 17, 2))
        return look_at_people(window, np.ones((1, FRAMES, 17)), np.zeros((1, FRAMES))).features

    plain, turned = features(centred), features(centred @ turn.T)
    assert turned[..., :51] == pytest.approx(plain[..., :51], abs=0.02)
    assert np.abs(turned[..., 52:54] - plain[..., 52:54]).max() > 0.4


def test_a_wild_joint_hardly_moves_the_place() -> None:
    rays = PEOPLE[..., :2] / PEOPLE[..., 2:]
    relative = PEOPLE - PLACES[:, None]
    std = np.full((3, 17), 0.02)
    clean = place_bodies(relative, rays, std, std * 0)
    assert clean.translation == pytest.approx(PLACES, abs=1e-4)
    rays[:, AT["left_ankle"]] += 0.3
    robust = place_bodies(relative, rays, std, std * 0)
    assert np.abs(robust.translation - PLACES).max() < 0.12
    rays[:, 1:] = np.nan
    assert np.isnan(place_bodies(relative, rays, std, std * 0).translation).all()


def test_the_placement_is_the_weighted_least_squares_solution() -> None:
    rng = np.random.default_rng(0)
    rays = PEOPLE[0, :, :2] / PEOPLE[0, :, 2:] + rng.normal(0, 0.002, (17, 2))
    body = BODY + rng.normal(0, 0.01, BODY.shape)
    std = rng.uniform(0.3, 0.6, 17)  # wide, so that no joint is an outlier
    rows, right = [], []
    for (u, v), (x, y, z), s in zip(rays, body, std, strict=True):
        rows += [[1 / s, 0, -u / s], [0, 1 / s, -v / s]]
        right += [(u * z - x) / s, (v * z - y) / s]
    expected = np.linalg.lstsq(np.array(rows), np.array(right), rcond=None)[0]
    found = place_bodies(body[None], rays[None], std[None], np.zeros((1, 17)))
    assert found.translation[0] == pytest.approx(expected, abs=1e-4)
    assert found.covariance[0] == pytest.approx(
        np.linalg.inv(np.array(rows).T @ np.array(rows)), rel=1e-3
    )


def push(history: History, stamp_s: float, value: float, gap_s: float = 0.5) -> History:
    rays = np.full((len(history.ids), 17, 2), value)
    score = np.ones((len(history.ids), 17), np.float32)
    return history.pushed(round(stamp_s * 1e9), rays, score, round(gap_s * 1e9))


@pytest.mark.parametrize("start_s", [0.0, 1.7e9])
def test_a_window_keeps_frames_that_lie_apart(start_s: float) -> None:
    history = History.empty(np.array([7]))
    for i in range(40):  # 60 Hz
        history = push(history, start_s + i / 60, float(i))
    kept = history.rays[0, :, 0, 0]
    assert kept.tolist() == [15, 18, 21, 24, 27, 30, 33, 36, 39]
    spacing = np.diff(history.stamp_ns[0]) / 1e9
    assert spacing[:-1] == pytest.approx(0.05, abs=1e-6)


def test_a_gap_empties_the_window_and_blank_frames_carry_no_joints() -> None:
    history = History.empty(np.array([7]))
    for i in range(5):
        history = push(history, 10 + i / 15, 0.1)
    history = push(history, 11.0, 0.3)
    assert (history.stamp_ns[0] > ABSENT).sum() == 1
    assert np.isfinite(history.rays[0, :, 0, 0]).tolist() == [False] * 8 + [True]
    features = history.view().features[0]
    assert (features[:-1, :51] == 0).all() and (np.diff(features[:, 51]) > 0).all()


def test_windows_follow_ids_through_changes_of_order_and_absence() -> None:
    oracle = Oracle(PEOPLE / STATURE_M)
    lifter = MonocularLifter(oracle)
    poses = poses_of(PEOPLE)
    lifter.lift(frame(1.0), poses)
    oracle.bodies = PEOPLE[[2, 0]] / STATURE_M
    oracle.spread = oracle.spread[:2]
    lifter.lift(frame(1.1), poses.select(np.array([2, 0])))
    oracle.bodies, oracle.spread = PEOPLE / STATURE_M, np.full((3, 17, 2), 0.01)
    lifter.lift(frame(1.2), poses)
    first, last = oracle.seen[0], oracle.seen[2]
    # Nobody moved, so every earlier joint of a person lies where the newest one lies.
    for person, frames in ((0, (6, 7)), (1, (7,)), (2, (6, 7))):
        for i in frames:
            assert last[person, i, :51] == pytest.approx(first[person, -1, :51], abs=1e-5)
    assert (last[1, 6, :51] == 0).all()  # was away


def test_a_clock_that_goes_back_starts_anew() -> None:
    oracle = Oracle(PEOPLE / STATURE_M)
    lifter = MonocularLifter(oracle)
    for stamp in (5.0, 5.1, 5.2, 1.0):
        lifter.lift(frame(stamp), poses_of(PEOPLE))
    assert (oracle.seen[2][:, 6:8, :51] != 0).any()
    assert (oracle.seen[3][:, :8, :51] == 0).all()
