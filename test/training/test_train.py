"""The command: settings, recipes, a run from end to end, its card."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import cv2
import dots
import numpy as np
import pytest
import torch
import toy_posetrack
import yaml
from dots import Dots

from pose_ros.core.skeletons import get_skeleton
from pose_ros.errors import ConfigError, SourceError, WeightsError
from pose_ros.nets.checkpoint import load_net, read_card
from pose_ros.nets.registry import build_net
from pose_ros.training import checkpoints, evaluate, train
from pose_ros.training.card import start_from
from pose_ros.training.config import (
    TrainConfig,
    differences,
    flatten,
    in_words,
    nested,
    read_recipe,
)
from pose_ros.training.datasets import WindowSpec, list_datasets
from pose_ros.training.features import store
from pose_ros.training.logs import command_line, fingerprint
from pose_ros.training.objectives import Trainee
from pose_ros.training.predict import open_network
from pose_ros.training.train import make_net, run, window_config
from pose_ros.training.windows import WindowDataset

pytest.importorskip("lightning")

RECIPES = Path(__file__).parents[2] / "config" / "train"
PICTURE = Path(__file__).parents[1] / "data" / "walker.jpg"
TINY_NET = {"backbone": "vit_tiny", "size_hw_px": [64, 48], "joints": 17, "head_channels": 32}


def recipe(folder: Path, text: str) -> Path:
    (folder / "mine.yaml").write_text(text)
    return folder / "mine.yaml"


def test_settings_come_from_the_recipe_then_from_the_command_line(tmp_path: Path) -> None:
    path = recipe(tmp_path, "net: {name: dsa_w48, options: {supports: 2}}\noptim: {lr: 1e-3}\n")
    config = read_recipe(path, ["optim.lr=2e-4", "net.options.width=32", "data.val=a:,b:?c=1"])
    assert read_recipe(path, ["optim.milestones=6,12"]).optim.milestones == (6, 12)
    assert read_recipe(path, ["data.val=[a:]", "data.train="]).data.val == ("a:",)
    assert (config.name, config.net.name, config.optim.lr) == ("mine", "dsa_w48", 2e-4)
    assert config.net.options == {"supports": 2, "width": 32}
    assert config.data.val == ("a:", "b:?c=1")
    assert config.train == TrainConfig().train


def test_a_config_survives_its_own_file(tmp_path: Path) -> None:
    config = dots.config(optim__milestones=[3, 4], train__ema=0.5)
    assert read_recipe(recipe(tmp_path, yaml.safe_dump(nested(config)))) == config


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("optim.lrr=1", r"'optim.lrr' is not known; did you mean optim.lr"),
        ("lr=1", r"'lr' is not known; did you mean .*optim\.lr"),
        ("train.batch=0", r"train.batch: expected 1 to 65536, got 0"),
        ("train.batch=many", r"train.batch: expected int, got 'many'"),
        ("optim.lr=fast", r"optim.lr: expected a number, got 'fast'"),
        ("optim.schedule=step", r"expected one of constant, multistep, linear, cosine"),
        ("crop.joints=coco18", r"crop.joints: expected one of coco17"),
        ("train.precision=64", r"train.precision: expected str"),
        ("batch", r"expected key=value, got 'batch'"),
        ("optim.milestones=[1.5]", r"optim.milestones: expected a list of int"),
        ("data.train=[3]", r"data.train: expected a list of str"),
        ("cache.variants=2", r"cache.variants: expected a frozen backbone"),
    ],
)
def test_bad_settings_say_what_was_expected(tmp_path: Path, setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_recipe(recipe(tmp_path, "net: {name: dsa_w48}"), [setting])


def test_bad_recipes_are_named(tmp_path: Path) -> None:
    recipe(tmp_path, "a: [1")
    with pytest.raises(ConfigError, match="not YAML"):
        read_recipe(tmp_path / "mine.yaml")
    with pytest.raises(ConfigError, match=r"found no file; there are mine\.yaml"):
        read_recipe(tmp_path / "yours.yaml")
    with pytest.raises(ConfigError, match="expected a mapping of settings, got list"):
        read_recipe(recipe(tmp_path, "[1, 2]"))


def test_differences_are_those_that_matter() -> None:
    old = flatten(dots.config())
    assert differences(old, dots.config(train__epochs=9, data__workers=1)) == []
    assert differences(old, dots.config(train__max_minutes=9.0)) == []
    assert differences(old, dots.config(optim__lr=1.0)) == ["optim.lr"]
    del old["augment.ego_p"]  # a run from before there was such a setting
    assert differences(old, dots.config()) == []
    assert differences(old, dots.config(augment__ego_p=0.5)) == ["augment.ego_p"]


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda p: p.stem)
def test_every_recipe_is_valid_and_its_network_has_its_joints(path: Path) -> None:
    config = read_recipe(path)
    with torch.device("meta"):
        net = build_net(config.net.name, **config.net.options)
    assert net.joints == len(get_skeleton(config.crop.joints))
    for spec in (*config.data.train, *config.data.val):
        assert spec.partition(":")[0] in list_datasets()


def test_the_papers_recipes_are_the_papers() -> None:
    """models.md 1.5, 2.3, 3.1, 5.4: what the papers print."""
    found = {p.stem: read_recipe(p) for p in RECIPES.glob("*.yaml")}
    assert {c.train.epochs for n, c in found.items() if n != "tiny"} == {20}
    names = ("hstpn", "pstpose", "vremd", "dsa")
    assert [found[n].optim.lr for n in names] == [5e-4, 2e-4, 2e-3, 1e-3]
    assert [found[n].optim.milestones for n in names] == [(), (6, 12, 16), (16,), (10,)]
    assert [found[n].optim.name for n in names] == ["adamw", "adamw", "adamw", "adam"]
    assert [found[n].train.batch for n in names] == [32, 32, 32, 48]
    assert found["stdpose"].optim == found["vremd"].optim  # it has none of its own
    assert found["hstpn"].optim.lr * found["hstpn"].optim.backbone_mult == pytest.approx(5e-5)


def test_tiny_from_end_to_end_on_synthetic_clips(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def cached(name: str) -> str:
        return json.dumps([spec.replace("runs/", f"{tmp_path}/") for spec in specs[name]])

    specs = yaml.safe_load((RECIPES / "tiny.yaml").read_text())["data"]
    argv = [str(RECIPES / "tiny.yaml"), f"out={tmp_path}/run", "device=cpu", "train.threads=1"]
    argv += [f"data.train={cached('train')}", f"data.val={cached('val')}"]
    assert train.command(argv) == 0
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(answer) == {"net", "epochs", "best", "checkpoint", "card"}
    rows = [r.split(",") for r in (tmp_path / "run" / "metrics.csv").read_text().splitlines()]
    losses = [float(value) for _step, name, value in rows[1:] if name == "val/loss"]
    assert len(losses) == 3
    assert losses[-1] < 0.7 * losses[0]
    assert answer["best"]["loss"] == pytest.approx(min(losses))
    numbers = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert numbers["windows_per_s"] > 1
    assert 0.0 <= numbers["data_wait"] <= 1.0
    assert numbers["peak_rss_mb"] > 100
    about = json.loads((tmp_path / "run" / "run.json").read_text())
    assert about["data"]["train"]["windows"] == 32
    assert len(about["commit"]) >= 7
    assert (tmp_path / "run" / "config.yaml").is_file()
    # the card is a network that answers as the one in memory did
    card = read_card(Path(answer["card"]))
    assert (card.skeleton, card.frames, card.lookahead_frames) == ("coco17", 3, 1)
    assert card.trained
    net = load_net(card)
    own = checkpoints.load(Path(answer["checkpoint"]))["net"]
    assert all(torch.equal(t, own[n].float()) for n, t in net.state_dict().items()
               if t.is_floating_point())  # fmt: skip
    # and the other command judges it
    (spec,) = (s.replace("runs/", f"{tmp_path}/") for s in specs["val"])
    assert evaluate.command(["--net", answer["card"], "--dataset", spec, "--device", "cpu"]) == 0
    judged = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert judged["net"] == "tiny"
    assert judged["trained"] is True
    assert judged["samples"] == about["data"]["val"]["windows"] == 12
    assert (judged["protocol"], judged["boxes"]) == ("pck", "labelled")
    # validation counts what is within 5 % of the crop, which is 6 % of the box (crop.scale 1.25)
    assert judged["metrics"]["pck5"] <= 100 * answer["best"]["pck"] <= judged["metrics"]["pck10"]
    assert judged["metrics"]["pck20"] > 80  # 18 with random weights


def test_off_is_a_word_where_the_network_wants_one() -> None:
    """YAML reads off as false; rows of HSTPN's tables 4 and 5 are temporal=off and msf=off."""
    recipe = RECIPES / "hstpn.yaml"
    config = read_recipe(recipe, ["net.options.temporal=off", "net.options.msf=off"])
    assert config.net.options == {"temporal": "off", "msf": False}
    small = {"backbone": "resnet", "base": 8, "channels": 16, "size_hw_px": [64, 32]}
    network = open_network("hstpn_r50", temporal=False, attn=False, **small)
    assert (network.module.config.temporal, network.module.config.attn) == ("off", False)
    assert in_words("nosuch", {"temporal": False}) == {"temporal": False}


