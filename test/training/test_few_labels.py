"""Few labels, propagated, trained on, judged between: one command from end to end, small."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import test_propagate as films

from pose_ros.core.skeletons import COCO17
from pose_ros.core.video import VideoWriter
from pose_ros.errors import ConfigError
from pose_ros.nets.checkpoint import read_card
from pose_ros.training import few_labels
from pose_ros.training.datasets import parse_spec
from pose_ros.training.label_files import DenseLabels, read_labels, write_labels

RECIPE = Path(__file__).parents[2] / "config" / "train" / "few_labels.yaml"
SMALL = [
    "net.init=[]", "net.options.backbone=resnet", "net.options.blocks=[1, 1, 1, 1]",
    "net.options.base=4", "net.options.channels=16", "net.options.size_hw_px=[64, 32]",
    "train.epochs=2", "train.batch=3", "cache.variants=1",
]  # fmt: skip


@pytest.fixture
def recorded(tmp_path: Path) -> tuple[Path, Path]:
    """Labels of all 13 frames, and their video."""
    video = films.film()
    with VideoWriter(tmp_path / "film.mp4", 10.0) as out:
        for image in video.images:
            out.write(image.read())
    ones = np.ones(video.visible.shape, np.float32)
    dense = DenseLabels(
        COCO17, video.size_px, video.tracks, video.labelled, None, video.xy_px, ones,
        video.visible, video.box_xyxy_px, {},
    )  # fmt: skip
    write_labels(tmp_path / "film.json", dense)
    return tmp_path / "film.json", tmp_path / "film.mp4"


def test_from_few_labels_to_two_networks(recorded: tuple[Path, Path], tmp_path: Path) -> None:
    labels, video = recorded
    argv = ["--video", str(video), "--labels", str(labels), "--interval", "6", "--out",
            str(tmp_path / "out"), "--method", "flow", "--config", str(RECIPE), "--device", "cpu",
            "--test", f"{video}={labels}", *SMALL]  # fmt: skip
    answer = few_labels.main(argv)
    assert (answer["labelled"], answer["frames"]) == (3, films.FRAMES)
    assert answer["windows"] == {"few": 3, "dense": films.FRAMES}
    few = read_labels(tmp_path / "out" / "few.json")
    assert [frame.number for frame in few.frames] == [0, 6, 12]
    np.testing.assert_allclose(few.frames[1].people[0].xy_px, films.film().xy_px[0, 6], atol=0.01)
    assert answer["propagated"]["pck5"] > 90  # what is learned from is right
    for name in ("single_frame", "few", "dense"):
        assert answer[name]["between"]["samples"] == films.FRAMES - 3
        assert answer[name]["film"]["samples"] == films.FRAMES
        assert 0 <= answer[name]["between"]["pck5"] <= answer[name]["between"]["pck10"] <= 100
    steps = {n: json.loads((tmp_path / "out" / n / "metrics.json").read_text())["steps"]
             for n in ("few", "dense")}  # fmt: skip
    assert steps == {"few": 8, "dense": 8}  # 4 times the epochs for a quarter of the windows
    card = read_card(Path(answer["dense"]["card"]))
    assert card.frames == 1 and not card.recurrent  # one frame, and no memory that learned
    again = few_labels.main(argv)  # everything is there: nothing is trained anew
    assert again["dense"] == answer["dense"]
    corrected = json.loads(labels.read_text())
    corrected["annotations"][6]["keypoints"][0] += 5
    labels.write_text(json.dumps(corrected))
    with pytest.raises(ConfigError, match=r"learned from other data.*few_labels: --out"):
        few_labels.main(argv)  # old weights are no answer to new labels


def test_both_networks_learn_for_as_many_steps(tmp_path: Path) -> None:
    parser = few_labels._parser()
    argv = ["--video", "v.mp4", "--labels", "l.json", "--out", str(tmp_path), "--config"]
    args = parser.parse_args([*argv, str(RECIPE), "train.batch=16", "train.epochs=10"])
    for windows in (30, 7, 200, 33):
        config = few_labels.recipe_of(args, "few", (windows, 200), tmp_path / "few.json")
        steps = config.train.epochs * max(windows // config.train.batch, 1)
        assert abs(steps - 10 * (200 // 16)) <= windows // config.train.batch
        assert config.train.batch <= windows
        assert config.cache.variants * windows == pytest.approx(4 * 200, rel=0.05)


def test_frames_between_are_those_that_were_not_used(recorded: tuple[Path, Path]) -> None:
    labels, video = recorded
    judged = few_labels.Judged("between", str(video), str(labels), frozenset({2, 5}))
    dataset = judged.dataset(3, 1)
    assert [int(dataset[i].frame_index[1]) for i in range(len(dataset))] == [2, 5]
    none = few_labels.Judged("between", str(video), str(labels), frozenset({99}))
    with pytest.raises(ConfigError, match="expected labels of frames that are not used"):
        none.dataset(1, 0)


def test_a_test_set_needs_video_and_labels(recorded: tuple[Path, Path], tmp_path: Path) -> None:
    labels, video = recorded
    with pytest.raises(ConfigError, match="--test: expected VIDEO=LABELS, got 'film'"):
        few_labels.main(
            ["--video", str(video), "--labels", str(labels), "--out", str(tmp_path / "out"),
             "--method", "curve", "--test", "film", "--config", str(RECIPE)]
        )  # fmt: skip


def test_few_labels_alone_are_written_without_the_other_frames(
    recorded: tuple[Path, Path], tmp_path: Path
) -> None:
    some = films.film().only([0, 12])
    write_labels(tmp_path / "few.json", few_labels.few_labels(some), only_labelled=True)
    data = json.loads((tmp_path / "few.json").read_text())
    assert [picture["frame_number"] for picture in data["images"]] == [0, 12]
    assert len(data["annotations"]) == 2
    spec = f"video_coco:{tmp_path / 'few.json'}?video={recorded[1]}"
    assert len(parse_spec(spec)) == 2


def test_a_bag_is_a_video_too(tmp_path: Path) -> None:
    pytest.importorskip("rosbags")
    film = films.film()
    stamps = films.write_bag(tmp_path / "bag", film)
    write_labels(tmp_path / "all.json", few_labels.few_labels(film, tuple(stamps)))
    # the same again as the single file that it is of, with labels that know frames by number only
    (single,) = (tmp_path / "bag").glob("*.mcap")
    write_labels(tmp_path / "numbers.json", few_labels.few_labels(film))
    argv = ["--video", str(tmp_path / "bag"), "--topic", "/camera/image", "--interval", "6",
            "--labels", str(tmp_path / "all.json"), "--out", str(tmp_path / "out"), "--method",
            "flow", "--config", str(RECIPE), "--device", "cpu",
            "--test", f"{single}={tmp_path / 'numbers.json'}", *SMALL]  # fmt: skip
    answer = few_labels.main(argv)
    assert (answer["labelled"], answer["frames"]) == (3, films.FRAMES)
    assert answer["windows"] == {"few": 3, "dense": films.FRAMES}
    assert answer["propagated"]["pck5"] > 90
    for name in ("single_frame", "few", "dense"):
        assert answer[name]["between"]["samples"] == films.FRAMES - 3
        assert answer[name][single.stem]["samples"] == films.FRAMES
    few = json.loads((tmp_path / "out" / "few.json").read_text())
    assert [image["stamp_ns"] for image in few["images"]] == [stamps[t] for t in (0, 6, 12)]
    card = read_card(Path(answer["dense"]["card"]))
    assert card.training_data.startswith("rosbag:")
    with pytest.raises(ConfigError, match=r"topic='/front'; there are /camera/image"):
        few_labels.main([*argv, "--topic", "/front"])


def test_films_of_one_name_are_judged_apart(recorded: tuple[Path, Path], tmp_path: Path) -> None:
    labels, video = recorded
    argv = ["--video", str(video), "--labels", str(labels), "--out", str(tmp_path / "out")]
    args = few_labels._parser().parse_args([*argv, *(["--test", f"{video}={labels}"] * 2)])
    truth, footage = few_labels.open_labelled(str(labels), str(video), "")
    judged = few_labels._judged(args, truth, truth.only([0, 6]), footage)
    assert [one.name for one in judged] == ["between", "film", "film_1"]
    assert [len(one.dataset(1, 0)) for one in judged] == [films.FRAMES - 2] + [films.FRAMES] * 2


def test_a_folder_of_pictures_is_refused_before_anything_is_done(
    recorded: tuple[Path, Path], tmp_path: Path
) -> None:
    (tmp_path / "pictures").mkdir()
    argv = ["--video", str(tmp_path / "pictures"), "--labels", str(recorded[0])]
    with pytest.raises(ConfigError, match="expected a video file or a bag"):
        few_labels.main([*argv, "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
