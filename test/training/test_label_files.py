"""Label files of three tools say the same; bad ones are refused by name."""

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pose_ros.core.skeletons import COCO17, CROWDPOSE14
from pose_ros.errors import ConfigError, SourceError
from pose_ros.training.footage import Footage, attach
from pose_ros.training.label_files import DenseLabels, read_labels, write_labels

WIDTH, HEIGHT = 200, 100


def joints(shift: float) -> np.ndarray:
    """(17, 2) joints in our pixels, on a grid."""
    return np.array([[20 + 5 * k + shift, 30 + 2 * k] for k in range(17)], np.float64)


def coco() -> dict[str, Any]:
    triples = [[*xy, 2] for xy in joints(0.0).tolist()]
    triples[3] = [0, 0, 0]
    triples[4][2] = 1
    person = {
        "id": 7, "image_id": 3, "category_id": 1, "track_id": 5, "bbox": [10.5, 20.5, 100, 60],
        "keypoints": np.array(triples).ravel().tolist(), "area": 1.0,
    }  # fmt: skip
    picture = {"id": 3, "file_name": "frame_000012.png", "width": WIDTH, "height": HEIGHT}
    category = {"id": 1, "name": "person", "keypoints": list(COCO17.joints)}
    return {"images": [picture], "annotations": [person], "categories": [category]}


def cvat(outside: str = "0") -> str:
    """Key frames 0 and 9, frame 5 interpolated."""

    def point(name: str, x: float, y: float, key: int) -> str:
        gone = outside if name == "nose" else "0"
        return (
            f'<points label="{name}" outside="{gone}" keyframe="{key}" '
            f'occluded="{int(name == "left_eye")}" points="{x + 0.5},{y + 0.5}"></points>'
        )

    def shape(time: int, key: int) -> str:
        named = zip(COCO17.joints, joints(0.0).tolist(), strict=True)
        points = "".join(point(name, *xy, key) for name, xy in named)
        return f'<skeleton frame="{time}" keyframe="{key}">{points}</skeleton>'

    return (
        "<annotations><version>1.1</version><meta><task><size>20</size><original_size>"
        f"<width>{WIDTH}</width><height>{HEIGHT}</height></original_size></task></meta>"
        f'<track id="2" label="person">{shape(0, 1)}{shape(5, 0)}{shape(9, 1)}</track>'
        '<track id="4" label="person"></track></annotations>'
    )


def label_studio() -> list[dict[str, Any]]:
    def percent(x: float, y: float) -> dict[str, float]:
        return {"x": (x + 0.5) / WIDTH * 100, "y": (y + 0.5) / HEIGHT * 100}

    common = {"original_width": WIDTH, "original_height": HEIGHT}
    box = {**percent(9.5, 19.5), "width": 50.0, "height": 60.0, "rectanglelabels": ["Person"]}
    result = [{"id": "r1", "type": "rectanglelabels", **common, "value": box}]
    for name, xy in zip(COCO17.joints, joints(0.0).tolist(), strict=True):
        shown = name.replace("_", " ").title()
        value = {**percent(*xy), "width": 0.5, "keypointlabels": [shown]}
        result.append(
            {"id": name, "parentID": "r1", "type": "keypointlabels", **common, "value": value}
        )
    data = {"image": "/data/upload/1/ab12-frame_000012.png"}
    return [{"id": 1, "data": data, "annotations": [{"id": 1, "result": result}]}]


def save(folder: Path, content: Any, name: str = "labels.json") -> Path:
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / name).write_text(text)
    return folder / name


def test_coco_is_read_as_it_stands(tmp_path: Path) -> None:
    file = read_labels(save(tmp_path, coco()))
    (frame,) = file.frames
    (person,) = frame.people
    assert (file.form, file.skeleton, frame.number, frame.size_px) == (
        "coco", COCO17, 12, (WIDTH, HEIGHT),
    )  # fmt: skip
    assert person.track == "5"
    assert np.isnan(person.xy_px[3]).all()
    np.testing.assert_array_equal(person.visible[[2, 3, 4]], [2, 0, 1])
    np.testing.assert_allclose(person.xy_px[5], joints(0.0)[5])
    np.testing.assert_allclose(person.box_xyxy_px, [10, 20, 110, 80])


