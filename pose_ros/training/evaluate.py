"""Judge a network on a dataset by the protocol of the papers, and print their tables beside ours.

  evaluate --net pstpose_robot --dataset 'posetrack18:/data/pt18?split=val'
  evaluate --dataset 'posetrack18:/data/pt18' --predictions DIR      files of anybody's network
  evaluate --table pstpose.4 --results DIR                           what was saved with --save
  evaluate --table pstpose                                           all tables of a paper
  evaluate --net hstpn_r50 --protocol cost --table hstpn.3           time, parameters, GFLOPs

Datasets: `python -m pose_ros.training.inspect --list`. Percent for poseval, pckh, pck and hstpn;
0 to 1 for coco, as its own tool prints them; millimetres for mpjpe.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from pose_ros.errors import ConfigError, PoseRosError
from pose_ros.training import cost, protocols, report
from pose_ros.training.checkpoints import write_text
from pose_ros.training.corruption import KINDS, CorruptionSpec
from pose_ros.training.datasets import ClipDataset, Subset, parse_spec
from pose_ros.training.datasets.base import read_json
from pose_ros.training.datasets.clips import LabelledClips
from pose_ros.training.datasets.posetrack_files import predictions_to_json
from pose_ros.training.peaks import SUBPIXEL
from pose_ros.training.predict import Predicted, Predictor, net_options, open_network
from pose_ros.training.refined import refine_predictions
from pose_ros.training.tables import TABLES, get_table, tables_of
from pose_ros.training.tau import validated_tau

_log = logging.getLogger(__name__)


def main(argv: Sequence[str]) -> dict[str, Any]:
    """Run the command; see ``--help``."""
    args = _parser().parse_args(argv)
    costs = args.protocol == cost.PROTOCOL and bool(args.net)
    if args.table and not args.dataset and not costs:
        return _tables(args)
    if not args.dataset and not costs:
        raise ConfigError("expected --dataset SPEC (with --net or --predictions), or --table NAME")
    if bool(args.net) == bool(args.predictions):
        raise ConfigError("expected either --net NAME or --predictions FILE")
    if args.table:
        args.row = get_table(args.table).row(args.row or "full").key
    run = _cost if costs else _predictions if args.predictions else _network
    answer = run(args)
    title = f"{answer.get('net', args.predictions)} on {answer['dataset']}, {answer['protocol']}"
    _write([report.metrics_grid(title, answer["metrics"])], args)
    if args.save:
        path = Path(args.save)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(_plain(answer), indent=1))
    return answer


def _network(args: argparse.Namespace) -> dict[str, Any]:
    """Run a network and judge it."""
    options = net_options(args.net_option)
    device = _device(args.device)
    torch.manual_seed(args.seed)
    network = open_network(args.net, device, **options)
    dataset = parse_spec(args.dataset, frames=network.frames, key=network.key)
    protocol = args.protocol or protocols.default_protocol(dataset)
    dataset = _limited(dataset, args.limit, protocol)
    corruption = CorruptionSpec.parse(args.corruption) if args.corruption else None
    predictor = Predictor(
        network, args.batch, corruption, not args.temporal_off, args.seed, args.subpixel,
        args.flip_test,
    )  # fmt: skip
    predicted = plain = predictor(dataset, _progress)
    if args.refine:
        predicted = refine_predictions(dataset, plain, args.refine)
    if args.out:
        write_predictions(dataset, predicted, protocol, Path(args.out))
    tau, where = _tau(args, protocol)
    metrics = protocols.measure(dataset, predicted, protocol, replace(_options(args), tau=tau))
    return {
        "dataset": dataset.name,
        "protocol": protocol,
        "metrics": metrics,
        **where,
        "net": network.name,
        "trained": network.trained,
        "samples": len(dataset),
        "boxes": "detected" if getattr(dataset, "detections", None) is not None else "labelled",
        "corruption": args.corruption or None,
        "temporal": not args.temporal_off,
        "refined": predicted is not plain,
        "subpixel": args.subpixel,
        "flip_test": args.flip_test,
        "device": device,
        "spec": args.dataset,
        **({"table": args.table, "row": args.row} if args.table else {}),
    }


def _predictions(args: argparse.Namespace) -> dict[str, Any]:
    """Judge files that somebody's network wrote."""
    dataset = parse_spec(args.dataset)
    protocol = args.protocol or protocols.default_protocol(dataset)
    metrics = protocols.measure_file(dataset, Path(args.predictions), protocol, _options(args))
    return {
        "dataset": dataset.name,
        "protocol": protocol,
        "metrics": metrics,
        "predictions": args.predictions,
        "spec": args.dataset,
        **({"table": args.table, "row": args.row} if args.table else {}),
    }


