"""The networks of `ablate.py` at their small size, and the rows of their ablation tables."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

TRUNK = "movenet_lightning"
LEVELS = 4  # features of the trunk, finest first
SIGMA_CELLS = 1.25  # of the targets: 2 at 64x48 cells would be half a body here


@dataclass(frozen=True)
class Row:
    """One variant of a network."""

    about: str
    options: dict[str, Any] = field(default_factory=dict)  # on top of the network's
    spread: int = 1  # pictures between neighbours of the window
    still: bool = False  # the key picture in place of its neighbours
    labels: bool = False  # the joints of the side pictures are given


@dataclass(frozen=True)
class Family:
    """A network at its small size, and the rows of its paper's ablation table."""

    net: str
    options: dict[str, Any]
    rows: dict[str, Row]
    levels: int = 1  # of the trunk's features that it reads
    channels: int = 0  # it gets so many principal components of the finest one, 0: all channels
    steps: float = 1.0  # of the recipe's: some are costly
    lr: float = 1.0  # of the recipe's: convolutions behind batch norms want more
    warm: float = 0.0  # steps before these, without alignment and at three times the rate


SIZE = {"backbone": TRUNK, "size_hw_px": (96, 64), "joints": 17}
TOKENS = {**SIZE, "freeze": True, "model_dim": 64, "head_channels": 32}
STILL = Row("the whole network, shown the key picture only", still=True)
FULL = Row("the whole network")

FAMILIES = {
    "hstpn": Family(
        "hstpn_robot",
        {**SIZE, "channels": 16, "dropout": 0.0},
        {
            "off": Row("no memory", {"temporal": "off"}),
            "still": STILL,
            "full": FULL,
            "tconv": Row("eq 17 instead of eq 16, one picture ahead", {"temporal": "tconv"}),
            "no_msf": Row("no multi-scale fusion: the coarsest feature", {"msf": False}),
            "no_attn": Row("no attention-driven prediction", {"attn": False}),
        },
        levels=LEVELS,
        steps=2 / 3,
        lr=3.0,
    ),
    "pstpose": Family(
        "pstpose_movenet",
        TOKENS,
        {
            "off": Row("key picture's tokens to the head",
                       {"dfe": "none", "fcg": False, "dsf": "none"}),
            "still": STILL,
            "full": FULL,
            "baseline": Row("the paper's: one plain attention over all tokens",
                            {"dfe": "mhsa", "fcg": False, "dsf": "none"}),
            "no_dfe": Row("plain for differential attention", {"dfe": "mhsa"}),
            "no_fcg": Row("no clusters", {"fcg": False}),
            "no_dsf": Row("no deformable fusion", {"dsf": "none"}),
        },
    ),
    "vremd": Family(
        "vremd_movenet",
        {**TOKENS, "human_blocks": 1, "kpt_blocks": 1, "adc_blocks": 1},
        {
            "off": Row("neither stream: key picture's tokens to the head",
                       {"hkme": False, "bmd": False}),
            "still": STILL,
            "full": FULL,
            "hkme": Row("visual stream only", {"bmd": False}),
            "bmd": Row("motion stream only", {"hkme": False}),
            "no_masks": Row("neither human nor keypoint mask",
                            {"human_mask": False, "keypoint_mask": False}),
            "one_way": Row("one motion stream for both directions", {"bidir": False}),
            "dc": Row("a deformable convolution for DCA", {"motion_op": "dc"}),
        },
    ),
    "stdpose": Family(
        "stdpose_movenet",
        {**TOKENS, "sigma_cells": SIGMA_CELLS, "tff_blocks": 1, "pa_blocks": 1},
        {
            "off": Row("(a) key picture's tokens to the head", {"tff": False, "tks": False}),
            "still": STILL,
            "full": Row("(f) the whole network"),
            "tff": Row("(b) features only", {"tks": False}),
            "tks": Row("(c) heatmaps only", {"tff": False}),
            "no_dam": Row("(d) no dynamic mask, no information term",
                          {"dam": False, "mi": False}),
            "no_mi": Row("(e) no information term", {"mi": False}),
            "labels": Row("labels of both neighbours given (T = 2)", labels=True),
            "labels_far": Row("labels two pictures away given (T = 4)", spread=2, labels=True),
        },
        steps=2 / 3,
    ),
    "dsa": Family(
        "dsa_robot",
        # HRNet is the frame for stored features of 12 channels; it never runs itself
        {**SIZE, "backbone": "hrnet", "width": 12, "modules": (1, 1, 1), "blocks": 1,
         "freeze": True},
        {
            "off": Row("no alignment, key picture only", {"align": False}, still=True),
            "still": STILL,
            "full": FULL,
            "raw": Row("no alignment: plain concatenation", {"align": False}),
            "no_gab": Row("no global alignment", {"gab": "none"}),
            "conv": Row("convolutions for global alignment", {"gab": "conv"}),
            "no_leb": Row("no local enhancement", {"leb": False}),
            "no_unet": Row("a cascade for the U-Net", {"unet": False}),
            "raw_fast": Row("no alignment, neighbours twice as far", {"align": False}, spread=2),
            "full_fast": Row("the whole network, neighbours twice as far", spread=2),
        },
        channels=12,
        steps=1 / 3,
        warm=1.0,
    ),
}  # fmt: skip


def made_of(name: str, key: str) -> str:
    """Eight hexadecimal digits that change with the settings of a network's row."""
    family = FAMILIES[name]
    values = dataclasses.asdict(dataclasses.replace(family, rows={key: family.rows[key]}))
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]