def test_a_card_says_what_was_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    typed = ["src/pose_ros/training/train.py", "config/train/tiny.yaml", "data.val=a: b"]
    monkeypatch.setattr("sys.argv", typed)
    wanted = "python -m pose_ros.training.train config/train/tiny.yaml 'data.val=a: b'"
    assert command_line("otherwise") == wanted
    monkeypatch.setattr("sys.argv", ["/usr/bin/pytest", "-q"])
    assert command_line("otherwise") == "otherwise"


def test_a_process_knows_when_it_began() -> None:
    code = (
        "import time; time.sleep(0.5); from pose_ros.training.train import process_began as b; "
        "print(time.monotonic() - b(), time.process_time())"
    )
    env = {**os.environ, "PYTHONPATH": str(RECIPES.parents[1])}
    before = time.monotonic()
    ran = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, check=True)
    whole = time.monotonic() - before
    age, busy = map(float, ran.stdout.split())
    assert 0.5 + 0.5 * busy < age < whole + 0.05


def test_a_bad_setting_is_one_line_on_stderr(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = recipe(tmp_path, "net: {name: pstpose_vitll}\ndata: {train: ['dots:']}")
    assert train.command([str(path), f"out={tmp_path}"]) == 1
    out = capsys.readouterr()
    assert out.out == ""
    assert out.err.splitlines()[-1].startswith("error: no network is called 'pstpose_vitll'; did")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_picture_that_is_cut_off_ends_the_run_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], workers: int
) -> None:
    """A half-downloaded data set, found while it is read: in the trainer, or in a worker."""
    root, _found = toy_posetrack.write(tmp_path, 18)
    cut = root / "images" / "val" / toy_posetrack.VIDEOS[0] / "000003.jpg"
    cut.write_bytes(cut.read_bytes()[:2000])
    text = f"""
    net: {{name: vitpose_s, options: {{backbone: vit_tiny, size_hw_px: [64, 48], joints: 15}}}}
    data: {{train: ['posetrack18:{root}'], workers: {workers}}}
    train: {{epochs: 1, batch: 4}}"""
    argv = [str(recipe(tmp_path, text)), f"out={tmp_path / 'run'}", "device=cpu"]
    assert train.command(argv) == 1
    errors = capsys.readouterr().err.splitlines()
    (line,) = [row for row in errors if row.startswith("error: ")]
    assert line == errors[-1]
    assert "000003.jpg: the labels name this picture, but it is not a picture (half down" in line


