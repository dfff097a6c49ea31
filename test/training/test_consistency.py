"""Self-supervision: teachers, flips, memories, and unlabelled video."""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import dots
import numpy as np
import pytest
import torch
from dots import Dots

from pose_ros.core.skeletons import COCO17
from pose_ros.errors import ConfigError, SourceError
from pose_ros.nets.registry import build_net
from pose_ros.training import consistency
from pose_ros.training.config import AugmentConfig, TeacherConfig, TrainConfig
from pose_ros.training.consistency import PseudoLabelled, label, load_teacher, smooth
from pose_ros.training.datasets import ArrayImage, ClipSample, Subset, WindowSpec, parse_spec
from pose_ros.training.objectives import Trainee, burnt_in, share_head, still_heatmaps
from pose_ros.training.targets import unflip
from pose_ros.training.train import make_net, window_config
from pose_ros.training.windows import WindowConfig, WindowDataset

PICTURE = Path(__file__).parents[1] / "data" / "walker.jpg"


def dots_windows(config: TrainConfig, trainee: Trainee) -> WindowConfig:
    """Windows of `Dots` for a network, as they are."""
    return window_config(config, trainee.net, augmented=False)


class Film:
    """One person whose joints move evenly, a sample per frame; ``jumps`` are frame: pixels."""

    name, skeleton = "film", COCO17

    def __init__(self, frames: int, jumps: dict[int, float] | None = None) -> None:
        self.frames, self.jumps = frames, jumps or {}
        self.window = WindowSpec(3, 1)

    def __len__(self) -> int:
        return self.frames

    def truth(self, frame: int) -> np.ndarray:
        return np.full((17, 2), 40.0 + 2.0 * frame, np.float32)

    def __getitem__(self, index: int) -> ClipSample:
        frames, left, right = self.window.around(index, 0, self.frames - 1)
        nothing = np.full((3, 17, 2), np.nan, np.float32)
        box = np.array([0, 0, 60, 100], np.float32)
        pixel = ArrayImage(np.full((8, 8, 3), index, np.uint8))
        return ClipSample(
            (pixel,) * 3, 1, box, nothing, np.zeros((3, 17), np.uint8), COCO17, "p", frames,
            left, right, video="film",
        )  # fmt: skip

    def labels(self) -> np.ndarray:
        """(N, 17, 3) what a perfect teacher says, but for the jumps."""
        xy = np.stack([self.truth(i) + self.jumps.get(i, 0.0) for i in range(self.frames)])
        return np.concatenate((xy, np.full((*xy.shape[:2], 1), 0.9)), -1).astype(np.float32)


def test_every_frame_gets_the_label_of_the_window_around_it() -> None:
    film = Film(5)
    labelled = PseudoLabelled(film, film.labels(), COCO17, 0.3)
    sample = labelled[2]
    np.testing.assert_array_equal(sample.xy_px, [film.truth(i) for i in (1, 2, 3)])
    assert (sample.visible == 2).all()
    few = PseudoLabelled(Subset(film, [0, 2]), film.labels()[[0, 2]], COCO17, 0.3)
    assert np.isnan(few[1].xy_px[0]).all()  # nobody looked at frame 1
    assert not few[1].visible[[0, 2]].any()


def test_an_unsure_joint_stays_unlabelled() -> None:
    film = Film(3)
    labels = film.labels()
    labels[1, 4, 2] = 0.29
    labels[1, 5] = np.nan
    sample = PseudoLabelled(film, labels, COCO17, 0.3)[1]
    assert not sample.visible[1, [4, 5]].any()
    assert np.isnan(sample.xy_px[1, [4, 5]]).all()
    assert sample.visible[1].sum() == 2 * 15


