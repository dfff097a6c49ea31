"""NanoDet against its published graph, and the properties every detector has."""

from pathlib import Path

import numpy as np
import pytest
import torch
from picture import drawn_person

from pose_ros.errors import ConfigError, ShapeError
from pose_ros.nets.checkpoint import find_card, load_net
from pose_ros.nets.nanodet import Detections, NanoDet
from pose_ros.nets.registry import build_net

REFERENCE = Path(__file__).parents[1] / "data" / "nanodet_reference.npz"  # its README says how


def run(net: NanoDet, rgb: np.ndarray) -> Detections:
    mean, std = np.array([103.53, 116.28, 123.675]), np.array([57.375, 57.12, 58.395])
    x = ((rgb[..., ::-1] - mean) / std).transpose(2, 0, 1)[None].astype(np.float32)
    with torch.no_grad():
        return net(torch.from_numpy(np.ascontiguousarray(x)))


@pytest.fixture(scope="module")
def net() -> NanoDet:
    return load_net(find_card("nanodet_g"))


@pytest.mark.parametrize("which", ["drawn", "walker"])
def test_same_picture_same_numbers_as_the_published_graph(
    net: NanoDet, which: str, walker: np.ndarray
) -> None:
    rgb = (
        drawn_person(416)
        if which == "drawn"
        else np.pad(walker, ((0, 56), (0, 0), (0, 0)))[:, 94:510]
    )
    boxes, scores = (out[0].numpy() for out in run(net, rgb))
    wanted = {
        key.split(".")[1]: value
        for key, value in np.load(REFERENCE).items()
        if key.startswith(which)
    }
    # A JPEG may decode to values that differ by one between libraries; a drawn picture may not.
    box_atol, score_atol = (2e-3, 1e-5) if which == "drawn" else (2.0, 2e-2)
    np.testing.assert_allclose(scores[::7], wanted["scores"], atol=score_atol)
    np.testing.assert_allclose(boxes[::7], wanted["boxes"], atol=box_atol)
    np.testing.assert_allclose(boxes[scores.argmax()], wanted["best_box"], atol=box_atol)
    np.testing.assert_allclose(scores.max(), wanted["best_score"], atol=score_atol)


def test_a_wide_picture_is_seen_without_stretching(net: NanoDet, walker: np.ndarray) -> None:
    boxes, scores = run(net, walker[4:356])
    assert boxes.shape == (1, 21 * 352 * 640 // 1024, 4)
    best = boxes[0, scores[0].argmax()].numpy()
    # Read off the picture, 4 rows of which were cut.
    np.testing.assert_allclose(best, [260, 178, 346, 331], atol=10)


def test_a_candidate_does_not_depend_on_the_rest_of_the_batch(net: NanoDet) -> None:
    a, b = torch.rand(1, 3, 96, 128), torch.rand(1, 3, 96, 128)
    with torch.no_grad():
        alone, together = net(a), net(torch.cat((b, a)))
    torch.testing.assert_close(alone.boxes[0], together.boxes[1], atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(alone.scores[0], together.scores[1], atol=1e-4, rtol=1e-4)


def test_an_empty_batch_is_an_empty_answer(net: NanoDet) -> None:
    with torch.no_grad():
        boxes, scores = net(torch.zeros(0, 3, 64, 96))
    assert boxes.shape == (0, 126, 4) and scores.shape == (0, 126)


def test_every_parameter_has_a_gradient() -> None:
    fresh = build_net("nanodet_g")
    boxes, scores = fresh(torch.rand(1, 3, 64, 64))
    (boxes.mean() + scores.mean()).backward()
    assert not [key for key, value in fresh.named_parameters() if value.grad is None]


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 1, 64, 64), (1, 3, 64, 60)])
def test_other_shapes_are_refused(net: NanoDet, shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match=r"wants \(B, 3, h, w\) with h, w multiples of 32, got"):
        net(torch.zeros(shape))


def test_a_misspelt_option_is_refused() -> None:
    with pytest.raises(ConfigError, match="chanels"):
        build_net("nanodet_g", chanels=16)
