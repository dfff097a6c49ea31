"""Point the CMake exports of the ROS wheels at this environment.

The wheels carry the Python paths of the machine that built them; CMake stops at "Imported target
includes non-existent path" until they name the headers and packages of the Python in use.
"""

from __future__ import annotations

import re
import sys
import sysconfig
from pathlib import Path

INCLUDE = re.compile(r"/opt/python/cp3\d+-cp3\d+/include/python3\.\d+")
PACKAGES = re.compile(r"/opt/python/cp3\d+-cp3\d+/lib/python3\.\d+/site-packages")


def relocate(text: str, include: str, packages: str) -> str:
    """Replace the builder's header and package folders."""
    text = INCLUDE.sub(lambda _: include, text)
    return PACKAGES.sub(lambda _: packages, text)


def main(prefix: str) -> int:
    """Rewrite every CMake file under ``prefix``/share; say how many changed."""
    paths = sysconfig.get_paths()
    changed = 0
    for file in sorted(Path(prefix, "share").rglob("*.cmake")):
        old = file.read_text(encoding="utf-8")
        new = relocate(old, paths["include"], paths["purelib"])
        if new != old:
            file.write_text(new, encoding="utf-8")
            changed += 1
    sys.stdout.write(f"{changed} CMake files point at this environment\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