def test_smoothing_mends_small_mistakes_and_leaves_jumps_and_ends_alone() -> None:
    # even motion is its own average; 3 px away from it becomes 1.5; 20 px is beyond 5 % of 100 px
    film = Film(9, {3: 3.0, 6: 20.0})
    found = smooth(film.labels(), film)
    error = found[:, 0, 0] - np.array([film.truth(i)[0, 0] for i in range(9)])
    np.testing.assert_allclose(error[[1, 3]], [0.0, 1.5], atol=1e-4)
    assert error[6] == 20.0
    assert error[0] == error[8] == 0.0
    # half of 3 px / 2 reaches the neighbours of frame 3
    np.testing.assert_allclose(error[[2, 4]], [0.75, 0.75], atol=1e-4)


def test_the_teacher_finds_the_man_in_the_picture() -> None:
    picture = cv2.imread(str(PICTURE))[..., ::-1]
    teach, skeleton = load_teacher(TeacherConfig(card="movenet_thunder"), torch.device("cpu"))
    box = np.array([[255.0, 40.0, 365.0, 340.0]], np.float32)  # one man at about x 300
    xy, score = teach([np.ascontiguousarray(picture)], box)
    assert skeleton is COCO17
    assert (score > 0.3).sum() >= 12
    nose, ankle = xy[0, COCO17.index("nose")], xy[0, COCO17.index("left_ankle")]
    assert 230 < nose[0] < 390
    assert nose[1] + 100 < ankle[1]
    # a box moved by a few pixels gives the same places in the image
    moved, _ = teach([np.ascontiguousarray(picture)], box + np.float32(6))
    assert np.median(np.linalg.norm(moved - xy, axis=-1)) < 4.0


def test_a_video_network_is_no_teacher() -> None:
    with pytest.raises(ConfigError, match="expected a single-frame pose network"):
        load_teacher(TeacherConfig(card="nanodet_g"), torch.device("cpu"))