def test_joints_that_do_not_fit_the_network_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"answers 17 joints, crop.joints=posetrack15 has 15"):
        run(dots.config(
            out=str(tmp_path), crop__joints="posetrack15", data__missing_joints=True
        ))  # fmt: skip
    with pytest.raises(ConfigError, match="no training set labels neck, head_top of posetrack15"):
        run(dots.config(out=str(tmp_path), crop__joints="posetrack15"))


def test_a_network_without_windows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected a network that learns heatmaps.*NanoDet"):
        run(dots.config({}, net__name="nanodet_g", out=str(tmp_path)))


def test_two_stages_with_stored_features(tmp_path: Path) -> None:
    """VREMD, frozen: stage 1, then stage 2, pictures read once per version."""
    options = {**TINY_NET, "freeze": True}
    config = dots.config(
        options, net__name="vremd_vitl", out=str(tmp_path), stage1__epochs=1, cache__variants=2,
        half_card=True,
    )  # fmt: skip
    answer = run(config)
    stores = sorted(tmp_path.glob("features_*"))
    assert len(stores) == 2  # training and validation, for both stages
    assert json.loads((tmp_path / "metrics.json").read_text())["stage1"]["loss"] > 0
    assert answer["epochs"] == 2
    before = make_net(config).state_dict()
    after = checkpoints.load(tmp_path / "last.ckpt")["net"]
    assert all(torch.equal(before[n], after[n]) for n in before if n.startswith("backbone."))
    assert not torch.equal(before["bmd.merge.weight"], after["bmd.merge.weight"])
    assert read_card(Path(answer["card"])).bytes < 0.6 * sum(t.nbytes for t in after.values())


