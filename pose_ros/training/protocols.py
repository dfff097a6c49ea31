"""The protocols of the papers: predictions of a dataset's samples to numbers.

Every function takes the dataset and what was predicted for its samples, in the network's joint
set, and returns metrics by name. The measures themselves are in `training.metrics`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pose_ros.core.skeletons import CROWDPOSE14, POSETRACK15, Skeleton, convert, get_skeleton
from pose_ros.core.values import FloatArray
from pose_ros.errors import ConfigError, ShapeError, SourceError
from pose_ros.training.datasets.base import ClipDataset, read_json, samples
from pose_ros.training.datasets.clips import LabelledClips
from pose_ros.training.datasets.posetrack_files import read_predictions, truth_frames
from pose_ros.training.metrics import classification, coco, lifting, pck, posetrack, smoothness
from pose_ros.training.metrics.arrays import known_joints, mean_known
from pose_ros.training.predict import Predicted
from pose_ros.training.refined import LEAST, refine_poses, runs_of, step_of

Float = npt.NDArray[np.float64]

PROTOCOLS = ("poseval", "coco", "pckh", "pck", "mpjpe", "hstpn")
#: What a dataset is measured by when nobody says.
DEFAULTS = {
    "posetrack17": "poseval",
    "posetrack18": "poseval",
    "posetrack21": "poseval",
    "badminton": "poseval",
    "mpii": "pckh",
    "sportspose": "pck",
    "human36m": "mpjpe",
    "rosbag": "pck",
}
#: Sets whose pictures have areas, or a rule for them, and every person of a picture a label.
COCO_LIKE = ("coco", "coco_file", "crowdpose", "ochuman")
#: PCK's reach in shares of the box's longer side.
PCK_ALPHA = 0.1
#: A predicted bone is too long when it is longer than its label ever is in the run, times this.
LONGER = 1.05


@dataclass(frozen=True)
class Options:
    """What a protocol can be told."""

    keypoint_min: float = 0.0  # predicted joints with a lower score are left out
    tau: float | None = None  # hstpn: confidence threshold; None: the best F1 on this data
    macro: bool = False  # hstpn: mean over joint types
    nms: float = 0.9  # coco: OKS above which a weaker pose of the same person is dropped
    refine_hz: float = 0.0  # mpjpe: also judge refined tracks, of frames at this rate; 0: not
    rate_hz: float = 0.0  # of the labels' tracks: motion per second as well; 0: per frame only


def default_protocol(dataset: ClipDataset) -> str:
    """What a dataset is measured by when nobody says."""
    if dataset.name in DEFAULTS:
        return DEFAULTS[dataset.name]
    return "coco" if isinstance(dataset, LabelledClips) else "pck"


def to_joint_set(predicted: Predicted, skeleton: Skeleton) -> Predicted:
    """Predictions in another joint set.

    Raises:
        ConfigError: the network knows none of the joints.

    """
    if predicted.skeleton is skeleton:
        return predicted
    xy, score = convert(predicted.xy_px, predicted.score, predicted.skeleton, skeleton)
    shared = set(predicted.skeleton.joints) & set(skeleton.joints)
    if not shared:
        raise ConfigError(
            f"the network's joint set {predicted.skeleton.name} shares no joint with the "
            f"dataset's {skeleton.name}"
        )
    return Predicted(xy, score, skeleton)


def _clips_of(dataset: ClipDataset, protocol: str) -> LabelledClips:
    if not isinstance(dataset, LabelledClips):
        raise ConfigError(
            f"protocol {protocol} needs the labels of whole frames, which {dataset.name} does not "
            "have; use --protocol pck"
        )
    return dataset


def by_frame(dataset: LabelledClips) -> dict[int, list[int]]:
    """Samples of every frame, by the identity of the frame's label."""
    rows: dict[int, list[int]] = defaultdict(list)
    for row in range(len(dataset)):
        rows[id(dataset.locate(row)[1])].append(row)
    return rows