def test_cvat_pixels_count_from_the_edge_and_interpolated_shapes_are_left_out(
    tmp_path: Path,
) -> None:
    file = read_labels(save(tmp_path, cvat(), "annotations.xml"))
    assert (file.form, file.video_frames) == ("cvat", 20)
    assert [frame.number for frame in file.frames] == [0, 9]
    person = file.frames[0].people[0]
    np.testing.assert_allclose(person.xy_px, joints(0.0), atol=1e-5)
    assert person.visible.tolist() == [2, 1, *[2] * 15]
    assert person.track == "2"


def test_a_cvat_joint_that_is_outside_is_unlabelled(tmp_path: Path) -> None:
    person = read_labels(save(tmp_path, cvat(outside="1"))).frames[0].people[0]
    assert np.isnan(person.xy_px[0]).all() and person.visible[0] == 0


def test_where_one_cvat_track_has_a_key_frame_the_others_interpolated_shapes_count(
    tmp_path: Path,
) -> None:
    points = ";".join(f"{x},{y}" for x, y in joints(0.5))
    shapes = [
        f'<track id="{i}" label="person">'
        + "".join(
            f'<points frame="{t}" keyframe="{int(t in keys)}" outside="0" points="{points}"/>'
            for t in range(7)
        )
        + "</track>"
        for i, keys in ((0, (0, 6)), (1, (0, 3)))
    ]
    file = read_labels(save(tmp_path, f"<annotations>{''.join(shapes)}</annotations>"))
    assert [(f.number, len(f.people)) for f in file.frames] == [(0, 2), (3, 2), (6, 2)]
    assert file.skeleton is COCO17  # points without names are in its order
    np.testing.assert_allclose(file.frames[0].people[0].xy_px[0], joints(0.0)[0] + [0, -0.5])


def test_cvat_for_images_tells_people_apart_by_group(tmp_path: Path) -> None:
    points = ";".join(f"{x},{y}" for x, y in joints(0.5))
    text = f'<points label="person" group_id="{{}}" points="{points}"/>'
    images = "".join(
        f'<image id="{i}" name="f_{i:03d}.png" width="200" height="100">{text.format(3)}'
        f"{text.format(8)}</image>"
        for i in (4, 9)
    )
    file = read_labels(save(tmp_path, f"<annotations>{images}</annotations>"))
    assert [f.number for f in file.frames] == [4, 9]
    assert [p.track for p in file.frames[1].people] == ["3", "8"]
    with pytest.raises(ConfigError, match="frame 4: person 3 is there twice"):
        same = images.replace('group_id="8"', 'group_id="3"')
        read_labels(save(tmp_path, f"<annotations>{same}</annotations>"))


def test_label_studio_pictures_are_percentages_of_the_picture(tmp_path: Path) -> None:
    file = read_labels(save(tmp_path, label_studio()))
    (frame,) = file.frames
    assert (file.form, frame.number, file.skeleton) == ("label-studio", 12, COCO17)
    np.testing.assert_allclose(frame.people[0].xy_px, joints(0.0), atol=1e-4)
    np.testing.assert_allclose(frame.people[0].box_xyxy_px, [9.5, 19.5, 109.5, 79.5], atol=1e-4)


