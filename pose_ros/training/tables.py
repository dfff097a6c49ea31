"""The tables of the five papers as data: what was printed, and the flags that make each row.

Columns are the papers'; ``metric`` says which of our metrics belongs in a column. Values are as
printed. Flags are fields of the network's config, ``net.options.NAME=VALUE`` for `training.train`,
which every row has to be trained with. `training.reproduce` runs a row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pose_ros.errors import ConfigError
from pose_ros.training.tables_others import printed

GROUPS = ("Head", "Sho", "Elb", "Wri", "Hip", "Knee", "Ank")
Flags = Mapping[str, object]


@dataclass(frozen=True)
class Row:
    """One row: its printed values in the order of the columns, None where nothing is printed."""

    key: str
    title: str
    values: tuple[float | None, ...]
    flags: Flags | None = field(default_factory=dict)  # of the net; None: not one of our networks
    evaluate: str = ""  # options of training.evaluate that the row needs besides
    interval: int | None = None  # of propagated labels, 0: none is given; None: no propagation


@dataclass(frozen=True)
class Table:
    """A table of a paper."""

    key: str
    title: str
    net: str  # of the registry
    dataset: str  # by name, without a path
    protocol: str
    columns: tuple[tuple[str, str], ...]  # (title, metric)
    rows: tuple[Row, ...]
    note: str = ""

    def row(self, key: str) -> Row:
        """Return the row of that key.

        Raises:
            ConfigError: there is none.

        """
        for row in self.rows:
            if row.key == key:
                return row
        raise ConfigError(
            f"table {self.key} has no row '{key}': {', '.join(r.key for r in self.rows)}"
        )


def _columns(mean: str) -> tuple[tuple[str, str], ...]:
    return (*((g, g) for g in GROUPS), ("Mean", mean))


_MEAN = (("Mean", "total"),)
_HSTPN = (("Acc", "accuracy"), ("Rec", "recall"), ("F1", "f1"), ("AUC", "auc"))
_M7 = "The printed mean is the one of the seven columns (m7); poseval's is `total`."
_UNKNOWN = (
    "The paper does not define its metrics for poses and its set-up is of another field: the "
    "printed numbers are not comparable, only their order is a claim. Refinement needs tracks in "
    "consecutive frames: on single pictures the last two rows are the same network."
)


_SETS = ("17", "18", "21")


def _others(key: str) -> tuple[Row, ...]:
    """Rows of a table that are other people's methods."""
    return tuple(Row(name, title, values, None) for name, title, values in printed(key))


def _estimation(
    net: str, paper: str, numbers: dict[str, tuple[float, ...]], mean: str
) -> list[Table]:
    """Tables 1 to 3 of a PoseTrack paper: the full model on the three sets."""
    return [
        Table(
            f"{paper}.{number}",
            f"{paper}, PoseTrack20{year} val",
            net,
            f"posetrack{year}",
            "poseval",
            _columns(mean),
            (*_others(f"{paper}.{number}"), Row("full", "PSTPose", numbers[year])),
            _M7 if mean == "m7" else "",
        )
        for number, year in enumerate(_SETS, start=1)
    ]