def _cost(args: argparse.Namespace) -> dict[str, Any]:
    """What a network costs, without data."""
    device = _device(args.device)
    network = open_network(args.net, device, **net_options(args.net_option))
    return {
        "dataset": device,
        "protocol": cost.PROTOCOL,
        "metrics": cost.measure(network, device),
        "net": network.name,
        **({"table": args.table, "row": args.row} if args.table else {}),
    }


def _tables(args: argparse.Namespace) -> dict[str, Any]:
    """Print tables of a paper beside the results that were saved."""
    tables = tables_of(args.table)
    if args.results and not Path(args.results).is_dir():
        raise ConfigError(f"--results {args.results}: expected a folder of answers (--save)")
    grids, found = [], {}
    for table in tables:
        ours = _saved(Path(args.results), table.key) if args.results else {}
        for row in ours:
            table.row(row)
        grids.append(report.table_grid(table, ours))
        found[table.key] = ours
    _write(grids, args)
    first = tables[0]
    return {
        "dataset": first.dataset,
        "protocol": first.protocol,
        "metrics": found[first.key] if len(tables) == 1 else found,
        "table": args.table,
        "rows": sum(len(table.rows) for table in tables),
        "measured": sum(len(ours) for ours in found.values()),
    }


def _saved(folder: Path, table: str) -> dict[str, dict[str, float]]:
    """Metrics by row of the results in a folder that belong to a table."""
    found: dict[str, dict[str, float]] = {}
    for path in sorted(folder.glob("*.json")):
        result = read_json(path)
        if not isinstance(result, dict) or result.get("table") != table:
            continue
        row = result.get("row") or "full"
        if row in found:
            raise ConfigError(f"{path}: row '{row}' of {table} was saved twice in {folder}")
        metrics = result.get("metrics", {})
        found[row] = {k: math.nan if v is None else float(v) for k, v in metrics.items()}
    return found


def write_predictions(
    dataset: ClipDataset, predicted: Predicted, protocol: str, out: Path
) -> None:
    """Write predictions in the protocol's own form, to be judged by others' tools as well.

    poseval: a folder with a file per video; coco: a results file; otherwise an .npz with
    ``xy_px`` (N, K, 2), ``score`` (N, K) and the joints' names.
    """
    if protocol == "poseval" and isinstance(dataset, LabelledClips):
        out.mkdir(parents=True, exist_ok=True)
        for clip, video in zip(
            dataset.clips, protocols.poseval_videos(dataset, predicted), strict=True
        ):
            text = json.dumps(predictions_to_json(clip, list(video.predicted)))
            write_text(out / f"{clip.name}.json", text)
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    if protocol == "coco" and isinstance(dataset, LabelledClips):
        write_text(out, json.dumps(protocols.coco_results(dataset, predicted)))
        return
    np.savez_compressed(
        out,
        xy_px=predicted.xy_px,
        score=predicted.score,
        joints=np.array(predicted.skeleton.joints),
    )


def _limited(dataset: ClipDataset, limit: int, protocol: str) -> ClipDataset:
    """The first samples only; whole-frame protocols need all of them."""
    if not limit or limit >= len(dataset):
        return dataset
    if protocol in ("poseval", "coco"):
        raise ConfigError(
            f"--limit leaves people out, which {protocol} would count as missed; use a smaller "
            "split, or --protocol pck"
        )
    return Subset(dataset, range(limit))


def _options(args: argparse.Namespace) -> protocols.Options:
    rate_hz = args.rate or args.refine
    if rate_hz < 0:
        raise ConfigError(f"--rate, --refine: expected a rate in Hz or 0, got {rate_hz}")
    return protocols.Options(
        args.kp_thresh, args.tau, args.macro, refine_hz=args.refine, rate_hz=rate_hz
    )


def _tau(args: argparse.Namespace, protocol: str) -> tuple[float | None, dict[str, str]]:
    """Threshold of the hstpn protocol and where it is from: told, or fixed on validation data."""
    if protocol != "hstpn":
        return args.tau, {}
    if args.tau is not None:
        return args.tau, {"tau_from": "--tau"}
    tau = validated_tau(args.net)
    if tau is not None:
        return tau, {"tau_from": "validation"}
    _log.warning(
        "%s has no tau of its validation: the best one of this very data is taken, which "
        "flatters it; give --tau",
        args.net,
    )
    return None, {"tau_from": "this data"}