def test_label_studio_videos_have_a_small_rectangle_per_joint(tmp_path: Path) -> None:
    def region(name: str, keys: list[tuple[int, float, bool]], person: str) -> dict[str, Any]:
        sequence = [
            {"frame": f, "enabled": on, "x": x, "y": 40.0, "width": 2.0, "height": 4.0}
            for f, x, on in keys
        ]
        value = {"labels": [name], "framesCount": 30, "sequence": sequence}
        return {
            "id": f"{person}{name}", "type": "videorectangle", "value": value,
            "meta": {"text": [person]},
        }  # fmt: skip

    names = COCO17.joints
    result = [region(n, [(1, 10.0, True), (11, 30.0, True)], "anna") for n in names[1:]]
    result.append(region("nose", [(1, 10.0, False), (11, 30.0, True), (6, 20.0, False)], "anna"))
    tasks = [{"data": {"video": "v.mp4"}, "annotations": [{"result": result}]}]
    with pytest.raises(ConfigError, match=r"not the picture's size; .* together with the video"):
        read_labels(save(tmp_path, tasks))
    file = read_labels(save(tmp_path, tasks), size_px=(WIDTH, HEIGHT))
    assert file.video_frames == 30
    assert [f.number for f in file.frames] == [0, 5, 10]
    middle = file.frames[1].people[0]
    assert middle.track == "anna"
    np.testing.assert_allclose(middle.xy_px[3], [(20 + 1) * 2 - 0.5, 42 - 0.5])  # between keys
    np.testing.assert_allclose(middle.xy_px[0], [(20 + 1) * 2 - 0.5, 42 - 0.5])  # a key of its own


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    xy = rng.uniform(10, 90, (2, 3, 17, 2)).astype(np.float32)
    xy[0, 1, 4] = np.nan
    score = np.where(np.isfinite(xy[..., 0]), 0.7, 0).astype(np.float32)
    boxes = np.tile(np.array([5, 6, 95, 96], np.float32), (2, 3, 1))
    boxes[1, 2] = np.nan
    labelled = np.array([True, False, False])
    visible = np.where(np.isfinite(xy[..., 0]), 2, 0).astype(np.uint8)
    visible[0, 0, 3] = 1
    dense = DenseLabels(
        COCO17, (WIDTH, HEIGHT), ("3", "anna"), labelled, (100, 200, 300), xy, score, visible,
        boxes, {"method": "flow"},
    )  # fmt: skip
    write_labels(tmp_path / "dense.json", dense)
    file = read_labels(tmp_path / "dense.json")
    assert [(f.number, f.stamp_ns, len(f.people)) for f in file.frames] == [
        (0, 100, 2), (1, 200, 2), (2, 300, 1),
    ]  # fmt: skip
    assert [p.track for p in file.frames[0].people] == ["3", "anna"]
    np.testing.assert_allclose(file.frames[1].people[0].xy_px, xy[0, 1], atol=0.006)
    assert file.frames[0].people[0].visible[3] == 1
    written = json.loads((tmp_path / "dense.json").read_text())
    first = next(a for a in written["annotations"] if a["image_id"] == 2)
    assert first["keypoint_scores"][3:6] == [0.7, 0.0, 0.7]
    assert first["keypoints"][12:15] == [0, 0, 0]
    assert [i["labelled"] for i in written["images"]] == [True, False, False]


def test_who_is_alone_in_every_frame_is_one_person(tmp_path: Path) -> None:
    first, second = label_studio()[0], label_studio()[0]
    second["data"]["image"] = "frame_000019.png"
    for region in second["annotations"][0]["result"]:
        region["id"] = "other" + region["id"]
        if "parentID" in region:
            region["parentID"] = "otherr1"
    file = read_labels(save(tmp_path, [first, second]))
    assert [(f.number, f.people[0].track) for f in file.frames] == [(12, "r1"), (19, "r1")]


def test_several_people_need_names(tmp_path: Path) -> None:
    data = coco()
    (person,) = data["annotations"]
    del person["track_id"]
    data["images"].append({**data["images"][0], "id": 4, "file_name": "13.png"})
    data["annotations"] += [{**person, "id": 8}, {**person, "id": 9, "image_id": 4}]
    with pytest.raises(ConfigError, match="frame 12: 2 people, and nothing tells who is who"):
        read_labels(save(tmp_path, data))
    del data["annotations"][0]
    file = read_labels(save(tmp_path, data))
    assert {f.people[0].track for f in file.frames} == {"row0"}