_PSTPOSE = _estimation(
    "pstpose_vitl",
    "pstpose",
    {
        "17": (90.0, 91.7, 89.7, 86.0, 89.9, 87.8, 80.4, 88.0),
        "18": (86.6, 89.2, 85.8, 81.3, 84.9, 84.4, 81.6, 84.9),
        "21": (86.7, 89.1, 85.6, 82.1, 84.1, 84.7, 80.4, 84.8),
    },
    "total",
)
_VREMD = [
    Table(
        f"vremd.{key}",
        f"vremd, PoseTrack20{year} val",
        "vremd_vitl",
        f"posetrack{year}",
        "poseval",
        _columns(mean),
        (*_others(f"vremd.{key}"), Row("full", "VREMD", values)),
        _M7 if mean == "m7" else "",
    )
    for key, year, mean, values in (
        ("1", "17", "total", (89.9, 91.4, 88.8, 84.8, 88.5, 87.8, 81.0, 87.6)),
        ("2", "18", "m7", (86.7, 89.3, 85.6, 82.1, 85.0, 83.9, 79.3, 84.6)),
        ("3", "21", "m7", (87.2, 89.1, 85.2, 82.4, 85.1, 83.4, 79.2, 84.5)),
    )
]
_DSA = [
    Table(
        f"dsa.{key}",
        f"dsa, PoseTrack20{year} val",
        "dsa_w48",
        f"posetrack{year}",
        "poseval",
        _columns("m7"),
        (*_others(f"dsa.{key}"), Row("full", "DSA", values)),
        _M7,
    )
    for key, year, values in (
        ("1", "17", (82.9, 84.2, 80.9, 73.6, 76.8, 76.2, 70.0, 77.8)),
        ("2", "18", (81.5, 85.1, 81.4, 74.8, 75.6, 77.1, 72.3, 78.3)),
    )
]
_STDPOSE = [
    Table(
        f"stdpose.2.{year}",
        f"stdpose, estimation, PoseTrack20{year} val (Table 2)",
        "stdpose_vitl",
        f"posetrack{year}",
        "poseval",
        _columns("m7"),
        (*_others(f"stdpose.2.{year}"), Row("full", "STDPose", values)),
        _M7,
    )
    for year, values in (
        ("17", (89.7, 91.3, 88.5, 84.7, 88.7, 87.9, 80.6, 87.4)),
        ("18", (84.9, 88.3, 85.5, 82.3, 85.9, 84.9, 79.6, 84.5)),
        ("21", (84.4, 88.5, 85.3, 82.3, 85.5, 84.1, 80.0, 84.3)),
    )
]
_STDPOSE_LABELS = [
    *(
        Table(
            f"stdpose.1.{year}",
            f"stdpose, label propagation with T=7, PoseTrack20{year} val (Table 1)",
            "stdpose_vitl",
            f"posetrack{year}",
            "poseval",
            _columns("total"),
            (*_others(f"stdpose.1.{year}"), Row("full", "STDPose", values, interval=7)),
        )
        for year, values in (
            ("17", (92.7, 93.1, 91.4, 88.1, 91.9, 90.3, 88.1, 90.9)),
            ("18", (90.4, 91.6, 87.6, 85.8, 86.9, 87.0, 85.8, 88.0)),
            ("21", (91.5, 90.4, 87.2, 83.3, 85.9, 85.2, 83.2, 86.9)),
        )
    ),
    Table(
        "stdpose.3",
        "stdpose, estimation after learning from propagated labels (Table 3)",
        "stdpose_vitl",
        "posetrack17",
        "poseval",
        _columns("m7"),
        (
            *_others("stdpose.3"),
            Row("t7", "T=7, 16.7 % labelled", (87.1, 85.9, 82.8, 79.6, 83.1, 82.0, 76.3, 82.4),
                interval=7),
            Row("t4", "T=4, 26.7 % labelled", (88.3, 87.8, 84.1, 81.5, 85.3, 84.2, 79.0, 84.3),
                interval=4),
            Row("t2", "T=2, 50.0 % labelled", (88.9, 89.0, 85.4, 82.6, 86.6, 84.9, 79.6, 85.2),
                interval=2),
            Row("all", "all labels", (89.7, 91.3, 88.5, 84.7, 88.7, 87.9, 80.6, 87.4)),
        ),
        _M7,
    ),
    Table(
        "stdpose.4",
        "stdpose, parts of the model, propagation with T=7 (Table 4)",
        "stdpose_vitl",
        "posetrack17",
        "poseval",
        _MEAN,
        (
            Row("a", "baseline", (86.8,),
                {"tff": False, "tks": False, "stda": False, "dam": False, "mi": False},
                interval=0),
            Row("b", "TFF", (88.4,),
                {"tff": True, "tks": False, "stda": False, "dam": False, "mi": False},
                interval=7),
            Row("c", "TKS", (88.6,),
                {"tff": False, "tks": True, "stda": False, "dam": False, "mi": False},
                interval=7),
            Row("d", "TFF + TKS + STDA", (89.6,), {"dam": False, "mi": False}, interval=7),
            Row("e", "+ DAM", (90.3,), {"mi": False}, interval=7),
            Row("f", "+ MI (full)", (90.9,), interval=7),
        ),
        "Row (a) is given no label, row (b) has no path for any; frames that are given count.",
    ),
    Table(
        "stdpose.4.interval",
        "stdpose, interval between labels (Table 4, lower half)",
        "stdpose_vitl",
        "posetrack17",
        "poseval",
        _MEAN,
        tuple(
            Row(f"t{interval}", f"T={interval}", (value,), interval=interval)
            for interval, value in
            ((2, 98.1), (3, 96.8), (5, 92.5), (7, 90.9), (9, 90.1), (15, 83.6))
        ),
        "Labelled frames score 100 and are part of the mean.",
    ),
]  # fmt: skip
_ABLATIONS = [
    Table(
        "pstpose.4",
        "pstpose, parts of the model (Table 4)",
        "pstpose_vitl",
        "posetrack17",
        "poseval",
        _MEAN,
        (
            *_others("pstpose.4"),
            Row("baseline", "baseline", (84.2,), {"dfe": "mhsa", "fcg": False, "dsf": "none"}),
            Row("a", "w/o DFE", (86.5,), {"dfe": "mhsa"}),
            Row("b", "w/o FCG", (86.2,), {"fcg": False}),
            Row("c", "w/o DSF", (86.4,), {"dsf": "none"}),
            Row("full", "full", (88.0,)),
        ),
    ),
    Table(
        "vremd.4",
        "vremd, streams (Table 4)",
        "vremd_vitl",
        "posetrack17",
        "poseval",
        _MEAN,
        (
            Row("baseline", "baseline", (80.2,), {"hkme": False, "bmd": False}),
            Row("hkme", "HKME", (85.3,), {"bmd": False}),
            Row("bmd", "BMD", (85.6,), {"hkme": False}),
            Row("full", "both", (87.6,)),
        ),
    ),
    Table(
        "vremd.5",
        "vremd, masks (Table 5)",
        "vremd_vitl",
        "posetrack17",
        "poseval",
        _MEAN,
        (
            Row("none", "no mask", (85.9,), {"human_mask": False, "keypoint_mask": False}),
            Row("human", "human", (86.5,), {"keypoint_mask": False}),
            Row("keypoint", "keypoint", (86.8,), {"human_mask": False}),
            Row("full", "both", (87.6,)),
        ),
    ),
    Table(
        "vremd.6",
        "vremd, motion operator (Table 6)",
        "vremd_vitl",
        "posetrack17",
        "poseval",
        _MEAN,
        (
            Row("dc", "deformable convolution", (84.7,), {"motion_op": "dc", "bidir": False}),
            Row("da", "deformable attention", (85.8,), {"motion_op": "da", "bidir": False}),
            Row("dca", "deformable cross attention", (87.1,), {"bidir": False}),
            Row("full", "both directions", (87.6,)),
        ),
    ),
    Table(
        "dsa.4",
        "dsa, parts of the model (Table 4)",
        "dsa_w48",
        "posetrack17",
        "poseval",
        (("Mean", "m7"),),
        (
            Row("n2", "2 neighbours", (75.9,), {"supports": 2}),
            Row("n6", "6 neighbours", (77.5,), {"supports": 6}),
            Row("conv", "GAB as plain convolution", (77.2,), {"gab": "conv"}),
            Row("nogab", "w/o GAB", (74.3,), {"gab": "none"}),
            Row("noleb", "w/o LEB", (76.5,), {"leb": False}),
            Row("noalign", "w/o alignment", (72.6,), {"align": False}),
            Row("full", "full", (77.8,)),
        ),
        _M7,
    ),
    Table(
        "dsa.5",
        "dsa, arrangement of the alignment (Table 5)",
        "dsa_w48",
        "posetrack17",
        "poseval",
        (("Mean", "m7"),),
        (
            Row("nounet", "w/o U-Net", (75.9,), {"unet": False}),
            Row("full", "full", (77.8,)),
        ),
        _M7,
    ),
    Table(
        "dsa.3",
        "dsa, badminton (Table 3)",
        "dsa_w48",
        "badminton",
        "poseval",
        _columns("m7"),
        (
            Row("cpm", "CPM", (70.1, 61.5, 69.0, 66.5, 55.6, 59.8, 51.2, 61.9), None),
            Row("lstm_pm", "LSTM-PM", (71.2, 63.5, 69.2, 67.0, 57.0, 61.2, 52.0, 63.0), None),
            Row("resnet50", "ResNet-50", (72.3, 71.0, 70.5, 69.8, 62.1, 66.4, 57.8, 67.1), None),
            Row("hrnet", "HRNet", (76.8, 73.2, 71.1, 70.5, 68.6, 69.8, 59.8, 70.3), None),
            Row("full", "DSA", (79.8, 78.5, 75.6, 71.2, 70.8, 72.3, 61.9, 72.8)),
        ),
        _M7,
    ),
]
#: Runs the iterative refinement (APRS) on what the network says.
_REFINED = "--refine RATE_HZ"
_HSTPN_SETS = ("mpii", "ochuman", "crowdpose", "sportspose")
_HSTPN_FULL = {
    "mpii": (90.21, 88.45, 89.12, 91.56),
    "ochuman": (85.67, 83.78, 84.92, 87.34),
    "crowdpose": (89.12, 87.45, 88.34, 90.45),
    "sportspose": (84.23, 82.12, 83.67, 86.34),
}
_HSTPN_WITHOUT: tuple[tuple[str, str, Flags, dict[str, tuple[float, ...]]], ...] = (
    ("msf", "w/o multi-scale fusion", {"msf": False}, {
        "mpii": (85.12, 82.34, 83.89, 87.12), "ochuman": (80.45, 78.12, 79.78, 82.01),
        "crowdpose": (83.12, 80.45, 81.67, 84.89), "sportspose": (78.34, 76.12, 77.56, 80.03)}),
    ("temporal", "w/o temporal consistency", {"temporal": "off"}, {
        "mpii": (86.45, 83.56, 84.78, 88.23), "ochuman": (81.67, 79.34, 80.45, 83.45),
        "crowdpose": (84.56, 82.12, 83.45, 86.23), "sportspose": (79.67, 77.78, 78.89, 81.45)}),
    ("attn", "w/o attention prediction", {"attn": False}, {
        "mpii": (87.89, 85.23, 86.12, 89.34), "ochuman": (82.89, 80.12, 81.78, 84.67),
        "crowdpose": (85.34, 83.67, 84.23, 87.34), "sportspose": (80.89, 79.12, 80.23, 82.67)}),
    ("aprs", "w/o iterative refinement", {}, {
        "mpii": (88.45, 86.34, 87.23, 90.12), "ochuman": (83.56, 81.45, 82.89, 85.78),
        "crowdpose": (86.45, 84.56, 85.12, 88.12), "sportspose": (81.67, 80.34, 81.45, 83.78)}),
)  # fmt: skip
_HSTPN_TABLES = [
    Table(
        f"hstpn.4.{name}",
        f"hstpn, parts of the model on {name} (Tables 1, 2, 4, 5)",
        "hstpn_r50",
        name,
        "hstpn",
        _HSTPN,
        (
            *(
                Row(key, title, values[name], flags, "" if key == "aprs" else _REFINED)
                for key, title, flags, values in _HSTPN_WITHOUT
            ),
            Row("full", "full", _HSTPN_FULL[name], evaluate=_REFINED),
        ),
        _UNKNOWN,
    )
    for name in _HSTPN_SETS
]
_HSTPN_OTHERS: dict[str, dict[str, tuple[float, ...]]] = {
    "MixSTE": {
        "mpii": (90.01, 88.12, 88.45, 90.67), "ochuman": (85.12, 83.78, 84.73, 87.02),
        "crowdpose": (88.45, 86.78, 87.23, 89.67), "sportspose": (83.45, 81.78, 82.89, 85.89)},
    "TokenPose": {
        "mpii": (89.78, 87.89, 88.01, 90.34), "ochuman": (84.89, 83.12, 84.02, 86.45),
        "crowdpose": (87.89, 85.89, 86.67, 89.12), "sportspose": (83.01, 81.12, 82.34, 85.23)},
    "ViTPose": {
        "mpii": (89.34, 87.23, 87.89, 90.12), "ochuman": (84.45, 82.67, 83.34, 86.01),
        "crowdpose": (87.34, 85.23, 86.27, 88.76), "sportspose": (82.34, 80.56, 81.45, 84.67)},
    "HRNet": {
        "mpii": (88.41, 86.35, 87.12, 89.78), "ochuman": (83.67, 81.42, 82.83, 85.94),
        "crowdpose": (86.45, 84.78, 85.67, 88.12), "sportspose": (82.34, 79.89, 81.12, 84.45)},
    "DARKPose": {
        "mpii": (87.12, 85.34, 86.03, 88.45), "ochuman": (82.89, 80.57, 81.94, 84.78),
        "crowdpose": (85.23, 83.78, 84.67, 87.34), "sportspose": (81.67, 79.12, 80.54, 83.78)},
    "SimpleBaseline": {
        "mpii": (85.67, 83.23, 84.15, 87.34), "ochuman": (81.56, 78.91, 80.23, 83.45),
        "crowdpose": (83.12, 81.56, 82.67, 85.23), "sportspose": (79.45, 76.78, 78.34, 81.45)},
    "AlphaPose": {
        "mpii": (86.34, 84.56, 85.21, 88.12), "ochuman": (82.54, 80.11, 81.67, 84.23),
        "crowdpose": (84.32, 82.67, 83.45, 86.78), "sportspose": (80.12, 77.89, 79.23, 82.54)},
    "OpenPose": {
        "mpii": (84.21, 82.13, 83.67, 85.89), "ochuman": (80.32, 77.89, 79.23, 81.45),
        "crowdpose": (82.45, 80.32, 81.89, 84.67), "sportspose": (78.54, 76.12, 77.89, 80.03)},
    "DeepCut": {
        "mpii": (83.78, 81.42, 82.94, 85.03), "ochuman": (79.12, 76.23, 77.56, 80.14),
        "crowdpose": (81.23, 79.34, 80.67, 83.45), "sportspose": (76.45, 74.12, 75.89, 78.34)},
}  # fmt: skip
_HSTPN_METHODS = [
    Table(
        f"hstpn.{number}.{name}",
        f"hstpn beside other methods on {name} (Table {number})",
        "hstpn_r50",
        name,
        "hstpn",
        _HSTPN,
        (
            *(
                Row(method.lower(), method, values[name], None)
                for method, values in reversed(_HSTPN_OTHERS.items())
            ),
            Row("full", "HSTPN", _HSTPN_FULL[name], evaluate=_REFINED),
        ),
        _UNKNOWN,
    )
    for number, name in ((1, "mpii"), (1, "ochuman"), (2, "crowdpose"), (2, "sportspose"))
]
_HSTPN_COST = Table(
    "hstpn.3",
    "hstpn, what it costs per frame (Table 3)",
    "hstpn_r50",
    "",
    "cost",
    (("ms", "ms"), ("M params", "params_m"), ("GFLOPs", "gflops")),
    (
        Row("openpose", "OpenPose", (42.3, 25.1, 57.3), None),
        Row("alphapose", "AlphaPose", (55.7, 34.9, 98.6), None),
        Row("hrnet", "HRNet-W32", (62.8, 28.5, 82.9), None),
        Row("darkpose", "DARKPose", (64.1, 29.1, 85.2), None),
        Row("full", "HSTPN", (58.2, 26.8, 80.1), evaluate="--protocol cost"),
    ),
    "The paper's ms are of an A100, ours of the device that is named; GFLOPs are two per "
    "multiply-accumulate of one 256x192 crop, the paper does not say of what picture its are.",
)
_NOBODY = (None, None, None, None)
#: Table 6 prints pass or fail: 1 and 0 here. The corruption that stands for each scene is ours.
_HSTPN_SCENES = Table(
    "hstpn.6",
    "hstpn, scenes (Table 6: 1 pass, 0 fail)",
    "hstpn_r50",
    "posetrack18",
    "hstpn",
    (("OpenPose", ""), ("AlphaPose", ""), ("HRNet", ""), ("HSTPN", "f1")),
    (
        Row("occlusion", "occlusion", (0, 1, 1, 1), evaluate="--corruption occlusion:0.5"),
        Row("motion", "fast motion", (1, 0, 1, 1), evaluate="--corruption motion:0.5"),
        Row("lowlight", "low light", (0, 0, 1, 1), evaluate="--corruption lowlight:0.5"),
        Row("full_occlusion", "full occlusion", (0, 0, 0, 0), evaluate="--corruption occlusion:1"),
        Row("crowd", "crowd", (0, 0, 1, 1), evaluate="--dataset crowdpose:ROOT?split=test"),
        Row("legs", "overlapping legs", (0, 0, 0, 0),
            evaluate="--dataset ochuman:ROOT?split=test"),
        Row("blur", "blur (not in the paper)", _NOBODY, evaluate="--corruption blur:0.5"),
        Row("noise", "noise (not in the paper)", _NOBODY, evaluate="--corruption noise:0.5"),
        Row("lowres", "far person (not in the paper)", _NOBODY,
            evaluate="--corruption lowres:0.5"),
        Row("dropframes", "lost frames (not in the paper)", _NOBODY,
            evaluate="--corruption dropframes:0.5"),
        Row("dropkp", "lost joints (not in the paper)", _NOBODY,
            evaluate="--corruption dropkp:0.5"),
    ),
    "The paper prints pass or fail, ours is F1 in percent. Crowds and overlapping legs have no "
    "corruption here: sets that are full of them stand for them.",
)  # fmt: skip

