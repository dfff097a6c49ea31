"""One id per person over time.

A frame passes twice: ``propose`` says whom to look at and where (predicted boxes, and detections
that no track explains), the network looks, and ``observe`` decides which pose continues which
track. The first association is by box overlap, the second by box overlap and pose similarity,
which undoes a swap of two people whose boxes crossed. Ids are never reused.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from pose_ros.core.boxes import area, around_joints, iou, oks
from pose_ros.core.config import TrackConfig
from pose_ros.core.motion import BoxFilter
from pose_ros.core.refine_memory import warp
from pose_ros.core.skeletons import Skeleton
from pose_ros.core.values import Boxes, FloatArray, IntArray, People, Poses2D, Tracks, TrackState

#: A body reaches past its joints: left, top, right, bottom, as shares of the longer side.
JOINT_BOX_PAD = (0.08, 0.12, 0.08, 0.06)
#: A joint counts as seen from this score on.
JOINT_SEEN = 0.2
#: A pose with fewer joints is no measurement.
JOINTS_MIN = 4
#: A box is measured from this share of the joints on; fewer only move it.
BOX_JOINTS_SHARE = 0.6
#: A confirmed person is still measured with this share of ``pose_min``.
KNOWN_SHARE = 0.7
#: Two poses more alike than this are the same person seen twice.
SAME_PERSON_OKS = 0.65
#: A track that the detector did not confirm this many times in a row needs a confident pose.
UNSUPPORTED_MAX = 3
POSE_MIN_UNSUPPORTED = 0.5
#: An unseen person is looked for at the predicted place for this long; then a detection must.
LOOK_FOR_S = 0.25
#: No image is this large: what the joints of a network that means nothing could grow to.
BOX_MAX_PX = 20_000.0
#: Two detections that overlap more are of the same thing.
GHOST_IOU = 0.5
#: A detection in which the network found nobody is not looked at again for this long.
GHOST_S = 0.5
#: A person not yet confirmed is given up sooner: this share of ``max_lost_s``.
TENTATIVE_SHARE = 0.3
#: An image may come so much later than the last step between two before it is missed.
LATE = 1.5
# Plain numbers: numpy is slow to see one in an IntEnum.
LOST, TENTATIVE = int(TrackState.LOST), int(TrackState.TENTATIVE)
TRACKED, OCCLUDED = int(TrackState.TRACKED), int(TrackState.OCCLUDED)


class Tracker:
    """Ids, states, motion and the last pose of everybody in view."""

    def __init__(self, config: TrackConfig, skeleton: Skeleton) -> None:
        """Know nobody; the first id is 1."""
        self.config = config
        self._sigma = np.asarray(skeleton.oks_sigma, np.float32)
        self._joints = len(skeleton)
        self.next_id = 1
        self._forget()

    def _forget(self) -> None:
        self._stamp_ns: int | None = None
        self._step_s = 0.0  # between the last two frames
        self._boxes = BoxFilter()
        self._ids = np.zeros(0, np.int64)
        self._state = np.zeros(0, np.int8)
        self._hits = np.zeros(0, np.int64)
        self._unsupported = np.zeros(0, np.int64)
        self._seen_ns = np.zeros(0, np.int64)
        self._score = np.zeros(0, np.float32)  # detector's
        self._confidence = np.zeros(0, np.float32)  # geometric mean of detector and pose
        self._detected = np.zeros(0, np.bool_)  # in this frame
        self._pose = np.zeros((0, self._joints, 2), np.float32)
        self._pose_centre = np.zeros((0, 2), np.float32)  # of the box the pose was seen in
        self._ghosts = np.zeros((0, 4), np.float32)
        self._ghosts_ns = np.zeros(0, np.int64)

    def reset(self) -> Tracks:
        """Forget everybody; the answer says LOST for each id that was ever reported."""
        self._state[:] = LOST
        last = self._tracks(self._hits > 0)
        self._forget()
        return last

    @property
    def busy(self) -> bool:
        """Whether anybody is followed."""
        return len(self._ids) > 0

    def transform(self, homography: npt.NDArray[np.float64]) -> None:
        """Move everybody remembered by a homography (3, 3) of pixels, when the camera turned."""
        self._boxes.transform(homography)
        for name in ("_pose", "_pose_centre"):
            moved, _ = warp(homography, getattr(self, name).astype(np.float64))
            setattr(self, name, moved.astype(np.float32))
        corners, _ = warp(homography, self._ghosts.reshape(-1, 2, 2).astype(np.float64))
        self._ghosts = corners.reshape(-1, 4).astype(np.float32)

    def propose(self, stamp_ns: int, boxes: Boxes | None) -> People:
        """People to look at in the frame of ``stamp_ns``; ``boxes`` None: not detected in it."""
        self._step_s = 0.0 if self._stamp_ns is None else (stamp_ns - self._stamp_ns) * 1e-9
        self._advance(stamp_ns)
        self._age(stamp_ns, self._step_s)
        self._detected = np.zeros(len(self._ids), np.bool_)
        if boxes is not None:
            self._explain(boxes, stamp_ns)
        unseen_s = (stamp_ns - self._seen_ns) * 1e-9
        alive = self._state != LOST
        patience_s = max(LOOK_FOR_S, self._step_s)
        looked = np.flatnonzero(alive & (self._detected | (unseen_s <= patience_s)))
        if len(looked) > self.config.max_people:
            newcomer = self._state[looked] == TENTATIVE
            best = np.lexsort((self._ids[looked], -self._score[looked], newcomer))
            looked = np.sort(looked[best[: self.config.max_people]])
        self._looked = looked
        return People(
            self._ids[self._looked],
            self._boxes.xyxy_px[self._looked],
            self._score[self._looked],
        )

    def observe(self, poses: Poses2D) -> tuple[Tracks, Poses2D]:
        """Everybody after the frame, and their poses in the same order.

        ``poses`` are the network's for the people proposed, in that order. A track without a
        measurement gets NaN joints.
        """
        stamp_ns = self._stamp_ns or 0
        confidence = pose_confidence(poses)
        seen = poses.score >= JOINT_SEEN
        boxes = around_joints(poses.xy_px, seen, JOINT_BOX_PAD)
        usable = self._usable(confidence) & (seen.sum(axis=1) >= JOINTS_MIN)
        usable &= np.abs(np.nan_to_num(boxes)).max(axis=1, initial=0.0) < BOX_MAX_PX
        confidence = np.sqrt(poses.score.mean(axis=1) * self._score[self._looked])
        usable &= ~self._doubles(poses, boxes, usable, confidence)
        rows, cols = self._assign(poses, boxes, np.flatnonzero(usable))
        whole = seen.mean(axis=1) >= BOX_JOINTS_SHARE
        part = ~whole[cols] & (self._hits[rows] > 0)
        measured = boxes[cols]
        if part.any():
            measured[part] = self._moved(rows[part], poses.xy_px[cols[part]])
        self._boxes.update(rows, measured)
        self._measure(rows, np.where(seen[..., None], poses.xy_px, np.nan)[cols], confidence[cols])
        self._age(stamp_ns)
        out_xy = np.full((len(self._ids), self._joints, 2), np.nan, np.float32)
        out_score = np.zeros((len(self._ids), self._joints), np.float32)
        out_xy[rows], out_score[rows] = poses.xy_px[cols], poses.score[cols]
        out_std = None if poses.std_px is None else np.full_like(out_score, np.nan)
        if out_std is not None and poses.std_px is not None:
            out_std[rows] = poses.std_px[cols]
        return self._finish(out_xy, out_score, out_std)

    def coast(self, stamp_ns: int) -> tuple[Tracks, Poses2D]:
        """Everybody at ``stamp_ns`` when no image came: OCCLUDED, LOST after ``max_lost_s``.

        ``stamp_ns`` is a guess of the caller's clock, so nobody is moved to it: the next frame may
        well be older.
        """
        self._state[self._state == TRACKED] = OCCLUDED
        self._age(stamp_ns, LATE * self._step_s)
        nothing = np.full((len(self._ids), self._joints, 2), np.nan, np.float32)
        return self._finish(nothing, np.zeros(nothing.shape[:2], np.float32))

    def _advance(self, stamp_ns: int) -> None:
        dt_s = 0.0 if self._stamp_ns is None else (stamp_ns - self._stamp_ns) * 1e-9
        self._boxes.predict(
            min(dt_s, self.config.max_lost_s), self._seen_ns < (self._stamp_ns or 0)
        )
        self._stamp_ns = stamp_ns

    def _explain(self, boxes: Boxes, stamp_ns: int) -> None:
        """Give each detection to the track it overlaps, or start a track with it."""
        similarity = iou(self._boxes.xyxy_px, boxes.xyxy_px)
        similarity[self._state == LOST] = 0.0
        rows, cols = _best_pairs(similarity, self.config.match_min)
        self._boxes.update(rows, boxes.xyxy_px[cols])
        self._score[rows] = boxes.score[cols]
        self._detected[rows] = True
        self._unsupported = np.where(self._detected, 0, self._unsupported + 1)
        recent = self._ghosts[stamp_ns - self._ghosts_ns <= GHOST_S * 1e9]
        ghost = np.asarray((iou(boxes.xyxy_px, recent) > GHOST_IOU).any(axis=1))
        ghost[cols] = True
        new = np.flatnonzero(~ghost)
        self._start(
            boxes.select(new[: max(self.config.max_people * 2 - len(self._ids), 0)]), stamp_ns
        )

    def _start(self, boxes: Boxes, stamp_ns: int) -> None:
        count = len(boxes)
        if not count:
            return
        ids = np.arange(self.next_id, self.next_id + count)
        self.next_id += count
        self._boxes.add(boxes.xyxy_px)
        self._ids = np.append(self._ids, ids)
        self._state = np.append(self._state, np.full(count, TENTATIVE, np.int8))
        self._hits = np.append(self._hits, np.zeros(count, np.int64))
        self._unsupported = np.append(self._unsupported, np.zeros(count, np.int64))
        self._seen_ns = np.append(self._seen_ns, np.full(count, stamp_ns, np.int64))
        self._score = np.append(self._score, boxes.score)
        self._confidence = np.append(self._confidence, np.zeros(count, np.float32))
        self._detected = np.append(self._detected, np.ones(count, np.bool_))
        unknown = np.full((count, self._joints, 2), np.nan, np.float32)
        self._pose = np.concatenate([self._pose, unknown])
        self._pose_centre = np.concatenate([self._pose_centre, np.zeros((count, 2), np.float32)])

    def _usable(self, confidence: FloatArray) -> np.ndarray:
        """(P,) which of the looked-at people were really seen."""
        known = self._hits[self._looked] >= self.config.min_hits
        least = np.where(known, KNOWN_SHARE, 1.0) * self.config.pose_min
        alone = self._unsupported[self._looked] >= UNSUPPORTED_MAX
        return confidence >= np.where(alone, np.maximum(POSE_MIN_UNSUPPORTED, least), least)

    def _doubles(
        self, poses: Poses2D, boxes: FloatArray, usable: np.ndarray, confidence: FloatArray
    ) -> np.ndarray:
        """(P,) poses that repeat another one: the longer and better known track keeps it."""
        if len(poses) < 2:
            return np.zeros(len(poses), np.bool_)
        size = np.nan_to_num(area(boxes))
        alike = oks(poses.xy_px, poses.xy_px, size, self._sigma)
        same = np.maximum(alike, alike.T) > SAME_PERSON_OKS
        rank = np.lexsort((poses.ids, -confidence, -np.minimum(self._hits[self._looked], 30)))
        double = np.zeros(len(poses), np.bool_)
        for position, row in enumerate(rank):
            better = rank[:position]
            double[row] = bool((same[row, better] & usable[better] & ~double[better]).any())
        return double

    def _assign(
        self, poses: Poses2D, boxes: FloatArray, usable: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rows of tracks and columns of poses that belong together."""
        predicted = self._boxes.xyxy_px
        centre = (predicted[:, :2] + predicted[:, 2:]) / 2
        moved = (self._pose + (centre - self._pose_centre)[:, None]).astype(np.float32)
        size = area(predicted)
        similarity = 0.5 * iou(predicted, boxes[usable])
        similarity += 0.5 * oks(moved, poses.xy_px[usable], size, self._sigma)
        # A pose belongs to the track it was looked for, unless another explains it clearly better;
        # what a newcomer shows is rather a known person found again.
        own = self._ids[:, None] == poses.ids[usable][None]
        known = np.where(self._hits[:, None] > 0, similarity, 0.0) + self.config.match_min
        similarity = np.where(own, known, similarity)
        similarity[self._state == LOST] = 0.0
        rows, cols = _best_pairs(similarity, self.config.match_min)
        return rows, usable[cols]

    def _moved(self, rows: np.ndarray, xy_px: FloatArray) -> FloatArray:
        """Boxes moved like the joints since they were last seen; where none was, as predicted.

        A person seen in part must not shrink to that part.
        """
        if len(rows) == 0:
            return np.zeros((0, 4), np.float32)
        shift = xy_px - self._pose[rows]
        known = np.isfinite(shift).any(axis=(1, 2))
        median = np.zeros((len(rows), 2), np.float32)
        median[known] = np.nanmedian(shift[known], axis=1)
        box = self._boxes.xyxy_px[rows]
        half = (box[:, 2:] - box[:, :2]) / 2
        centre = np.where(known[:, None], self._pose_centre[rows] + median, box[:, :2] + half)
        return np.concatenate([centre - half, centre + half], axis=1)

    def _measure(self, rows: np.ndarray, xy_px: FloatArray, confidence: FloatArray) -> None:
        """Note that the tracks ``rows`` were seen with joints (R, J, 2), NaN where unseen."""
        self._hits[rows] += 1
        self._seen_ns[rows] = self._stamp_ns or 0
        self._confidence[rows] = confidence
        self._pose[rows] = xy_px
        self._pose_centre[rows] = self._boxes.value[rows, :2]
        sure = self._hits[rows] >= self.config.min_hits
        was = self._state[rows]
        now = np.where(sure | (was == OCCLUDED), TRACKED, was)
        self._state[rows] = now
        unseen = self._state == TRACKED
        unseen[rows] = False
        self._state[unseen] = OCCLUDED

    def _age(self, stamp_ns: int, step_s: float = 0.0) -> None:
        """End who is unseen for too long; after a long step everybody gets one more look."""
        unseen_s = (stamp_ns - self._seen_ns) * 1e-9
        longest_s = self.config.max_lost_s
        limit = np.where(self._state == TENTATIVE, TENTATIVE_SHARE, 1.0) * longest_s
        self._state[unseen_s > np.maximum(limit, min(step_s, longest_s))] = LOST

    def _tracks(self, rows: np.ndarray) -> Tracks:
        return Tracks(
            self._ids[rows], self._state[rows], self._boxes.xyxy_px[rows],
            self._confidence[rows], self._seen_ns[rows],
        )  # fmt: skip

    def _finish(
        self, xy_px: FloatArray, score: FloatArray, std_px: FloatArray | None = None
    ) -> tuple[Tracks, Poses2D]:
        """Report everybody who ever had a pose; forget the others, and who is LOST."""
        told = self._hits > 0
        report = self._tracks(told)
        self._remember_ghosts(self._boxes.xyxy_px[~told])
        self._keep(told & (self._state != LOST))
        stated = None if std_px is None else std_px[told]
        return report, Poses2D(report.ids, xy_px[told], score[told], stated)

    def _remember_ghosts(self, boxes: FloatArray) -> None:
        if not len(boxes) and not len(self._ghosts):  # as in almost every frame
            return
        now = self._stamp_ns or 0
        recent = now - self._ghosts_ns <= GHOST_S * 1e9
        self._ghosts = np.concatenate([self._ghosts[recent], boxes])
        self._ghosts_ns = np.append(self._ghosts_ns[recent], np.full(len(boxes), now, np.int64))

    def _keep(self, rows: np.ndarray) -> None:
        if rows.all():  # as in almost every frame
            return
        self._boxes.keep(rows)
        for name in (
            "_ids", "_state", "_hits", "_unsupported", "_seen_ns", "_score", "_confidence",
            "_detected", "_pose", "_pose_centre",
        ):  # fmt: skip
            setattr(self, name, getattr(self, name)[rows])


def pose_confidence(poses: Poses2D) -> FloatArray:
    """(P,) mean score of the better half of the joints: a person may be half in view."""
    best = np.sort(poses.score, axis=1)[:, ::-1]
    half = max(1, (poses.score.shape[1] + 1) // 2)
    return best[:, :half].mean(axis=1).astype(np.float32)


def _best_pairs(similarity: FloatArray, least: float) -> tuple[IntArray, IntArray]:
    """Rows and columns of the assignment with the greatest total; none under ``least``."""
    rows, cols = linear_sum_assignment(similarity, maximize=True)
    good = similarity[rows, cols] >= least
    return rows[good], cols[good]