def test_labels_are_kept_for_the_next_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def load(config: TeacherConfig, device: torch.device) -> object:
        def teach(images: list, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            calls.append(len(images))
            return np.full((len(images), 17, 2), 7.0, np.float32), np.ones((len(images), 17))

        return teach, COCO17

    monkeypatch.setattr(consistency, "load_teacher", load)
    config, device = TeacherConfig(card="movenet_thunder"), torch.device("cpu")
    for _ in range(2):
        found = consistency.pseudo_labelled(Film(20), config, tmp_path, device)
        assert (found[3].xy_px == 7.0).all()
    assert calls == [16, 4]
    consistency.pseudo_labelled(Film(19), config, tmp_path, device)
    assert sum(calls) == 39  # another video is looked at anew


def test_label_asks_about_key_frames() -> None:
    seen: list[int] = []

    def teach(images: list[np.ndarray], boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        seen.extend(int(i[0, 0, 0]) for i in images)
        return np.zeros((len(images), 17, 2), np.float32), np.ones((len(images), 17), np.float32)

    assert label(Film(3), teach, 17).shape == (3, 17, 3)
    assert seen == [0, 1, 2]


def test_flip_loss_is_zero_for_a_network_that_does_not_care_about_sides() -> None:
    trainee = Trainee(make_net(dots.config()), dots.config())
    maps = torch.rand(2, 17, 16, 12)
    mirrored = unflip(maps, trainee.flip_order)
    # unflip is its own inverse but for column 0
    torch.testing.assert_close(unflip(mirrored, trainee.flip_order)[..., 1:], maps[..., 1:])
    assert trainee.flip_loss(maps, mirrored) == 0.0
    assert trainee.flip_loss(maps, maps) > 0.01


def test_flip_consistency_alone_makes_a_network_symmetric() -> None:
    config = dots.config(loss__flip=1.0, optim__lr=1e-2)
    trainee = Trainee(make_net(config), config).train()
    data = WindowDataset(Dots(4, WindowSpec(3, 1)), dots_windows(config, trainee))
    batch = torch.utils.data.default_collate([data[(0, i)] for i in range(4)])
    batch["visible"] = torch.zeros_like(batch["visible"])  # no label at all
    with torch.no_grad():
        for parameter in trainee.net.head.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    optimizer = torch.optim.Adam(trainee.parameters(), 3e-3)
    losses = []
    for _ in range(25):
        terms = trainee(batch)
        assert terms["heatmap"].item() == 0.0
        optimizer.zero_grad()
        terms["total"].backward()
        optimizer.step()
        losses.append(terms["flip"].item())
    assert losses[-1] < 0.3 * losses[0]


def test_degraded_windows_keep_their_labels() -> None:
    config = dots.config()
    windows = dots_windows(config, Trainee(make_net(config), config))
    still = AugmentConfig(flip_p=0, half_body_p=0, rot_p=0, scale=0.0)
    dark = replace(still, degrade_p=1.0, degrade_kinds=("lowlight",), degrade_max=1.0)
    clips = Dots(6, WindowSpec(3, 1))
    clean = WindowDataset(clips, replace(windows, augment=still))
    degraded = WindowDataset(clips, replace(windows, augment=dark))
    darker = 0
    for i in range(6):
        a, b = clean[(0, i)], degraded[(0, i)]
        assert torch.equal(a["cells"], b["cells"])
        darker += int(b["frames"].float().mean() < 0.8 * a["frames"].float().mean())
    assert darker >= 4


def test_an_unknown_degradation_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"augment.degrade_kinds.*'blurr'.*blur"):
        dots.config(augment__degrade_p=0.5, augment__degrade_kinds=["blurr"])
    with pytest.raises(ConfigError, match=r"expected augment.degrade_kinds"):
        dots.config(augment__degrade_p=0.5)


HSTPN = {"joints": 5, "size_hw_px": (64, 32), "channels": 16, "backbone": "resnet",
         "blocks": (1, 1, 1, 1), "base": 4, "frames": 4, "dropout": 0.0}  # fmt: skip


def test_burn_in_continues_a_memory_and_none_is_the_plain_window() -> None:
    torch.manual_seed(0)
    net = build_net("hstpn_robot", **HSTPN).train()
    torch.nn.init.normal_(net.recall.weight, std=0.1)
    windows = torch.randn(3, 4, 16, 16, 8)
    one = torch.ones(3)
    plain = net.fuse((windows,), one, one).aux["window_heatmaps"]
    frames = torch.tensor([0, 3, 0])
    burnt = burnt_in(net, windows, torch.zeros(3, dtype=torch.int64)).aux["window_heatmaps"]
    torch.testing.assert_close(burnt, plain)
    net.eval()  # batch norms would mix the windows
    mixed = burnt_in(net, windows, frames).aux["window_heatmaps"]
    state = net.start(1, windows)
    for t in (3, 2, 1, 0, 1, 2, 3):  # the second window, backwards and then forwards
        out, state = net.step(windows[1:2, t], state)
    torch.testing.assert_close(mixed[1:2, 3], out.heatmaps, atol=1e-5, rtol=1e-4)
    untouched = burnt_in(net, windows, frames * 0).aux["window_heatmaps"]
    torch.testing.assert_close(mixed[[0, 2]], untouched[[0, 2]])
    assert (mixed[1, 0] - untouched[1, 0]).abs().max() > 1e-4


@pytest.mark.parametrize("name", ["pstpose_vitl", "vremd_vitl", "stdpose_vitl"])
def test_every_network_weighs_the_joints_that_are_hard_to_find(name: str) -> None:
    """DCPose's weights, of which elbows', knees', wrists' and ankles' are not 1."""
    terms = {}
    for weighted in (False, True):
        config = dots.config({**NO_FCG, "freeze": True}, net__name=name,
                             loss__joint_weights=weighted, loss__vremd_branches=0.5,
                             loss__mi="off", loss__initial_head=0.0)  # fmt: skip
        net = make_net(config)
        trainee = Trainee(net, config).eval()
        data = WindowDataset(Dots(2, WindowSpec(3, 1)), dots_windows(config, trainee))
        batch = torch.utils.data.default_collate([data[(0, i)] for i in range(2)])
        with torch.no_grad():
            terms[weighted] = {n: float(t) for n, t in trainee(batch).items() if n != "heatmaps"}
    heat = [n for n in terms[True] if n.startswith("heatmap") or n == "initial"]
    assert len(heat) == {"pstpose_vitl": 1, "vremd_vitl": 3, "stdpose_vitl": 2}[name]
    for term in (*heat, "total"):
        assert 1.02 * terms[False][term] < terms[True][term] < 1.5 * terms[False][term], term


@pytest.mark.parametrize("name", ["pstpose_vitl", "vremd_vitl", "stdpose_vitl"])
def test_stage_1_is_backbone_and_head_and_its_head_goes_everywhere(name: str) -> None:
    config = dots.config({**NO_FCG, "freeze": True}, net__name=name, stage1__epochs=1)
    net = make_net(config)
    trainee = Trainee(net, config, still=True).train()
    data = WindowDataset(Dots(2, WindowSpec(3, 1)), dots_windows(config, trainee))
    batch = torch.utils.data.default_collate([data[(0, i)] for i in range(2)])
    trainee(batch)["total"].backward()
    learned = {n.split(".")[0] for n, p in net.named_parameters() if p.grad is not None}
    head = "head0" if name == "stdpose_vitl" else "head"
    assert head in learned
    assert learned <= {head, "adapter", "norm"}
    side = dict(batch, frames=batch["frames"].clone())
    side["frames"][:, [0, 2]] = 0  # other frames do not matter
    trainee.eval()
    with torch.no_grad():
        assert torch.equal(trainee(batch)["heatmaps"], trainee(side)["heatmaps"])
        nn_init(net.get_submodule(head))
        copied = share_head(net)
        features = trainee.features(batch)
        still = still_heatmaps(net, features)
    assert copied == (["head"] if name == "stdpose_vitl" else [])
    if copied:
        again = net.head(net.to_map(features[0][:, 0]))
        torch.testing.assert_close(again, still)


NO_FCG = {"backbone": "vit_tiny", "size_hw_px": [64, 48], "joints": 17, "head_channels": 32}


def nn_init(module: torch.nn.Module) -> None:
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.1)