TABLES: dict[str, Table] = {
    table.key: table
    for table in (
        *_PSTPOSE, *_VREMD, *_STDPOSE, *_STDPOSE_LABELS, *_DSA, *_ABLATIONS, *_HSTPN_TABLES,
        *_HSTPN_METHODS, _HSTPN_COST, _HSTPN_SCENES,
    )
}  # fmt: skip


def tables_of(name: str) -> list[Table]:
    """Return the table of that name, or all whose names go on behind it (``hstpn.4``, ``dsa``).

    Raises:
        ConfigError: there is none.

    """
    if name in TABLES:
        return [TABLES[name]]
    return [t for k, t in TABLES.items() if k.startswith(f"{name}.")] or [get_table(name)]


def get_table(key: str) -> Table:
    """Return the table of that key.

    Raises:
        ConfigError: there is none.

    """
    if key not in TABLES:
        raise ConfigError(f"table '{key}' is not known; known: {', '.join(sorted(TABLES))}")
    return TABLES[key]


def flags_text(row: Row) -> str:
    """What makes a row: settings of its training, and options of how it is judged."""
    if row.flags is None:
        return "(not one of our networks)"
    parts = [f"net.options.{name}={value}" for name, value in row.flags.items()]
    parts += [] if row.interval is None else [f"--interval {row.interval}"]
    return " ".join([*parts, row.evaluate]).strip() or "(as it is)"