def poseval_videos(
    dataset: LabelledClips, predicted: Predicted, keypoint_min: float = 0.0
) -> list[posetrack.Video]:
    """Labels and predictions of every video; the score of a joint is peak x box score."""
    ours = to_joint_set(predicted, POSETRACK15)
    rows = by_frame(dataset)
    box = np.array([sample.box_score for sample in samples(dataset)])
    videos = []
    for clip in dataset.clips:
        frames = []
        for frame in clip.frames:
            here = rows.get(id(frame), [])
            score = (ours.score[here] * box[here, None]).astype(np.float64).reshape(-1, 15)
            xy = ours.xy_px[here].astype(np.float64).reshape(-1, 15, 2)
            weak = ours.score[here].reshape(-1, 15) < keypoint_min
            frames.append(
                posetrack.PredictedFrame(np.where(weak[..., None], np.nan, xy), score, None)
            )
        videos.append(posetrack.Video(clip.name, truth_frames(clip), frames))
    return videos


def poseval(dataset: ClipDataset, predicted: Predicted, options: Options) -> dict[str, float]:
    """PoseTrack's AP in percent, as poseval has it: joints, groups, ``total`` and ``m7``."""
    clips = _clips_of(dataset, "poseval")
    if clips.skeleton is not POSETRACK15:
        raise ConfigError(
            f"protocol poseval needs PoseTrack's joints, {dataset.name} has {clips.skeleton.name}"
        )
    return posetrack.average_precision(poseval_videos(clips, predicted, options.keypoint_min))


def poseval_files(dataset: ClipDataset, folder: Path) -> dict[str, float]:
    """AP and MOTA of a folder of prediction files, one per video, named as the label files."""
    clips = _clips_of(dataset, "poseval")
    videos = [
        posetrack.Video(
            clip.name, truth_frames(clip), read_predictions(folder / f"{clip.name}.json", clip)
        )
        for clip in clips.clips
    ]
    return {**posetrack.average_precision(videos), **posetrack.tracking(videos)}


def coco_labels(dataset: LabelledClips) -> tuple[list[Any], list[coco.LabelledPeople]]:
    """Frames that somebody labelled, and their people in COCO's terms."""
    frames = [frame for clip in dataset.clips for frame in clip.frames if frame.labelled]
    labels = []
    for frame in frames:
        people = frame.people
        xy = np.array([p.xy_px for p in people], np.float64).reshape(-1, len(dataset.skeleton), 2)
        box = np.array([p.box_xyxy_px for p in people], np.float64).reshape(-1, 4)
        size = box[:, 2:] - box[:, :2]
        area = np.array([p.area_px2 for p in people], np.float64)
        labels.append(
            coco.LabelledPeople(
                xy,
                np.concatenate([box[:, :2] + 0.5, size], axis=1),
                np.where(np.isfinite(area), area, coco.CROWDPOSE_COVER * size.prod(axis=1)),
                np.array([p.ignore for p in people], np.bool_),
            )
        )
    return frames, labels


def coco_results(
    dataset: LabelledClips, predicted: Predicted, nms: float = 0.9
) -> list[dict[str, Any]]:
    """COCO keypoint results: instance score, and OKS suppression for detected boxes."""
    ours = to_joint_set(predicted, dataset.skeleton)
    box = [sample.box_score for sample in samples(dataset)]
    score = coco.instance_score(np.array(box), ours.score.astype(np.float64))
    results: list[dict[str, Any]] = []
    rows = by_frame(dataset)
    for clip in dataset.clips:
        for frame in clip.frames:
            here = np.array(rows.get(id(frame), []), np.int64)
            xy = np.nan_to_num(ours.xy_px[here].astype(np.float64))
            if dataset.detections is not None and len(here):
                area = (xy.max(axis=1) - xy.min(axis=1)).prod(axis=1)
                keep = coco.oks_nms(xy, score[here], area, dataset.skeleton.oks_sigma, nms)
                here, xy = here[keep], xy[keep]
            for row, joints in zip(here.tolist(), xy, strict=True):
                triples = np.column_stack([joints, ours.score[row]])
                results.append(
                    {
                        "image_id": frame.image_id,
                        "category_id": 1,
                        "keypoints": [float(v) for v in triples.ravel()],
                        "score": float(score[row]),
                    }
                )
    return results


