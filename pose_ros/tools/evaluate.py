"""Accuracy on labelled pictures: the pipeline against COCO-style keypoint annotations.

Every picture is taken as a video of one frame: a video network sees it repeated. RESULTS.json is a
COCO keypoint results file. AP and AR are COCO's, by pycocotools; pck10 is the share of labelled
joints that lie within 10 % of the person's longer box side from the matched prediction.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pose_ros.build import build_pipeline
from pose_ros.core.config import DetectConfig
from pose_ros.core.pipeline import PosePipeline
from pose_ros.core.values import Boxes, ByteArray, Frame, PoseResult
from pose_ros.errors import ConfigError, SourceError
from pose_ros.tools import cli


class LabelledBoxes:
    """A detector that knows the answer, for judging the pose network alone."""

    config = DetectConfig()

    def __init__(self) -> None:
        """Wait for the first picture's boxes."""
        self.boxes = Boxes.empty()

    def __call__(self, rgb: ByteArray) -> Boxes:
        """Boxes last set, whatever the picture."""
        return self.boxes


def main(argv: list[str]) -> dict[str, Any]:
    """Run the command; see ``--help``."""
    args = _parse(argv)
    data = load_annotations(Path(args.annotations), args.sources)
    # AP integrates over all thresholds, so the weak answers are wanted here too.
    config = cli.pipeline_config(
        args, detect__threshold=0.15, track__max_people=20, track__pose_min=0.0
    )
    pipeline = build_pipeline(config)
    labelled = LabelledBoxes()
    if args.boxes == "labelled":
        pipeline.detector = labelled
    results: list[dict[str, Any]] = []
    spent_ms: list[float] = []
    for image in cli.progress(data["images"], len(data["images"]), "picture"):
        rgb = _read(Path(args.images) / image["file_name"])
        labelled.boxes = label_boxes(data["people"][image["id"]])
        start = time.perf_counter()
        answer = look(pipeline, rgb)
        spent_ms.append((time.perf_counter() - start) * 1e3)
        results += to_coco(answer, image["id"])
    if args.out:
        Path(args.out).write_text(json.dumps(results), encoding="utf-8")
    metrics = coco_metrics(data["coco"], results, [image["id"] for image in data["images"]])
    return {
        **metrics,
        "pck10": pck(data, results, 0.1),
        "images": len(data["images"]),
        "people": sum(len(people) for people in data["people"].values()),
        "boxes": args.boxes,
        "net": pipeline.net.name,
        "trained": pipeline.net.trained,
        "ms_per_image": round(float(np.mean(spent_ms)), 2),
    }


def load_annotations(path: Path, sources: str | None) -> dict[str, Any]:
    """COCO-style annotations: ``coco`` the file, ``images`` in use, ``people`` by picture id.

    Raises:
        SourceError: the file cannot be read or is no such file.
        ConfigError: none of the pictures is of the wanted sources.

    """
    try:
        coco = json.loads(path.read_text(encoding="utf-8"))
        images, annotations = coco["images"], coco["annotations"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SourceError(f"{path}: expected COCO keypoint annotations, got {error!r}") from error
    if sources:
        wanted = sources.split(",")
        images = [image for image in images if image.get("source") in wanted]
    if not images:
        have = sorted({str(image.get("source")) for image in coco["images"]})
        raise ConfigError(f"no pictures of sources {sources}; the file has {', '.join(have)}")
    people = defaultdict(list)
    for person in annotations:
        if person.get("num_keypoints", 0) > 0 and not person.get("iscrowd", 0):
            people[person["image_id"]].append(person)
    return {"coco": coco, "images": images, "people": {i["id"]: people[i["id"]] for i in images}}


def label_boxes(people: list[dict[str, Any]]) -> Boxes:
    """Boxes of the labels, as sure as can be."""
    if not people:
        return Boxes.empty()
    xywh = np.array([person["bbox"] for person in people], np.float32)
    xyxy = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1) - np.float32(0.5)
    return Boxes(xyxy, np.ones(len(people), np.float32))


def look(pipeline: PosePipeline, rgb: ByteArray) -> PoseResult:
    """Answer to a single picture, without any past."""
    pipeline.reset()
    return [*pipeline.push(Frame(rgb, 0)), *pipeline.finish()][0]


def to_coco(answer: PoseResult, image_id: int) -> list[dict[str, Any]]:
    """COCO keypoint results.

    COCO's keypoints are pixel indices, which is our convention; its boxes are edges, half a pixel
    off. Source: detectron2, ``coco_evaluation.py: instances_to_coco_json``.
    """
    out = []
    for row in range(len(answer.poses)):
        xy = np.nan_to_num(answer.poses.xy_px[row])
        triples = np.column_stack([xy, answer.poses.score[row]])
        out.append(
            {
                "image_id": image_id,
                "category_id": 1,
                "keypoints": [round(float(v), 3) for v in triples.ravel()],
                "score": float(answer.tracks.confidence[row]),
            }
        )
    return out


def coco_metrics(
    coco: dict[str, Any], results: list[dict[str, Any]], ids: list[int]
) -> dict[str, float]:
    """AP, AP50, AP75 and AR of COCO's keypoint protocol, on the pictures ``ids``."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    if not results:
        return {"ap": 0.0, "ap50": 0.0, "ap75": 0.0, "ar": 0.0}
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {"info": {}, "categories": [{"id": 1, "name": "person"}], **coco}
        truth.createIndex()
        judge = COCOeval(truth, truth.loadRes(results), "keypoints")
        judge.params.imgIds = ids
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    names = {"ap": 0, "ap50": 1, "ap75": 2, "ar": 5}
    return {name: round(float(judge.stats[index]), 4) for name, index in names.items()}


def pck(data: dict[str, Any], results: list[dict[str, Any]], share: float) -> float:
    """Share of labelled joints within ``share`` of the longer box side; missed people count."""
    found = defaultdict(list)
    for result in results:
        found[result["image_id"]].append(np.array(result["keypoints"]).reshape(-1, 3))
    right = total = 0
    for image_id, people in data["people"].items():
        answers = found[image_id]
        for person in people:
            label = np.array(person["keypoints"], float).reshape(-1, 3)
            marked = label[:, 2] > 0
            total += int(marked.sum())
            reach = share * max(person["bbox"][2:])
            if answers:
                miss = [np.hypot(*(a[marked, :2] - label[marked, :2]).T) for a in answers]
                right += int((min(miss, key=np.mean) <= reach).sum())
    return round(right / max(total, 1), 4)


def _read(path: Path) -> ByteArray:
    bgr = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if bgr is None:
        raise SourceError(f"{path}: expected a picture named by the annotations, cannot read it")
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = cli.command("evaluate", __doc__)
    parser.add_argument("--annotations", required=True, metavar="COCO.json")
    parser.add_argument("--images", required=True, metavar="DIR")
    parser.add_argument(
        "--boxes", choices=("detected", "labelled"), default="detected",
        help="boxes of the detector, or those of the labels (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--sources", metavar="A,B", help="only pictures of these sources")
    parser.add_argument("--out", metavar="RESULTS.json", help="COCO keypoint results file")
    cli.add_pipeline_options(parser)
    return parser.parse_args(argv)


if __name__ == "__main__":
    cli.run(main)
