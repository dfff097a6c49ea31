"""The house rules that a parser can see: who imports whom, how long things are, what is forbidden.

When a rule hinders good code, change the rule here, with a reason.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "pose_ros"

STDLIB_AND_NUMBERS = {"numpy", "cv2", "scipy", "yaml"}
ROS = {
    "rclpy", "std_msgs", "sensor_msgs", "geometry_msgs", "visualization_msgs", "diagnostic_msgs",
    "builtin_interfaces", "std_srvs", "lifecycle_msgs", "rosidl_runtime_py", "cv_bridge",
    "tf2_ros", "tf2_msgs", "hri_msgs",
}  # fmt: skip

# room -> (rooms of ours it may import, outside packages it may never import)
RULES = {
    "errors": (set(), ROS | {"torch", "cv2", "numpy"}),
    "core": ({"errors", "core"}, ROS | {"torch", "onnxruntime", "onnx", "rosbags"}),
    "nets": ({"errors", "nets"}, ROS | {"cv2", "scipy", "rosbags"}),
    "build": ({"errors", "core", "nets"}, ROS | {"torch", "onnxruntime"}),
    "messages": ({"errors", "core"}, ROS | {"torch", "onnxruntime"}),
    "graph": ({"errors"}, ROS | {"torch", "cv2", "numpy"}),
    # `bench` measures on bodies that `training` makes: their truth is exact
    "tools": (
        {"errors", "core", "build", "nets", "tools", "messages", "graph", "training"},
        ROS,
    ),
    "nodes": ({"errors", "core", "build", "nodes", "messages", "graph"}, {"torch", "onnxruntime"}),
    "training": ({"errors", "core", "nets", "training"}, ROS),
}
# room -> (lines per file, lines per function) that are refused
BUDGET = {"nets": (600, 60), "training": (600, 60)}
BUDGET_ELSEWHERE = (400, 60)
PARAMETERS_MAX = 8
FILES = sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def named(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


@pytest.mark.parametrize(
    "path", [p for p in FILES if p.parent != PACKAGE or p.name != "__init__.py"], ids=named
)
def test_imports_point_one_way(path: Path) -> None:
    room = room_of(path)
    ours, never = RULES[room]
    for name in imports(tree_of(path)):
        top, *rest = name.split(".")
        assert top not in never, f"{room} must not import {top}"
        if top == "pose_ros" and rest[0] not in ("msg", "srv"):
            assert rest[0] in ours, f"{room} must not import pose_ros.{rest[0]}"
        elif top == "pose_ros":
            assert room == "nodes", "only nodes import messages"


@pytest.mark.parametrize("path", FILES, ids=named)
def test_budgets(path: Path) -> None:
    lines_max, function_max = BUDGET.get(room_of(path), BUDGET_ELSEWHERE)
    lines = path.read_text(encoding="utf-8").count("\n")
    assert lines <= lines_max, f"{lines} lines, at most {lines_max}"
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= function_max, f"{node.name}: {length} lines, at most {function_max}"
            count = len(node.args.args) + len(node.args.kwonlyargs)
            assert count <= PARAMETERS_MAX + 1, f"{node.name}: {count} parameters"


@pytest.mark.parametrize("path", FILES, ids=named)
def test_forbidden(path: Path) -> None:
    quiet = room_of(path) in ("core", "nets", "nodes", "build")
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"line {node.lineno}: bare except"
        if quiet and isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "print", f"line {node.lineno}: print in {room_of(path)}"


def test_public_things_are_documented_and_annotated() -> None:
    missing = []
    for path in FILES:
        tree = tree_of(path)
        inside = [m for c in tree.body if isinstance(c, ast.ClassDef) for m in c.body]
        for node in [*tree.body, *inside]:
            if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.name.startswith("_"):
                continue
            if ast.get_docstring(node) is None:
                missing.append(f"{named(path)}: {node.name} has no docstring")
            if isinstance(node, ast.FunctionDef) and node.returns is None:
                missing.append(f"{named(path)}: {node.name} has no return annotation")
    assert not missing, "\n".join(missing)


def test_no_path_of_a_machine_and_no_registry_is_committed() -> None:
    roots = [
        ROOT / name
        for name in ("pose_ros", "scripts", "launch", "config", "docs", "models", "bin")
    ]
    files = [p for root in roots for p in root.rglob("*") if p.is_file()]
    files += [
        p for p in ROOT.glob("*") if p.suffix in (".md", ".rst", ".toml", ".xml", ".txt", ".py")
    ]
    texts = [p for p in files if p.suffix not in (".pyc", ".safetensors", ".png", ".jpg", ".npz")]
    bad = ("/" + "home/", "/" + "work/", "/" + "root/", "pypi" + ".org", "registry.npm" + "js")
    for path in texts:
        text = path.read_text(encoding="utf-8")
        assert not [word for word in bad if word in text], f"{path.name} names a machine"
