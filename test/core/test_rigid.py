"""Bodies in another frame: worked example, round trip, covariance."""

import numpy as np
from scipy.spatial.transform import Rotation

from pose_ros.core.rigid import moved, rotation_of
from pose_ros.core.values import Body, Poses3D


def body(seed: int = 0) -> Body:
    rng = np.random.default_rng(seed)
    poses = Poses3D.unknown(np.array([3, 8]), 17)
    poses.xyz_m[:] = rng.normal(size=(2, 17, 3))
    poses.velocity_m_s[:] = rng.normal(size=(2, 17, 3))
    root = rng.normal(size=(2, 17, 3, 3))
    poses.covariance_m2[:] = root @ root.swapaxes(-1, -2)
    return Body(poses, np.ones((2, 16), np.float32))


def test_a_camera_that_looks_along_x_of_the_robot() -> None:
    # optical z ahead, x right, y down -> robot x ahead, y left, z up; camera 1.5 m above the base
    turn = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])
    told = body()
    told.poses.xyz_m[0, 0] = (0.2, 0.3, 4.0)  # right, below, ahead
    told.poses.velocity_m_s[0, 0] = (0.0, 0.0, -1.0)  # coming
    told.poses.covariance_m2[0, 0] = np.diag([0.01, 0.02, 0.25])
    out = moved(told, turn, np.array([0.1, 0.0, 1.5])).poses
    np.testing.assert_allclose(out.xyz_m[0, 0], (4.1, -0.2, 1.2), atol=1e-6)
    np.testing.assert_allclose(out.velocity_m_s[0, 0], (-1.0, 0.0, 0.0), atol=1e-6)
    np.testing.assert_allclose(out.covariance_m2[0, 0], np.diag([0.25, 0.01, 0.02]), atol=1e-6)


def test_there_and_back_is_the_same_body() -> None:
    turn, shift = Rotation.random(random_state=1).as_matrix(), np.array([0.3, -2.0, 1.0])
    told = body()
    back = moved(moved(told, turn, shift), turn.T, -turn.T @ shift).poses
    np.testing.assert_allclose(back.xyz_m, told.poses.xyz_m, atol=1e-5)
    np.testing.assert_allclose(back.covariance_m2, told.poses.covariance_m2, atol=1e-4)


def test_unknown_stays_unknown_and_the_rest_is_known() -> None:
    told = body()
    told.poses.xyz_m[0, 4] = told.poses.covariance_m2[0, 4] = np.nan
    out = moved(told, np.eye(3), np.ones(3)).poses
    assert np.isnan(out.xyz_m[0, 4]).all() and np.isnan(out.covariance_m2[0, 4]).all()
    assert np.isfinite(np.delete(out.xyz_m, 4, axis=1)).all()


def test_quaternions_turn_as_scipy_s_do() -> None:
    for turn in Rotation.random(20, random_state=2):
        q = 3.0 * turn.as_quat()  # of any length
        np.testing.assert_allclose(rotation_of(*q), turn.as_matrix(), atol=1e-12)