def score_coco(dataset: LabelledClips, results: Sequence[dict[str, Any]]) -> dict[str, float]:
    """COCO's numbers in [0, 1] of keypoint results; CrowdPose's levels where they are known.

    Raises:
        ConfigError: results for pictures that are not in the dataset, or of another joint set.
        SourceError: entries without the fields of COCO's form.

    """
    frames, labels = coco_labels(dataset)
    joints = len(dataset.skeleton)
    found: dict[int, list[tuple[Any, float]]] = {frame.image_id: [] for frame in frames}
    for entry in results:
        try:
            image_id, flat = int(entry["image_id"]), np.asarray(entry["keypoints"], np.float64)
            score = float(entry["score"])
        except (KeyError, TypeError, ValueError) as error:
            raise SourceError(
                f"results: expected image_id, keypoints and score, got {error!r}"
            ) from error
        if image_id not in found:
            raise ConfigError(f"results: picture {image_id} is not in the dataset: another split?")
        if flat.size != 3 * joints:
            raise ConfigError(f"results: expected {joints} joints, got {flat.size} numbers")
        found[image_id].append((flat.reshape(joints, 3)[:, :2], score))
    predicted = [
        coco.PredictedPeople(
            np.array([xy for xy, _ in found[f.image_id]], np.float64).reshape(-1, joints, 2),
            np.array([s for _, s in found[f.image_id]], np.float64),
        )
        for f in frames
    ]
    sigma = dataset.skeleton.oks_sigma
    crowd = np.array([frame.crowd_index for frame in frames])
    if dataset.skeleton is CROWDPOSE14 and np.isfinite(crowd).all():
        return coco.crowdpose_ap(labels, predicted, sigma, crowd)
    return coco.keypoint_ap(labels, predicted, sigma)


@dataclass(frozen=True, eq=False)
class Slots:
    """Labels and predictions of the key frames of N samples, in the dataset's joint set."""

    skeleton: Skeleton
    truth: FloatArray  # (N, K, 2)
    visible: npt.NDArray[np.uint8]  # (N, K)
    found: FloatArray  # (N, K, 2)
    score: FloatArray  # (N, K)
    box_xyxy_px: FloatArray  # (N, 4)
    head_px: Float  # (N,)
    area_px2: Float  # (N,)
    track: tuple[str, ...]
    frame: npt.NDArray[np.int64]  # (N,)

    def of(self, some: npt.NDArray[np.bool_]) -> Slots:
        """Those of ``some`` (N,) samples."""
        whole = ("skeleton", "track")
        arrays = {f.name: getattr(self, f.name)[some] for f in fields(self) if f.name not in whole}
        kept = tuple(name for name, keep in zip(self.track, some, strict=True) if keep)
        return Slots(skeleton=self.skeleton, track=kept, **arrays)


def slots(dataset: ClipDataset, predicted: Predicted) -> Slots:
    """Gather what per-person protocols compare.

    Raises:
        ConfigError: the samples are detections, which have no labels.

    """
    ours = to_joint_set(predicted, dataset.skeleton)
    rows = list(samples(dataset))
    if isinstance(dataset, LabelledClips) and dataset.detections is not None:
        raise ConfigError("this protocol compares person by person: leave boxes= away")
    box = np.array([s.box_xyxy_px for s in rows], np.float32).reshape(-1, 4)
    size = (box[:, 2:] - box[:, :2]).astype(np.float64)
    area = np.array([s.area_px2 for s in rows], np.float64)
    return Slots(
        skeleton=dataset.skeleton,
        truth=np.array([s.xy_px[s.key] for s in rows], np.float32),
        visible=np.array([s.visible[s.key] for s in rows], np.uint8),
        found=ours.xy_px,
        score=ours.score,
        box_xyxy_px=box,
        head_px=np.array([s.head_px for s in rows], np.float64),
        area_px2=np.where(np.isfinite(area), area, coco.CROWDPOSE_COVER * size.prod(axis=1)),
        track=tuple(s.track for s in rows),
        frame=np.array([s.frame_index[s.key] for s in rows], np.int64),
    )