def broken(what: str) -> Any:
    data = coco()
    picture, person = data["images"][0], data["annotations"][0]
    doubled = {
        "id": ("annotations", person),
        "picture": ("images", picture),
        "frame": ("images", {**picture, "id": 4}),
        "track": ("annotations", {**person, "id": 8}),
    }
    changed = {
        "box": (person, "bbox", [300, 20, 50, 50]),
        "flat": (person, "bbox", [30, 20, 0, 50]),
        "joints": (person, "keypoints", [1, 2, 2] * 14),
        "names": (data["categories"][0], "keypoints", ["tail", "snout"]),
        "nameless": (picture, "file_name", "picture.png"),
        "nobody": (data, "annotations", []),
        "elsewhere": (person, "image_id", 99),
    }
    if what in doubled:
        table, row = doubled[what]
        data[table].append(copy.deepcopy(row))
    else:
        where, name, value = changed[what]
        where[name] = value
    return data


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("id", "an annotation id is there twice"),
        ("picture", "a picture id is there twice"),
        ("frame", "frame 12 is there twice"),
        ("track", "frame 12: person 5 is there twice"),
        ("box", r"lies outside the picture of 200x100"),
        ("flat", "expected a box with an area"),
        ("joints", "expected 17 joints"),
        ("names", "labels the joints tail, snout; expected those of a joint set we know"),
        ("nameless", "says not which frame it is"),
        ("nobody", "nobody is labelled"),
        ("elsewhere", "1 pictures with people are not listed"),
    ],
)
def test_bad_coco_files_say_what_is_wrong(tmp_path: Path, what: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_labels(save(tmp_path, broken(what)))


def test_other_joint_sets_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"joints are those of coco17 \(17\), expected crowdpose14"
    ):
        read_labels(save(tmp_path, coco()), CROWDPOSE14.name)
    with pytest.raises(ConfigError, match="not among them: tail"):
        read_labels(save(tmp_path, cvat().replace('"nose"', '"tail"')))
    few = read_labels(save(tmp_path, cvat()), "")
    assert few.skeleton is COCO17


def test_files_that_are_no_labels_are_named(tmp_path: Path) -> None:
    for content in ("<annotations><track", "<html></html>", '{"images": [', "[1, 2]", '{"a": 1}'):
        with pytest.raises(SourceError, match=r"labels\.json"):
            read_labels(save(tmp_path, content))
    with pytest.raises(SourceError, match="expected labels"):
        read_labels(tmp_path / "none.json")


def test_a_tracks_id_twice_and_points_twice_are_refused(tmp_path: Path) -> None:
    twice = cvat().replace('<track id="4"', '<track id="2"')
    with pytest.raises(ConfigError, match="track id 2 is there twice"):
        read_labels(save(tmp_path, twice))
    tasks = label_studio()
    tasks[0]["annotations"][0]["result"].append(tasks[0]["annotations"][0]["result"][1])
    with pytest.raises(ConfigError, match="Nose is there twice"):
        read_labels(save(tmp_path, tasks))


def cvat_track(number: int, *shapes: tuple[int, int, int]) -> str:
    """Track of a skeleton: (frame, keyframe, outside) each."""

    def drawn(time: int, key: int, outside: int) -> str:
        points = "".join(
            f'<points label="{name}" keyframe="{key}" outside="{outside}" points="{x},{y}"/>'
            for name, (x, y) in zip(COCO17.joints, joints(0.5).tolist(), strict=True)
        )
        return f'<skeleton frame="{time}" keyframe="{key}">{points}</skeleton>'

    inner = "".join(drawn(*shape) for shape in shapes)
    return f'<track id="{number}" label="person">{inner}</track>'


def numbers_of(path: Path) -> list[tuple[int | None, int]]:
    return [(frame.number, len(frame.people)) for frame in read_labels(path).frames]


def test_the_end_that_cvat_puts_behind_a_single_shape_labels_nothing(tmp_path: Path) -> None:
    single = [cvat_track(i, (f, 1, 0), (f + 1, 1, 1)) for i, f in enumerate((0, 5, 9))]
    text = f"<annotations>{''.join(single)}</annotations>"
    assert numbers_of(save(tmp_path, text)) == [(0, 1), (5, 1), (9, 1)]
    # who was drawn twice and then left was seen to be gone
    left = cvat_track(0, (0, 1, 0), (1, 0, 0), (2, 1, 0), (3, 1, 1))
    text = f"<annotations>{left}</annotations>"
    assert numbers_of(save(tmp_path, text)) == [(0, 1), (2, 1), (3, 0)]