def _device(name: str) -> str:
    """Name of the torch device.

    Raises:
        ConfigError: a CUDA device that is not there, or another name.

    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name != "cpu" and not name.startswith("cuda"):
        raise ConfigError(f"--device: expected auto, cpu, cuda or cuda:N, got '{name}'")
    if name != "cpu" and not torch.cuda.is_available():
        raise ConfigError(f"--device {name}: torch finds no CUDA device here; use --device cpu")
    return name


def _progress(items: Iterable[int]) -> Iterable[int]:
    rows = list(items)
    return tqdm(rows, unit="batch", disable=not sys.stderr.isatty() or len(rows) < 2)


def _write(grids: Sequence[report.Grid], args: argparse.Namespace) -> None:
    """Print grids, and write them in the forms that were asked for; one picture per grid."""
    sys.stdout.write("\n\n".join(grid.text() for grid in grids) + "\n")
    for name, forms in (
        (args.csv, [grid.csv() for grid in grids]),
        (args.latex, [grid.latex() for grid in grids]),
    ):
        if name:
            write_text(Path(name), "\n".join(forms))
    for number, grid in enumerate(grids if args.plot else ()):
        path = Path(args.plot)
        report.plot(grid, path.with_stem(f"{path.stem}_{number}") if len(grids) > 1 else path)


def _plain(value: Any) -> Any:
    """Value without NaN, which JSON does not have: unknown is null."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pose_ros.training.evaluate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--net", help="card by name or path, or an architecture (random weights)")
    add(
        "--net-option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="field of the architecture's config; only without a card",
    )
    add("--dataset", metavar="SPEC", help="NAME:PATH?option=value&…")
    add(
        "--protocol",
        choices=(*protocols.PROTOCOLS, cost.PROTOCOL),
        help="default: the dataset's own; cost needs no dataset",
    )
    add(
        "--predictions",
        metavar="PATH",
        help="judge files instead of a network: poseval a folder, coco a results file, "
        "mpjpe an .npz with xyz_m in metres",
    )
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    add("--batch", type=int, default=16, help="windows at once (default: %(default)s)")
    add("--limit", type=int, default=0, metavar="N", help="first N samples only; 0: all")
    add("--seed", type=int, default=0, help="of corruptions and random weights")
    add(
        "--corruption",
        metavar="KIND[:SEVERITY]",
        help=f"make the pictures harder: {', '.join(KINDS)}, dropkp; severity 0 to 1",
    )
    add(
        "--temporal-off",
        action="store_true",
        help="every window is the key frame repeated: what time is worth",
    )
    add(
        "--subpixel",
        choices=SUBPIXEL,
        default="dark",
        help="where in a cell a joint is; quarter: HRNet's and DSA's (default: %(default)s)",
    )
    add("--flip-test", action="store_true", help="average with the mirrored window's maps")
    _add_judging_options(parser)
    _add_output_options(parser)
    return parser


def _add_judging_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--refine",
        type=float,
        default=0.0,
        metavar="RATE_HZ",
        help="refine (APRS) along the labels' tracks, whose frames come at this rate; 0: not",
    )
    add(
        "--rate",
        type=float,
        default=0.0,
        metavar="RATE_HZ",
        help="frames per second of the labels' tracks: motion errors per second as well "
        "(default: that of --refine)",
    )
    add(
        "--tau",
        type=float,
        help="hstpn: confidence from which a joint is claimed, above 0 (default: as the "
        "network's validation fixed it; without one, the best F1 on this data)",
    )
    add("--macro", action="store_true", help="hstpn: mean over joint types")
    add(
        "--kp-thresh",
        type=float,
        default=0.0,
        metavar="SCORE",
        help="poseval: leave out joints with a lower score (default: %(default)s)",
    )


def _add_output_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--out", metavar="PATH", help="write the predictions in the protocol's form")
    add("--save", metavar="FILE.json", help="write the answer, for --results")
    add(
        "--table",
        metavar="NAME",
        help=f"tables, by their names or a beginning: {', '.join(sorted(TABLES))}",
    )
    add("--row", metavar="KEY", help="the table's row that this run is")
    add("--results", metavar="DIR", help="answers written with --save")
    add("--csv", metavar="FILE", help="write the printed table")
    add("--latex", metavar="FILE", help="write the printed table")
    add("--plot", metavar="FILE", help="write the printed table as bars (png, pdf, svg)")


def command(argv: Sequence[str]) -> int:
    """Run the command for a shell: the answer on stdout, errors in one line on stderr."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    try:
        answer = main(argv)
    except (PoseRosError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130
    sys.stdout.write(json.dumps(_plain(answer)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(command(sys.argv[1:]))