def score_pckh(rows: Slots, skeleton: Skeleton) -> dict[str, float]:
    """MPII's PCKh in percent.

    Raises:
        ConfigError: no sample has a head rectangle.

    """
    if not np.isfinite(rows.head_px).any():
        raise ConfigError("PCKh needs head rectangles, this dataset has none: --protocol pck")
    return pck.pckh_mpii(rows.found, rows.truth, np.nan_to_num(rows.head_px), skeleton)


def score_pck(rows: Slots) -> dict[str, float]:
    """PCK in percent within 5, 10 and 20 % of the box's longer side, and the area up to 20 %."""
    side = pck.box_side_px(rows.box_xyxy_px)
    error = pck.errors(rows.found, rows.truth, side)
    answer = {f"pck{int(100 * a)}": 100.0 * pck.share_within(error, a) for a in (0.05, 0.1, 0.2)}
    return {**answer, "auc": 100.0 * pck.area_under_curve(error, np.arange(0.0, 0.201, 0.01))}


def score_hstpn(dataset: ClipDataset, rows: Slots, options: Options) -> dict[str, float]:
    """Accuracy, recall, F1 and AUC in percent, PCK's area beside them, and the tau that was used.

    A joint is right within PCKh 0.5 where heads are known, where the OKS kernel is at least 0.5
    for COCO-like sets, and within 10 % of the box's height elsewhere. Where heads are known,
    people without a head rectangle do not count.

    Raises:
        ConfigError: a tau that is not positive.

    """
    if np.isfinite(rows.head_px).any():  # nothing can be said of those without a head rectangle
        rows = rows.of(np.isfinite(rows.head_px))
    error_px = np.linalg.norm(rows.found.astype(np.float64) - rows.truth, axis=2)
    with np.errstate(invalid="ignore"):
        if np.isfinite(rows.head_px).any():
            right = error_px <= 0.5 * rows.head_px[:, None]
        elif dataset.name in ("sportspose", "human36m", "rosbag"):
            height = (rows.box_xyxy_px[:, 3] - rows.box_xyxy_px[:, 1])[:, None]
            right = error_px <= PCK_ALPHA * height
        else:
            sigma = np.array(dataset.skeleton.oks_sigma)
            kernel = classification.kernel(error_px, rows.area_px2, sigma)
            right = kernel >= classification.KERNEL_MIN
    visible = rows.visible > 0
    tau = options.tau
    if tau is None:
        tau = classification.best_tau(rows.score, visible, right)
    if not tau > 0:
        raise ConfigError(f"tau: expected a confidence above 0, got {tau}: 0 claims every joint")
    answer = classification.pose_classification(rows.score, visible, right, tau, options.macro)
    return {**answer, "auc_pck": score_pck(rows)["auc"], "tau": tau}


def known_beside(dataset: ClipDataset, predicted: Predicted, rows: Slots) -> dict[str, float]:
    """What everybody knows, in percent, beside measures that only one paper has.

    ``pckh`` where heads are known, ``oks_ap`` (COCO's AP) on whole pictures in COCO's form.
    """
    if np.isfinite(rows.head_px).any():
        return {"pckh": score_pckh(rows, dataset.skeleton)["pckh"]}
    if dataset.name in COCO_LIKE and isinstance(dataset, LabelledClips):
        return {"oks_ap": 100.0 * score_coco(dataset, coco_results(dataset, predicted))["ap"]}
    return {}