def test_a_backbone_that_learns_rests_in_stage_1(tmp_path: Path) -> None:
    run(dots.config(out=str(tmp_path), stage1__epochs=1, train__epochs=1))
    before = make_net(dots.config()).state_dict()
    backbone = [n for n in before if n.startswith("backbone.") and n.endswith("weight")]
    first, last = (
        checkpoints.load(tmp_path / n)["net"] for n in ("stage1/last.ckpt", "last.ckpt")
    )
    assert all(torch.equal(before[n], first[n]) for n in backbone)
    assert not all(torch.equal(before[n], last[n]) for n in backbone)
    assert not torch.equal(before["head.final.weight"], first["head.final.weight"])
    run(dots.config(
        out=str(tmp_path / "b"), stage1__epochs=1, stage1__finetune_backbone=True,
        train__max_steps=1,
    ))  # fmt: skip
    tuned = checkpoints.load(tmp_path / "b" / "stage1" / "last.ckpt")["net"]
    assert not all(torch.equal(before[n], tuned[n]) for n in backbone)


def test_stored_features_say_what_pictures_say(tmp_path: Path) -> None:
    for name, options in (
        ("pstpose_vitl", {**TINY_NET, "freeze": True}),
        ("dsa_robot", {"joints": 17, "size_hw_px": [64, 32], "freeze": True}),
        ("hstpn_robot", {"joints": 17, "size_hw_px": [64, 32], "channels": 16}),
    ):
        config = dots.config(options, net__name=name, net__freeze=True, cache__variants=2)
        net = make_net(config)
        trainee = Trainee(net, config).eval()
        wanted = window_config(config, net, augmented=True)
        data = WindowDataset(Dots(3, WindowSpec(**wanted.asked)), wanted)
        stored = store(data, trainee, tmp_path, 2, torch.device("cpu"))
        found = set()
        for epoch in (0, 1, 2):
            item = stored[(epoch, 1)]
            twin = next(
                data[(v, 1)] for v in range(2) if torch.equal(
                    torch.nan_to_num(data[(v, 1)]["cells"]), torch.nan_to_num(item["cells"])
                )
            )  # fmt: skip
            found.add(int(twin["epoch"]))
            a, b = (trainee(torch.utils.data.default_collate([i])) for i in (item, twin))
            assert (a["heatmaps"] - b["heatmaps"]).norm() <= 0.01 * b["heatmaps"].norm()
        assert found == {0, 1}


