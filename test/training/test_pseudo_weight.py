"""Labels that a network made count as `loss.pseudo_weight` says, from file to gradient."""

from dataclasses import replace
from pathlib import Path

import dots
import numpy as np
import pytest
import test_propagate as films
import torch
from dots import Dots
from torch.utils.data import default_collate

from pose_ros.core.skeletons import COCO17, POSETRACK17_SLOTS
from pose_ros.core.video import VideoWriter
from pose_ros.errors import ConfigError
from pose_ros.nets.video import PoseOut
from pose_ros.training import losses
from pose_ros.training.consistency import PseudoLabelled
from pose_ros.training.datasets import ClipSample, WindowSpec, parse_spec
from pose_ros.training.datasets.base import ClipDataset
from pose_ros.training.datasets.posetrack_files import _person18
from pose_ros.training.features import store
from pose_ros.training.label_files import DenseLabels, write_labels
from pose_ros.training.objectives import Trainee
from pose_ros.training.targets import gaussians
from pose_ros.training.train import make_net, window_config
from pose_ros.training.windows import Joined, WindowDataset

PLAIN = {"augment__flip_p": 0.0, "augment__scale": 0.0}
HSTPN = {
    "frames": 3, "channels": 8, "size_hw_px": [64, 64], "backbone": "resnet", "base": 4,
    "blocks": [1, 1, 1, 1], "joints": 17,
}  # fmt: skip


class Mixed:
    """Dots of which every second sample was labelled by a network."""

    name, skeleton = "mixed", COCO17

    def __init__(self, clips: int, key: int = 1) -> None:
        self.dots = Dots(clips, WindowSpec(3, key))

    def __len__(self) -> int:
        return len(self.dots)

    def __getitem__(self, index: int) -> ClipSample:
        sample = self.dots[index]
        return replace(sample, pseudo=np.ones(3, np.bool_)) if index % 2 else sample


class Checked(Mixed):
    """The same labels after somebody looked at them: nothing in them is a network's any more."""

    def __getitem__(self, index: int) -> ClipSample:
        return self.dots[index]


def gradient(
    clips: ClipDataset, weight: float, hstpn: bool = False, drop: bool = False
) -> torch.Tensor:
    """Flat gradient of a network on all windows of `Mixed`; ``drop`` hides the pseudo labels."""
    changes = {**PLAIN, "loss__pseudo_weight": weight}
    config = dots.config(HSTPN if hstpn else None, **changes, **(
        {"net__name": "hstpn_r50"} if hstpn else {}
    ))  # fmt: skip
    net = make_net(config)
    # batch norms as they are: windows do not mix; but HSTPN has all frames' maps in training only
    trainee = Trainee(net, config).train(hstpn)
    windows = WindowDataset(Joined([clips], COCO17), window_config(config, net, augmented=True))
    batch = default_collate([windows[0, i] for i in range(len(windows))])
    assert ("pseudo" in batch) == (weight != 1.0)
    if drop:
        batch["visible"] = batch["visible"] * torch.tensor([1.0, 0.0, 1.0, 0.0])[:, None, None]
    trainee(batch)["total"].backward()
    parts = [p.grad.flatten() for p in net.parameters() if p.grad is not None]
    return torch.cat(parts).double()


def test_the_gradient_of_a_pseudo_label_is_its_weight() -> None:
    both, none = gradient(Mixed(4), 1.0), gradient(Mixed(4), 1.0, drop=True)
    of_pseudo = both - none
    assert of_pseudo.norm() > 0.05 * none.norm()  # they do say something
    for weight in (0.0, 0.25, 2.0):
        found = gradient(Mixed(4), weight)
        torch.testing.assert_close(found, none + weight * of_pseudo, atol=1e-7, rtol=1e-4)