def motion_of(rows: Slots, rate_hz: float = 0.0) -> dict[str, float]:
    """Errors of velocity and acceleration, and jitter, along the tracks.

    Per labelled frame (`step_of`), squared, cubed; in pixels, and in head sizes where heads are
    known; with ``rate_hz``, of labelled frames, per second as well, under names that end in
    ``_s``, ``_s2``, ``_s3``. ``overlong``: share of bones longer than their labels ever are in the
    same run. Nothing without tracks of four evenly labelled frames.
    """
    measured: dict[str, list[float]] = defaultdict(list)
    for run in runs_of(rows.track, rows.frame, 4, step_of(rows.track, rows.frame)):
        found, truth = rows.found[run], rows.truth[run]
        head = mean_known(rows.head_px[run])
        for name, value in _motion(found, truth).items():
            measured[f"{name}_px"].append(value)
            if head > 0:
                measured[f"{name}_head"].append(value / head)
        longest = LONGER * smoothness.longest_bones(truth, rows.skeleton)
        measured["overlong"].append(smoothness.overlong_rate(found, rows.skeleton, longest))
    return _per_second({name: mean_known(values) for name, values in measured.items()}, rate_hz)


def _motion(found: FloatArray | Float, truth: FloatArray | Float) -> dict[str, float]:
    """How a track (T, K, D) moves, in the unit of its positions and per frame."""
    return {
        "velocity_error": smoothness.velocity_error(found, truth),
        "accel_error": smoothness.acceleration_error(found, truth),
        "jitter": smoothness.jitter(found),
    }


def _per_second(answer: dict[str, float], rate_hz: float) -> dict[str, float]:
    """The same with velocities, accelerations and jitter per second added, at a known rate."""
    if not rate_hz:
        return answer
    order = {"velocity": 1, "accel": 2, "jitter": 3}
    more = {}
    for name, value in answer.items():
        power = order.get(name.partition("_")[0])
        if power:
            more[f"{name}_s{power if power > 1 else ''}"] = value * rate_hz**power
    return {**answer, **more}


def score_mpjpe(
    dataset: ClipDataset, path: Path, refine_hz: float = 0.0, rate_hz: float = 0.0
) -> dict[str, float]:
    """3-D errors of a file of predictions ``xyz_m`` (N, K, 3), in the dataset's order of samples.

    The file may name its joint set as ``skeleton``. Along tracks of consecutive frames: errors of
    velocity and acceleration, and jitter, of the joints about the pelvis, mm per frame, squared,
    cubed, and per second if ``rate_hz`` (or ``refine_hz``) says how fast frames come; steadiness
    and symmetry of the bones, and the share of hinges that are bent as no body can be. With
    ``refine_hz``, the same of the refined tracks follows under names that end in ``_refined``.

    Raises:
        SourceError: the file cannot be read.
        ConfigError: the dataset has no 3-D labels.
        ShapeError: another number of poses than samples.

    """
    rows = list(samples(dataset))
    if not rows or any(s.xyz_m is None for s in rows):
        raise ConfigError(f"protocol mpjpe needs 3-D labels, which {dataset.name} does not have")
    truth = np.array([s.xyz_m[s.key] for s in rows if s.xyz_m is not None], np.float64)
    try:
        with np.load(path, allow_pickle=False) as file:
            found = np.asarray(file["xyz_m"], np.float32)
            name = str(file["skeleton"]) if "skeleton" in file else dataset.skeleton.name
    except (OSError, ValueError, KeyError) as error:
        raise SourceError(f"{path}: expected an .npz with xyz_m (N, K, 3): {error}") from error
    if len(found) != len(truth):
        raise ShapeError(f"{path}: expected {len(truth)} poses, one per sample, got {len(found)}")
    source = get_skeleton(name)
    if source is not dataset.skeleton:
        found, _score = convert(
            found, np.ones(found.shape[:2], np.float32), source, dataset.skeleton
        )
    poses = found.astype(np.float64)
    frames = np.array([s.frame_index[s.key] for s in rows], np.int64)
    tracks, rate_hz = [s.track for s in rows], rate_hz or refine_hz
    runs = runs_of(tracks, frames, LEAST, step_of(tracks, frames))
    answer = _per_second(_errors_3d(poses, truth, runs, dataset.skeleton), rate_hz)
    if refine_hz:
        sure = known_joints(poses).astype(np.float32)
        moved = refine_poses(poses, sure, runs, refine_hz, dataset.skeleton, tracks)
        refined = _errors_3d(moved.astype(np.float64), truth, runs, dataset.skeleton)
        answer |= {f"{n}_refined": value for n, value in _per_second(refined, rate_hz).items()}
    return answer


