import itertools

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from transforms3d.euler import euler2mat

from pose_ros.core.chains import SINGULAR, Chains, compose, decompose, wrap

WIDE = ((-np.pi,) * 3, (np.pi,) * 3)
ORDERS = ["".join(o) for o in itertools.product("xyz", repeat=3) if o[0] != o[1] != o[2]]


def chain(order: str, sign: tuple[int, int, int] = (1, 1, 1)) -> Chains:
    return Chains.of((order, sign, *WIDE))


def unknown(rows: int) -> np.ndarray:
    return np.full((rows, 1, 3), np.nan)


@pytest.mark.parametrize("order", ORDERS)
def test_compose_is_what_scipy_and_transforms3d_call_rotating_axes(order: str) -> None:
    angle = np.random.default_rng(1).uniform(-3, 3, (20, 1, 3))
    ours = compose(chain(order), angle)[:, 0]
    scipys = Rotation.from_euler(order.upper(), angle[:, 0]).as_matrix()
    np.testing.assert_allclose(ours, scipys, atol=1e-12)
    np.testing.assert_allclose(ours[0], euler2mat(*angle[0, 0], axes="r" + order), atol=1e-12)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("sign", [(1, 1, 1), (-1, 1, -1), (1, -1, -1)])
def test_decompose_undoes_compose(order: str, sign: tuple[int, int, int]) -> None:
    rotation = Rotation.random(200, random_state=2).as_matrix()[:, None]
    angle, singular = decompose(chain(order, sign), rotation, unknown(200))
    assert not singular.any()
    np.testing.assert_allclose(compose(chain(order, sign), angle), rotation, atol=1e-9)


def test_the_branch_follows_the_reference() -> None:
    zxz = chain("zxz")
    angle = np.array([[[1.0, -0.8, 0.5]]])  # scipy and we would say (1 - pi, 0.8, 0.5 - pi)
    rotation = compose(zxz, angle)
    np.testing.assert_allclose(decompose(zxz, rotation, angle + 0.1)[0], angle, atol=1e-12)
    np.testing.assert_allclose(
        decompose(zxz, rotation, angle + np.array([np.pi, 1.6, np.pi]))[0],
        [[[1 - np.pi, 0.8, 0.5 - np.pi]]],
        atol=1e-12,
    )


@pytest.mark.parametrize(
    ("lower", "upper", "inside"),
    [
        ((-1, -1, -1), (1.9, 0.1, 1), (1.0, -0.8, 0.5)),
        ((0, -1, 0), (3, 1, 3), (2.5, -0.3, 2.6)),  # the other, (-0.6, 0.3, -0.5), is smaller
    ],
)
def test_the_branch_within_the_range_wins_without_a_reference(
    lower: tuple[float, ...], upper: tuple[float, ...], inside: tuple[float, ...]
) -> None:
    narrow = Chains.of(("zxz", (1, 1, 1), lower, upper))
    angle = np.array([[inside]])
    np.testing.assert_allclose(decompose(narrow, compose(narrow, angle), unknown(1))[0], angle)


def test_angles_are_unwrapped_around_the_middle_of_the_range() -> None:
    shoulder = Chains.of(("zxz", (1, 1, 1), (-1, -0.4, -1), (1, 3.4, 1)))
    angle = np.array([[[0.1, 3.3, 0.2]]])  # 3.3 > pi stays 3.3
    np.testing.assert_allclose(decompose(shoulder, compose(shoulder, angle), unknown(1))[0], angle)


@pytest.mark.parametrize(
    ("order", "middle"), [("zxz", 0.0), ("zxy", np.pi / 2), ("yxz", -np.pi / 2)]
)
def test_parallel_axes_hold_the_first_angle_and_keep_the_rotation(
    order: str, middle: float
) -> None:
    rotation = compose(chain(order), np.array([[[0.3, middle, 0.4]]]))
    held = np.array([[[0.9, middle, 0.0]]])
    for reference, first in ((held, 0.9), (unknown(1), 0.0)):
        angle, singular = decompose(chain(order), rotation, reference)
        assert singular.all()
        assert angle[0, 0, 0] == pytest.approx(first)
        np.testing.assert_allclose(compose(chain(order), angle), rotation, atol=2 * SINGULAR)


def test_one_row_decides_for_those_that_go_with_it() -> None:
    zxz = chain("zxz")
    base = np.array([1.0, -0.8, 0.5])
    angle = (base + 1e-3 * np.arange(6)[:, None])[:, None]
    reference = np.repeat(angle[:1], 6, axis=0)
    reference[1:] += [np.pi, 1.6, np.pi]  # would ask for the other branch
    got, _ = decompose(zxz, compose(zxz, angle), reference, together=6)
    np.testing.assert_allclose(got, angle, atol=1e-12)


def test_nobody_and_nothing_known() -> None:
    empty, singular = decompose(chain("zxy"), np.zeros((0, 1, 3, 3)), np.zeros((0, 1, 3)))
    assert empty.shape == (0, 1, 3)
    assert singular.shape == (0, 1)
    lost, singular = decompose(chain("zxy"), np.full((1, 1, 3, 3), np.nan), unknown(1))
    assert np.isnan(lost).all()
    assert not singular.any()


def test_wrap() -> None:
    np.testing.assert_allclose(
        wrap(np.array([4.0, -4.0, 0.5])), [4 - 2 * np.pi, 2 * np.pi - 4, 0.5]
    )