def test_a_disk_without_room_for_features_is_said_in_sizes_that_mean_something(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dots.config({**TINY_NET, "freeze": True}, cache__variants=1)
    net = make_net(config)
    wanted = window_config(config, net, augmented=True)
    data = WindowDataset(Dots(3, WindowSpec(**wanted.asked)), wanted)
    usage = type(shutil.disk_usage(tmp_path))(10**9, 10**9 - 3000, 3000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage)
    with pytest.raises(SourceError, match=r"need [1-9]\d*\.\d kB, the disk has 3\.0 kB free"):
        store(data, Trainee(net, config).eval(), tmp_path, 1, torch.device("cpu"))


def test_an_interrupted_store_is_completed(tmp_path: Path) -> None:
    config = dots.config({**TINY_NET, "freeze": True}, cache__variants=1)
    net = make_net(config)
    trainee = Trainee(net, config).eval()
    wanted = window_config(config, net, augmented=True)
    data = WindowDataset(Dots(20, WindowSpec(**wanted.asked)), wanted)
    whole = store(data, trainee, tmp_path / "a", 1, torch.device("cpu"))
    again = store(data, trainee, tmp_path / "b", 1, torch.device("cpu"))
    about = again.folder / "about.json"
    about.write_text(about.read_text().replace('"done": 20', '"done": 8'))
    file = np.memmap(again.folder / "feature0.bin", np.float16, "r+", shape=(20, 3, 12, 64))
    file[8:] = 0.0
    file.flush()
    again = store(data, trainee, tmp_path / "b", 1, torch.device("cpu"))
    for i in range(20):
        assert torch.equal(whole[(0, i)]["feature0"], again[(0, i)]["feature0"])


def test_real_video_trains_a_recurrent_network(tmp_path: Path) -> None:
    """From a picture a camera might pan over: track file, teacher, degraded student, card."""
    picture = cv2.imread(str(PICTURE))
    (tmp_path / "film").mkdir()
    rows = []
    for i in range(6):
        cv2.imwrite(str(tmp_path / "film" / f"{i}.jpg"), np.roll(picture, 4 * i, axis=1))
        box = [255.0 + 4 * i, 40.0, 365.0 + 4 * i, 340.0]
        person = {"id": 1, "state": "TRACKED", "box_xyxy_px": box}
        rows.append(json.dumps({"frame": i, "people": [person]}))
    (tmp_path / "film.jsonl").write_text("\n".join(rows))
    answer = run(dots.config(
        {"size_hw_px": [128, 96], "channels": 16, "frames": 3}, net__name="hstpn_robot",
        net__init=["movenet_thunder"], net__freeze=True, out=str(tmp_path / "run"),
        data__train=[], data__val=[],
        data__pseudo=[f"tracks:{tmp_path}/film?poses={tmp_path}/film.jsonl"],
        teacher__card="movenet_thunder", crop__normalise="movenet", train__batch=3,
        train__epochs=12, optim__lr=3e-3, augment__degrade_p=0.5, cache__variants=2,
        augment__degrade_kinds=["lowlight", "dropframes"], loss__burn_in_p=0.5,
    ))  # fmt: skip
    rows = [r.split(",") for r in (tmp_path / "run" / "metrics.csv").read_text().splitlines()]
    losses = [float(value) for _step, name, value in rows[1:] if name == "train/heatmap"]
    assert np.mean(losses[-4:]) < 0.5 * np.mean(losses[:2])
    card = read_card(Path(answer["card"]))
    assert card.recurrent
    assert "tracks:" in card.training_data


def test_starting_weights_are_taken_whole_or_refused() -> None:
    net = build_net("hstpn_robot", channels=16, size_hw_px=(64, 32))
    taken = start_from(net, "movenet_thunder", "coco17")
    backbone = [n for n in net.state_dict() if n.startswith("backbone.")]
    assert taken == sorted(backbone)
    with pytest.raises(WeightsError, match="it is of another network"):
        start_from(build_net("hrnet_w32", size_hw_px=(64, 32)), "movenet_thunder", "coco17")
    with pytest.raises(WeightsError, match="no model card is called 'vitpose_l_coco'"):
        start_from(net, "vitpose_l_coco", "coco17")
    with pytest.raises(WeightsError, match=r"net\.init: no model card.*tools\.import_weights"):
        make_net(dots.config(net__init=["vitpose_l_coco"]))


def test_a_fingerprint_changes_with_a_label() -> None:
    data = Dots(5, WindowSpec())
    assert fingerprint(data) == fingerprint(Dots(5, WindowSpec()))
    assert fingerprint(data)["sha256"] != fingerprint(Dots(5, WindowSpec(), seed=1))["sha256"]
    assert fingerprint(data)["windows"] == 5