def _errors_3d(
    poses: Float, truth: Float, runs: Sequence[npt.NDArray[np.int64]], skeleton: Skeleton
) -> dict[str, float]:
    answer = lifting.pose_errors(poses, truth, skeleton)
    found = poses - lifting.root_of(poses, skeleton)
    wanted = truth - lifting.root_of(truth, skeleton)
    motion = [_motion(1000.0 * found[r], 1000.0 * wanted[r]) for r in runs]
    along = {f"{n}_mm": mean_known([m[n] for m in motion]) for n in (motion[0] if motion else ())}
    bones = {
        "bone_cv": [smoothness.bone_variation(found[r], skeleton) for r in runs],
        "asymmetry": [smoothness.asymmetry(found[r], skeleton) for r in runs],
        "angle_violations": [smoothness.angle_violations(found[r], skeleton) for r in runs],
    }
    return {**answer, **along, **{name: mean_known(values) for name, values in bones.items()}}


def measure(
    dataset: ClipDataset, predicted: Predicted, protocol: str, options: Options
) -> dict[str, float]:
    """Metrics of a network's predictions by one of PROTOCOLS.

    Raises:
        ConfigError: an unknown protocol, or one that the dataset has no labels for.

    """
    if protocol == "poseval":
        answer = poseval(dataset, predicted, options)
    elif protocol == "coco":
        clips = _clips_of(dataset, protocol)
        answer = score_coco(clips, coco_results(clips, predicted, options.nms))
    elif protocol in ("pckh", "pck", "hstpn"):
        rows = slots(dataset, predicted)
        scored = {
            "pckh": lambda: score_pckh(rows, dataset.skeleton),
            "pck": lambda: score_pck(rows),
        }
        scored["hstpn"] = lambda: {
            **score_hstpn(dataset, rows, options),
            **known_beside(dataset, predicted, rows),
        }
        return {**scored[protocol](), **motion_of(rows, options.rate_hz)}
    elif protocol == "mpjpe":
        raise ConfigError(
            "protocol mpjpe judges 3-D poses of a file: --predictions FILE.npz; a 2-D network is "
            "judged by --protocol pck"
        )
    else:
        raise ConfigError(f"protocol '{protocol}' is not known; known: {', '.join(PROTOCOLS)}")
    labelled = not (isinstance(dataset, LabelledClips) and dataset.detections is not None)
    if not labelled:
        return answer
    return {**answer, **motion_of(slots(dataset, predicted), options.rate_hz)}


def measure_file(
    dataset: ClipDataset, path: Path, protocol: str, options: Options | None = None
) -> dict[str, float]:
    """Metrics of a file or folder of predictions in the protocol's own form.

    Raises:
        ConfigError: the protocol has no form for files.

    """
    if protocol == "poseval":
        return poseval_files(dataset, path)
    if protocol == "coco":
        return score_coco(_clips_of(dataset, protocol), read_json(path))
    if protocol == "mpjpe":
        told = options or Options()
        return score_mpjpe(dataset, path, told.refine_hz, told.rate_hz)
    raise ConfigError(f"--predictions works with poseval, coco and mpjpe, not with {protocol}")