@pytest.mark.parametrize(
    ("task", "length"),
    [
        ("<size>6</size><frame_filter></frame_filter><start_frame>0</start_frame>", 6),
        ("<size>6</size><frame_filter>step=15</frame_filter>", None),
        ("<size>6</size><start_frame>30</start_frame>", None),
        ("", None),
    ],
)
def test_a_cvat_task_of_some_frames_says_no_length(
    tmp_path: Path, task: str, length: int | None
) -> None:
    """Its size counts its own frames, its shapes those of the video."""
    text = (
        f"<annotations><meta><task>{task}</task></meta>{cvat_track(0, (75, 1, 0))}</annotations>"
    )
    file = read_labels(save(tmp_path, text))
    assert (file.frames[0].number, file.video_frames) == (75, length)
    job = text.replace("task>", "job>")
    assert read_labels(save(tmp_path, job)).video_frames is None


def test_label_studio_names_files_of_local_storage_behind_the_path(tmp_path: Path) -> None:
    for source in (
        "/data/local-files/?d=asl%2Fframe_000015.png", "/data/local-files/?d=asl/frame_000015.png",
        "s3://bucket/asl/frame_000015.png", "https://x.org/frame_000015.png?token=3",
    ):  # fmt: skip
        tasks = label_studio()
        tasks[0]["data"]["image"] = source
        assert numbers_of(save(tmp_path, tasks)) == [(15, 1)]


def test_what_cvat_interpolated_in_a_coco_export_is_no_label(tmp_path: Path) -> None:
    data = coco()
    (picture,), (person,) = data["images"], data["annotations"]
    del person["track_id"]
    data["images"] = [{**picture, "id": i, "file_name": f"frame_{i:06d}.PNG"} for i in range(4)]
    data["annotations"] = [
        {**person, "id": 2 * i + track, "image_id": i,
         "attributes": {"occluded": False, "track_id": track, "keyframe": i == key}}
        for i in range(4) for track, key in ((0, 0), (1, 2))
    ]  # fmt: skip
    path = save(tmp_path, data)
    assert numbers_of(path) == [(0, 2), (2, 2)]  # as in its XML
    assert [p.track for p in read_labels(path).frames[1].people] == ["0", "1"]


def test_coco_joints_are_matched_by_name(tmp_path: Path) -> None:
    for names in (sorted(COCO17.joints), COCO17.joints[:1] + COCO17.joints[5:]):
        data = coco()
        data["categories"][0]["keypoints"] = [n.replace("_", " ").title() for n in names]
        rows = [COCO17.index(name) for name in names]
        triples = np.column_stack([joints(0.0), np.full(17, 2)])[rows]
        data["annotations"][0]["keypoints"] = triples.ravel().tolist()
        file = read_labels(save(tmp_path, data))
        person = file.frames[0].people[0]
        assert file.skeleton is COCO17
        np.testing.assert_allclose(person.xy_px[rows], joints(0.0)[rows])
        assert [k for k in range(17) if person.visible[k]] == sorted(rows)
    data["annotations"][0]["keypoints"] = [1, 2, 2] * 4
    with pytest.raises(ConfigError, match="expected 17 joints"):
        read_labels(save(tmp_path, data))


def test_another_length_may_be_label_studios_frame_rate(tmp_path: Path) -> None:
    footage = Footage("film", tuple([None] * 9), (WIDTH, HEIGHT), 30.0)  # type: ignore[list-item]
    labels = replace(read_labels(save(tmp_path, label_studio())), video_frames=7)
    with pytest.raises(ConfigError, match=r'7 frames, this one has 9.*<Video>.*frameRate="30"'):
        attach(labels, footage)
    with pytest.raises(ConfigError, match=r"labels of another video\?$"):
        attach(replace(labels, form="cvat"), footage)
