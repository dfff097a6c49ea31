"""Refinement inside the loss: nothing to refine costs nothing, and gradients are right."""

from __future__ import annotations

import dots
import numpy as np
import torch

from pose_ros.core.skeletons import COCO17
from pose_ros.training.aprs_loss import bone_lengths, refined
from pose_ros.training.targets import gaussians

SIZE = (64, 48)
LEFT_WRIST, LEFT_ELBOW = COCO17.joints.index("left_wrist"), COCO17.joints.index("left_elbow")


def person(frames: int = 4, people: int = 2) -> torch.Tensor:
    """(B, T, 17, 2) cells of people who walk evenly."""
    rng = np.random.default_rng(0)
    base = np.stack([dots.joints_at(rng) * (0.55, 0.7) for _ in range(people)])
    steps = np.arange(frames)[None, :, None, None] * np.array([0.4, 0.1])
    return torch.from_numpy(base[:, None] + steps).float()


def cost(
    cells: torch.Tensor, truth: torch.Tensor, visible: torch.Tensor | None = None, steps: int = 3
) -> tuple[torch.Tensor, torch.Tensor]:
    seen = torch.ones(truth.shape[:3]) if visible is None else visible
    maps = gaussians(cells, SIZE, 2.0)
    return refined(maps, truth, seen, COCO17, steps, torch.ones(len(truth)))


def test_joints_as_they_are_labelled_cost_nothing() -> None:
    truth = person()
    energy, distance = cost(truth, truth)
    assert float(energy) < 1e-5
    assert float(distance) < 1e-4


def test_a_bone_that_is_too_long_costs_and_a_shorter_one_does_not() -> None:
    truth = person()
    away = truth[:, :, LEFT_WRIST] - truth[:, :, LEFT_ELBOW]
    away = 1.5 * away / away.norm(dim=-1, keepdim=True)
    longer, shorter = truth.clone(), truth.clone()
    longer[:, :, LEFT_WRIST] += away
    shorter[:, :, LEFT_WRIST] -= away
    still, _ = cost(truth, truth)
    assert float(cost(longer, truth)[0]) > float(still) + 1e-4
    assert float(cost(shorter, truth)[0]) < float(still) + 1e-5  # it may point at the camera
    assert float(cost(longer, truth)[1]) > 10 * float(cost(truth, truth)[1])


def test_the_distance_to_labels_that_count_half_is_half() -> None:
    truth = person()
    cells = truth + 0.8
    whole = cost(cells, truth)
    half = cost(cells, truth, torch.full(truth.shape[:3], 0.5))
    torch.testing.assert_close(half[1], whole[1] / 2)
    assert float(half[1]) > 1e-4


def test_jumping_back_and_forth_costs() -> None:
    truth = person(5)
    shaken = truth.clone()
    shaken[:, 1::2, :, 1] += 1.0
    assert float(cost(shaken, truth)[0]) > float(cost(truth, truth)[0]) + 1e-3


def test_the_gradient_is_the_slope() -> None:
    torch.manual_seed(0)
    truth = person()
    maps = gaussians(truth + 0.8 * torch.randn_like(truth), SIZE, 2.0)
    seen, shake = torch.ones(truth.shape[:3]), torch.ones(len(truth))

    def energy(m: torch.Tensor) -> torch.Tensor:
        return refined(m, truth, seen, COCO17, 2, shake)[0]

    maps.requires_grad_(True)
    (gradient,) = torch.autograd.grad(energy(maps), maps)
    assert gradient.isfinite().all()
    direction = gradient / gradient.norm()
    with torch.no_grad():
        slope = (energy(maps + 0.02 * direction) - energy(maps - 0.02 * direction)) / 0.04
    torch.testing.assert_close(slope, gradient.norm(), rtol=0.05, atol=0.0)


def test_what_nobody_labelled_costs_nothing_and_has_no_gradient() -> None:
    truth = person()
    seen = torch.ones(truth.shape[:3])
    seen[:, :, LEFT_WRIST] = 0
    seen[0] = 0
    wild = truth.clone()
    wild[:, :, LEFT_WRIST] = 5.0
    maps = gaussians(wild, SIZE, 2.0).requires_grad_(True)
    energy, distance = refined(maps, truth, seen, COCO17, 3, torch.ones(2))
    (gradient,) = torch.autograd.grad(energy + distance, maps)
    assert gradient.isfinite().all()
    assert float(gradient[:, :, LEFT_WRIST].abs().max()) == 0.0
    assert float(gradient[0].abs().max()) == 0.0
    assert float(gradient[1].abs().max()) > 0.0


def test_a_single_frame_has_nothing_to_refine() -> None:
    truth = person(1)
    energy, distance = cost(truth, truth)
    assert float(energy) == float(distance) == 0.0


def test_bones_are_as_long_as_they_ever_look() -> None:
    truth = person(3)
    truth[:, 1, LEFT_WRIST] = truth[:, 1, LEFT_ELBOW] + torch.tensor([30.0, 40.0])
    known = torch.ones(truth.shape[:3], dtype=torch.bool)
    bone = [set(edge) for edge in COCO17.edges].index({"left_wrist", "left_elbow"})
    assert torch.allclose(bone_lengths(truth, known, COCO17)[:, bone], torch.tensor(50.0))
    known[:, :, LEFT_WRIST] = False
    assert bone_lengths(truth, known, COCO17)[:, bone].isnan().all()