def test_in_every_term_of_hstpn_too() -> None:
    """Its loss is over all frames, with steps between them: linear in the weight as well."""
    low, middle, high = (gradient(Mixed(4, 2), w, hstpn=True) for w in (0.25, 0.5, 0.75))
    assert (high - low).norm() > 0.05 * low.norm()
    # float32 through batch norms: 5e-5
    assert (middle - (low + high) / 2).norm() < 1e-3 * middle.norm()


@pytest.mark.parametrize("name", ["vremd_vitl", "stdpose_vitl"])
def test_in_every_term_that_labels_decide(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """VREMD's branches, STDPose's initial head and its information but for the redundancy."""
    monkeypatch.setattr(losses, "redundancy", lambda _known, learned: learned.new_zeros(()))
    options = {"backbone": "vit_tiny", "size_hw_px": [64, 48], "joints": 17, "head_channels": 16}
    changes = {"loss__pseudo_weight": 0.25, "loss__vremd_branches": 0.5, "net__name": name}
    config = dots.config(options, **PLAIN, **changes)
    net = make_net(config)
    trainee = Trainee(net, config).eval()
    windows = WindowDataset(Joined([Mixed(2)], COCO17), window_config(config, net, augmented=True))
    batch = default_collate([windows[0, i] for i in range(len(windows))])
    with torch.no_grad():
        said, made = (
            trainee({**batch, "pseudo": torch.full((2, 3), share)}) for share in (0.0, 1.0)
        )
    terms = {"vremd_vitl": {"heatmaps_tokens", "heatmaps_motion"},
             "stdpose_vitl": {"initial", "information"}}[name] | {"heatmap", "total"}  # fmt: skip
    for term in terms:
        torch.testing.assert_close(made[term], 0.25 * said[term], atol=1e-9, rtol=1e-4)
        assert said[term] != 0.0, term


def test_in_the_terms_of_refinement_but_for_its_energy() -> None:
    """Eq 32's energy is what refining leaves of the network's own joints, no label's error."""
    changes = {"loss__pseudo_weight": 0.25, "loss__aprs": 0.01, "net__name": "hstpn_r50"}
    config = dots.config(HSTPN, **PLAIN, **changes)
    net = make_net(config)
    trainee = Trainee(net, config)
    clips = Joined([Mixed(2, 2)], COCO17)
    windows = WindowDataset(clips, window_config(config, net, augmented=True))
    batch = default_collate([windows[0, i] for i in range(len(windows))])
    torch.manual_seed(0)
    off = batch["cells"] + 0.5 * torch.randn_like(batch["cells"])
    maps = gaussians(off, trainee.size_hw, config.crop.sigma)
    out = PoseOut(maps[:, -1], {"window_heatmaps": maps})
    said, made = (
        trainee.objective(out, {**batch, "pseudo": torch.full((2, 3), share)})
        for share in (0.0, 1.0)
    )
    for term in ("heatmap", "temporal", "motion", "aprs_truth"):
        torch.testing.assert_close(made[term], 0.25 * said[term], atol=1e-9, rtol=1e-4)
        assert said[term] > 0.0, term
    torch.testing.assert_close(made["aprs"], said["aprs"])


def test_weighted_terms_by_hand() -> None:
    maps, target = torch.ones(1, 2, 2, 2), torch.zeros(1, 2, 2, 2)
    # joints of weight 1 and 0.5 with squared error 1 everywhere: the mean is 0.75
    assert losses.joint_mse(maps, target, torch.tensor([[1.0, 0.5]])).item() == 0.75
    assert losses.joint_mse(maps, target, torch.tensor([[True, False]])).item() == 0.5
    xy = torch.tensor([[[[0.0, 0.0]], [[3.0, 4.0]], [[3.0, 5.0]]]])  # steps of 5 and 1
    weights = torch.tensor([[[1.0], [0.5], [0.25]]])
    assert losses.temporal(xy, weights).item() == pytest.approx((0.5 * 25 + 0.25 * 1) / 2)
    read = torch.zeros(1, 1, 4, 4)
    told = torch.eye(4)[None, None]
    whole = losses.relevance(read, told, torch.ones(1, 1))
    assert losses.relevance(read, told, torch.full((1, 1), 0.5)) == whole / 2


def dense(folder: Path) -> Path:
    """A film of 13 frames, of which every sixth was labelled and the others propagated."""
    video = films.film()
    with VideoWriter(folder / "film.mp4", 10.0) as out:
        for image in video.images:
            out.write(image.read())
    labelled = np.arange(films.FRAMES) % 6 == 0
    ones = np.ones(video.visible.shape, np.float32)
    write_labels(folder / "film.json", DenseLabels(
        COCO17, video.size_px, video.tracks, labelled, None, video.xy_px, ones,
        video.visible, video.box_xyxy_px, {},
    ))  # fmt: skip
    return folder / "film.json"


def test_what_was_propagated_is_known_from_its_file(tmp_path: Path) -> None:
    clips = parse_spec(f"video_coco:{dense(tmp_path)}", frames=3, key=1)
    said = {}
    for i in range(len(clips)):
        sample = clips[i]
        frames = sample.frame_index.tolist()
        assert sample.pseudo is not None
        said |= dict(zip(frames, sample.pseudo.tolist(), strict=True))
    assert said == {t: t % 6 != 0 for t in range(films.FRAMES)}
    config = dots.config(**PLAIN, loss__pseudo_weight=0.5)
    net = make_net(config)
    wanted = window_config(config, net, augmented=True)
    windows = WindowDataset(Joined([clips], COCO17), wanted)
    item = windows[0, 6]
    assert item["pseudo"].tolist() == [1.0, 0.0, 1.0]
    weights = Trainee(net, config).weights({n: t[None] for n, t in item.items()})
    torch.testing.assert_close(
        weights[0, :, 0], torch.tensor([0.5, 1.0, 0.5]) * item["visible"][:, 0]
    )
    assert not window_config(config, net, augmented=False).pseudo  # what is judged by is not less


def test_what_a_teacher_said_is_pseudo_and_what_a_person_said_is_not(tmp_path: Path) -> None:
    plain = Dots(3, WindowSpec(3, 1))
    assert plain[0].pseudo is None
    taught = PseudoLabelled(plain, np.ones((3, 17, 3), np.float32), COCO17, 0.3)
    assert taught[0].pseudo is not None and taught[0].pseudo.tolist() == [True] * 3
    joints = len(POSETRACK17_SLOTS)
    person = {"keypoints": [1.0] * 3 * joints, "bbox": [0, 0, 5, 5], "track_id": 1}
    order = np.array([*range(15), joints])
    assert not _person18(person, order, "x").pseudo
    assert _person18({**person, "labelled": False}, order, "x").pseudo
    assert not _person18({**person, "labelled": True}, order, "x").pseudo


def test_stored_features_keep_who_said_the_labels(tmp_path: Path) -> None:
    config = dots.config(**PLAIN, loss__pseudo_weight=0.5, net__freeze=True)
    net = make_net(config)
    trainee = Trainee(net, config)
    wanted = window_config(config, net, augmented=True)
    cpu = torch.device("cpu")
    stored = store(WindowDataset(Joined([Mixed(4)], COCO17), wanted), trainee, tmp_path, 1, cpu)
    assert [stored[0, i]["pseudo"].mean().item() for i in range(4)] == [0.0, 1.0, 0.0, 1.0]
    other = replace(wanted, pseudo=False)  # another store: the one above has more in it
    plain = store(WindowDataset(Joined([Mixed(4)], COCO17), other), trainee, tmp_path, 1, cpu)
    assert plain.folder != stored.folder and "pseudo" not in plain[0, 0]
    checked = store(WindowDataset(Joined([Checked(4)], COCO17), wanted), trainee, tmp_path, 1, cpu)
    assert [checked[0, i]["pseudo"].mean().item() for i in range(4)] == [0.0] * 4


def test_a_weight_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"loss\.pseudo_weight"):
        dots.config(loss__pseudo_weight=-1.0)