def write_tracks(folder: Path) -> Path:
    """A folder of 6 pictures and what the tracker says: one person, lost in frame 3."""
    (folder / "pictures").mkdir()
    rows = []
    for i in range(6):
        picture = np.full((40, 40, 3), 10 * i, np.uint8)
        cv2.imwrite(str(folder / "pictures" / f"{i:03d}.png"), picture)
        state = "OCCLUDED" if i == 3 else "TRACKED"
        person = {"id": 7, "state": state, "box_xyxy_px": [5, 5, 25, 35]}
        rows.append(json.dumps({"frame": i, "people": [person]}))
    (folder / "poses.jsonl").write_text("\n".join(rows))
    return folder


def test_tracked_video_is_windows_without_labels(tmp_path: Path) -> None:
    folder = write_tracks(tmp_path)
    spec = f"tracks:{folder}/pictures?poses={folder}/poses.jsonl"
    data = parse_spec(spec, frames=3, key=1)
    assert [int(data[i].frame_index[1]) for i in range(len(data))] == [0, 1, 2, 4, 5]
    sample = data[3]
    assert [int(i.read()[0, 0, 0]) for i in sample.images] == [30, 40, 50]
    assert not sample.visible.any()
    assert (sample.track, sample.dt_left) == ("7", 1)
    assert data[0].frame_index.tolist() == [0, 0, 1]  # before the video: the key frame again
    assert len(parse_spec(spec + "&every=2", frames=3, key=1)) == 3


def test_a_broken_track_file_is_named(tmp_path: Path) -> None:
    folder = write_tracks(tmp_path)
    (folder / "poses.jsonl").write_text('{"frame": 0, "people": []}\nnonsense\n')
    with pytest.raises(SourceError, match="line 2: expected an object with frame and people"):
        parse_spec(f"tracks:{folder}/pictures?poses={folder}/poses.jsonl")
    with pytest.raises(SourceError, match=r"pose_ros\.tools\.track VIDEO"):
        parse_spec(f"tracks:{folder}/pictures?poses={folder}/none.jsonl")
