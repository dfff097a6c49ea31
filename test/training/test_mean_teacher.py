"""The averaged weights teach: they see the clean window, the learner the disturbed one."""

from __future__ import annotations

import copy
from pathlib import Path

import dots
import pytest
import torch
from torch.utils.data import default_collate

from pose_ros.errors import ConfigError
from pose_ros.training import checkpoints
from pose_ros.training.config import TrainConfig
from pose_ros.training.features import store
from pose_ros.training.objectives import Trainee, backbone_features
from pose_ros.training.train import make_net, run, window_config
from pose_ros.training.windows import WindowDataset

#: A ViT without batch norm and dropout: training and evaluation answer alike.
PLAIN = {"backbone": "vit_tiny", "size_hw_px": [64, 48], "joints": 17, "head": "simple"}
RULES = {
    "loss__mean_teacher": 1.0, "loss__teacher_min": 0.0, "train__ema": 0.9,
    "augment__degrade_p": 1.0, "augment__degrade_kinds": ["lowlight"],
}  # fmt: skip


def config(**changes: object) -> TrainConfig:
    return dots.config(PLAIN, net__name="vitpose_s", **(RULES | changes))


def windows(wanted: TrainConfig, count: int = 4) -> tuple[Trainee, WindowDataset]:
    trainee = Trainee(make_net(wanted), wanted)
    shape = window_config(wanted, trainee.net, augmented=True)
    return trainee, WindowDataset(dots.Dots(count, dots.WindowSpec(**shape.asked)), shape)


def test_a_teacher_of_the_same_weights_and_pictures_is_agreed_with() -> None:
    trainee, data = windows(config())
    batch = default_collate([data[(0, i)] for i in range(4)])
    assert batch["clean"].float().mean() > batch["frames"].float().mean() + 5  # it was darkened
    trainee.follow(copy.deepcopy(trainee.net).eval())
    trainee.train()
    dark = trainee(batch)
    assert float(dark["teacher"].detach()) > 0
    assert float(dark["total"]) == pytest.approx(float(dark["heatmap"] + dark["teacher"]))
    bright = trainee({**batch, "frames": batch["clean"]})
    assert float(bright["teacher"]) < 1e-12
    trainee.eval()
    assert "teacher" not in trainee(batch)  # validation judges by the labels


def test_the_clean_window_is_the_one_that_was_disturbed() -> None:
    plain = {"loss__mean_teacher": 0.0, "augment__degrade_p": 0.0}
    _, disturbed = windows(config(augment__occluder_p=1.0))
    _, data = windows(config(**plain))
    assert torch.equal(disturbed[(3, 1)]["clean"], data[(3, 1)]["frames"])
    assert not torch.equal(disturbed[(3, 1)]["frames"], data[(3, 1)]["frames"])


def test_windows_without_labels_teach_and_unsure_teachers_do_not() -> None:
    trainee, data = windows(config())
    batch = default_collate([data[(0, i)] for i in range(4)])
    batch["visible"] = torch.zeros_like(batch["visible"])
    trainee.follow(copy.deepcopy(trainee.net).eval())
    trainee.train()
    terms = trainee(batch)
    assert float(terms["heatmap"]) == 0.0
    terms["total"].backward()
    assert sum(float(p.grad.abs().sum()) for p in trainee.parameters() if p.grad is not None) > 0
    assert all(p.grad is None for p in trainee._teacher[0].parameters())
    unsure, _ = windows(config(loss__teacher_min=0.3))
    silent = copy.deepcopy(unsure.net).eval()
    for parameter in silent.get_submodule("head").parameters():
        torch.nn.init.zeros_(parameter)
    unsure.follow(silent)
    assert float(unsure.train()(batch)["teacher"].detach()) == 0.0


def test_a_run_with_a_teacher_continues_to_the_bit(tmp_path: Path) -> None:
    def train(folder: str, **changes: object) -> dict[str, dict[str, torch.Tensor]]:
        run(config(out=str(tmp_path / folder), train__epochs=2, **changes))
        return checkpoints.load(tmp_path / folder / "last.ckpt")

    whole = train("whole")
    train("parts", train__max_steps=2)
    parts = train("parts", resume="must")
    for part in ("model", "net"):
        assert set(whole[part]) == set(parts[part])
        assert all(torch.equal(t, parts[part][n]) for n, t in whole[part].items())
    assert not [n for n in whole["model"] if "teacher" in n]  # it is the average, kept once
    place = "backbone.pos_embed"
    assert not torch.equal(whole["model"][f"net.{place}"], whole["net"][place])
    alone = train("alone", loss__mean_teacher=0.0)
    assert not torch.equal(alone["net"][place], whole["net"][place])  # it mattered


def test_clean_features_are_stored_beside_the_others(tmp_path: Path) -> None:
    trainee, data = windows(config(net__freeze=True, cache__variants=2), 3)
    stored = store(data, trainee.eval(), tmp_path, 2, torch.device("cpu"))
    item = stored[(0, 2)]
    first = next(e for e in range(2) if torch.equal(data[(e, 2)]["cells"], item["cells"]))
    clean = data[(first, 2)]["clean"].float()
    (wanted,) = backbone_features(trainee.net, (clean - trainee.mean) / trainee.std)
    torch.testing.assert_close(item["clean0"].float(), wanted, rtol=2e-3, atol=2e-3)
    assert not torch.allclose(item["clean0"], item["feature0"])


@pytest.mark.parametrize("broken", [{"train__ema": 0.0}, {"augment__degrade_p": 0.0}])
def test_a_teacher_who_sees_nothing_else_is_refused(broken: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"loss\.mean_teacher: expected train\.ema > 0"):
        config(**broken)
