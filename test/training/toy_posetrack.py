"""PoseTrack label and prediction files of made-up people, in both forms, in the true layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

NAMES18 = (
    "nose", "head_bottom", "head_top", "left_ear", "right_ear", "left_shoulder", "right_shoulder",
    "left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip",
    "left_knee", "right_knee", "left_ankle", "right_ankle",
)  # fmt: skip
NAMES17 = (
    "right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle",
    "right_wrist", "right_elbow", "right_shoulder", "left_shoulder", "left_elbow", "left_wrist",
    "head_bottom", "nose", "head_top",
)  # fmt: skip
CATEGORY = [{"id": 1, "name": "person", "keypoints": list(NAMES18)}]
VIDEOS = ("000342_mpii_test", "000522_mpii_test", "009473_mpii_test")
FRAMES = 8
PEOPLE = 3
SIZE = (640, 480)  # width, height


def image18(video: str, frame: int, split: str = "val") -> dict[str, Any]:
    """Entry of a picture, as PoseTrack18 writes it."""
    number = 10000000000 + int(video[:6]) * 10000 + frame
    return {
        "id": number, "frame_id": number, "vid_id": video[:6], "nframes": FRAMES,
        "is_labeled": True, "file_name": f"images/{split}/{video}/{frame:06d}.jpg",
    }  # fmt: skip


def _point(name: str, xy: np.ndarray, **more: Any) -> dict[str, Any]:
    values = {"id": NAMES17.index(name), "x": float(xy[0]), "y": float(xy[1]), **more}
    return {key: [value] for key, value in values.items()}


def _person18(xy: np.ndarray, known: np.ndarray, flag: np.ndarray) -> list[float]:
    return np.column_stack([np.where(known[:, None], xy, 0.0), flag]).ravel().tolist()


def _points17(xy: np.ndarray, known: np.ndarray, **more: np.ndarray) -> list[dict[str, Any]]:
    return [
        _point(name, xy[i], **{key: values[i].item() for key, values in more.items()})
        for i, name in enumerate(NAMES18)
        if name in NAMES17 and known[i]
    ]


class Toy:
    """Files of one video: labels and predictions of both forms, as plain dictionaries."""

    def __init__(self, video: str, rng: np.random.RandomState) -> None:
        self.video = video
        self.labels18: dict[str, Any] = {"images": [], "annotations": [], "categories": CATEGORY}
        self.found18: dict[str, Any] = {"images": [], "annotations": [], "categories": CATEGORY}
        self.labels17: dict[str, Any] = {"annolist": []}
        self.found17: dict[str, Any] = {"annolist": []}
        base = rng.uniform(60, 420, (PEOPLE, 1, 2)) + rng.normal(0, 40, (PEOPLE, 17, 2))
        coarse = video == VIDEOS[1]  # scores with many ties
        for frame in range(FRAMES):
            image = image18(video, frame)
            entry: dict[str, Any] = {"image": [{"name": image["file_name"]}], "annorect": []}
            found: dict[str, Any] = {"image": [{"name": image["file_name"]}], "annorect": []}
            self._region(rng, image, entry)
            labelled = rng.random_sample() < 0.85
            for person in range(PEOPLE):
                xy = np.round(base[person] + rng.normal(0, 5, (17, 2)) + 3 * frame, 1)
                self._label(rng, person, xy, labelled, (image, entry))
                self._find(rng, person, xy, coarse, (image, found))
            self.labels18["images"].append(image)
            self.found18["images"].append({k: image[k] for k in ("id", "file_name")})
            self.labels17["annolist"].append(entry)
            self.found17["annolist"].append(found)

    @staticmethod
    def _region(rng: np.random.RandomState, image: dict, entry: dict) -> None:
        if rng.random_sample() < 0.4:
            x, y, w = rng.uniform(0, 400), rng.uniform(0, 300), rng.uniform(50, 200)
            xs, ys = [x, x + w, x + w / 2, x], [y, y, y + w, y + w]
            image["ignore_regions_x"], image["ignore_regions_y"] = [xs], [ys]
            points = [{"x": [a], "y": [b]} for a, b in zip(xs, ys, strict=True)]
            entry["ignore_regions"] = [{"point": points}]

    def _label(
        self, rng: np.random.RandomState, person: int, xy: np.ndarray, labelled: bool, out: tuple
    ) -> None:
        known = rng.random_sample(17) < 0.8
        if rng.random_sample() < 0.1:
            known[:] = False
        seen = known & (rng.random_sample(17) < 0.7)
        head = np.round(rng.uniform(20, 60, 2), 1)
        if not labelled or rng.random_sample() > 0.85:
            return
        image, entry = out
        xywh = [*xy[2].tolist(), *head.tolist()]
        low, size = xy.min(axis=0), xy.max(axis=0) - xy.min(axis=0)
        self.labels18["annotations"].append(
            {
                "image_id": image["id"], "id": len(self.labels18["annotations"]),
                "track_id": person, "category_id": 1, "scores": [], "bbox_head": xywh,
                "bbox": [*low.tolist(), *size.tolist()],
                "keypoints": _person18(xy, known, seen.astype(int)),
            }
        )  # fmt: skip
        points = _points17(xy, known, is_visible=seen.astype(int))
        corners = {"x1": xywh[0], "y1": xywh[1], "x2": xywh[0] + xywh[2], "y2": xywh[1] + xywh[3]}
        entry["annorect"].append(
            {
                **{key: [value] for key, value in corners.items()},
                "track_id": [person],
                "annopoints": [{"point": points}] if points else [],
            }
        )

    def _find(
        self, rng: np.random.RandomState, person: int, xy: np.ndarray, coarse: bool, out: tuple
    ) -> None:
        spread = (4, 15, 60)[rng.randint(3)]
        found = np.round(xy + rng.normal(0, spread, (17, 2)), 1)
        known = rng.random_sample(17) < 0.9
        track = person if rng.random_sample() < 0.8 else person + 10 * int(rng.randint(1, 3))
        score = np.round(rng.random_sample(17), 1 if coarse else 4)
        if rng.random_sample() > 0.85:
            return
        image, entry = out
        self.found18["annotations"].append(
            {
                "image_id": image["id"], "id": len(self.found18["annotations"]),
                "track_id": track, "category_id": 1, "scores": score.tolist(),
                "keypoints": _person18(found, known, known.astype(int)),
            }
        )  # fmt: skip
        corners = {"x1": [0], "y1": [0], "x2": [1], "y2": [1], "track_id": [track]}
        points = _points17(found, known, score=score)
        entry["annorect"].append({**corners, "annopoints": [{"point": points}]})


def toys(seed: int = 5) -> list[Toy]:
    """Three videos; the same for a seed with every numpy (RandomState's streams are frozen)."""
    rng = np.random.RandomState(seed)
    return [Toy(video, rng) for video in VIDEOS]


def write(folder: Path, form: int, pictures: bool = True) -> tuple[Path, Path]:
    """Lay a dataset out as its download does; the root, and a folder of predictions beside it."""
    sub = {17: "annotations/val", 18: "annotations/val", 21: "posetrack_data/val"}[form]
    root, found = folder / "root", folder / "found"
    (root / sub).mkdir(parents=True)
    found.mkdir()
    for toy in toys():
        old = form == 17
        labels, predictions = (toy.labels17, toy.found17) if old else (toy.labels18, toy.found18)
        (root / sub / f"{toy.video}.json").write_text(json.dumps(labels))
        (found / f"{toy.video}.json").write_text(json.dumps(predictions))
        if pictures:
            write_pictures(root, [image["file_name"] for image in toy.labels18["images"]])
    return root, found


def write_pictures(root: Path, names: list[str]) -> None:
    """Grey pictures, each of another level."""
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.full((SIZE[1], SIZE[0], 3), 20 * number, np.uint8))
