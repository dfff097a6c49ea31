"""What every command shares: pipeline options, one-line errors, progress, the last JSON line."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from tqdm import tqdm

from pose_ros.core.config import PipelineConfig, parameters, with_values
from pose_ros.errors import ConfigError, PoseRosError

Item = TypeVar("Item")

log = logging.getLogger("pose_ros.tools")

#: Words for a switch.
SWITCH = {
    **dict.fromkeys(("true", "1", "yes", "on"), True),
    **dict.fromkeys(("false", "0", "no", "off"), False),
}


def command(prog: str, doc: str | None) -> argparse.ArgumentParser:
    """Parser of ``python -m pose_ros.tools.<prog>``; ``doc`` is the module's docstring."""
    return argparse.ArgumentParser(
        prog=f"python -m pose_ros.tools.{prog}",
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_pipeline_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--net``, ``--device`` and ``--set NAME=VALUE`` for every other parameter."""
    default = PipelineConfig()
    parser.add_argument(
        "--net", default=default.model.name, help="pose network (default: %(default)s)"
    )
    parser.add_argument(
        "--device", default=default.device, help="auto, cpu, cuda or cuda:N (default: %(default)s)"
    )
    names = ", ".join(name for name, _, _ in parameters(default))
    parser.add_argument(
        "--set", metavar="NAME=VALUE", action="append", default=[],
        help=f"any parameter of the pipeline: {names}",
    )  # fmt: skip


def pipeline_config(args: argparse.Namespace, **defaults: Any) -> PipelineConfig:
    """Configuration of the options of `add_pipeline_options`; ``defaults`` use ``__`` for dots.

    Raises:
        ConfigError: an unknown name or a bad value.

    """
    values: dict[str, Any] = {name.replace("__", "."): value for name, value in defaults.items()}
    values |= {"model.name": args.net, "device": args.device}
    kinds: dict[str, Any] = {
        name: type(item.default) for name, item, _ in parameters(PipelineConfig())
    }
    for text in args.set:
        name, equals, value = text.partition("=")
        if not equals or name not in kinds:
            raise ConfigError(
                f"--set: expected NAME=VALUE of a parameter of the pipeline, got '{text}'; --help "
                "lists them (those of the node alone are for ROS)"
            )
        values[name] = _parsed(name, kinds[name], value)
    return with_values(PipelineConfig(), values)


def _parsed(name: str, kind: type, text: str) -> Any:
    """Value of a parameter.

    Raises:
        ConfigError: the text is of another kind.

    """
    try:
        return SWITCH[text.lower()] if kind is bool else kind(text)
    except (KeyError, ValueError):
        wanted = "true or false" if kind is bool else kind.__name__
        raise ConfigError(f"{name}: expected {wanted}, got '{text}'") from None


def progress(items: Iterable[Item], total: int | None, unit: str) -> Iterator[Item]:
    """Items with a progress bar on stderr, none when that is not a terminal."""
    return iter(tqdm(items, total=total, unit=unit, disable=not sys.stderr.isatty()))


def run(main: Callable[[list[str]], dict[str, Any]]) -> None:
    """Run a command: its answer becomes the last line on stdout, a PoseRosError one on stderr.

    Exits with 0 only when the command did its job, with 1 on an error and 130 on Ctrl-C.
    """
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    try:
        answer = main(sys.argv[1:])
    except (PoseRosError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(130)
    sys.stdout.write(json.dumps(answer) + "\n")
