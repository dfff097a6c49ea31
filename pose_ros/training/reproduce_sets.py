"""The data sets of the papers' tables: which part is learned from, and with what settings."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Parts:
    """Which parts of a data set are learned from, choose the weights, and are judged."""

    train: str
    val: str
    test: str
    joints: str
    train_set: str = ""  # another set that is learned from
    settings: tuple[str, ...] = ()  # of training, for data of this kind
    judging: tuple[str, ...] = ()  # options of evaluation, for data of this kind
    refine_hz: float = 0.0  # rate of its tracks, where it has tracks of every frame


STILLS = ("net.options.frames=1", "loss.burn_in_p=0", "augment.recrop_p=0", "train.monitor=f1")
#: What HSTPN's recipe asks of its memory, where a row has none.
NO_MEMORY = ("loss.burn_in_p=0", "augment.recrop_p=0", "loss.aprs=0")
SETS = {
    **{
        f"posetrack{year}": Parts("split=train", "split=val", "split=val", "posetrack15")
        for year in ("17", "18", "21")
    },
    # no validation part is known: as for PoseTrack, the judged one chooses
    "badminton": Parts("split=train", "split=test", "split=test", "posetrack15"),
    "mpii": Parts("split=train", "split=val", "split=val", "mpii16", settings=STILLS),
    # its text averages over joint types
    "crowdpose": Parts(
        "split=train", "split=val", "split=test", "crowdpose14", "", STILLS, ("--macro",)
    ),
    # has no part to learn from (models.md, H24)
    "ochuman": Parts(
        "split=train2017", "split=val", "split=test", "coco17", "coco", settings=STILLS
    ),
    "sportspose": Parts("", "", "", "coco17", settings=("train.monitor=f1",), refine_hz=10.0),
}  # fmt: skip
