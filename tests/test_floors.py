"""The house: imports go down only, the lower floors need torch alone, and rooms stay of a size one can hold."""

from __future__ import annotations

import ast
import pathlib
import statistics
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / "guided").rglob("*.py"))
FLOORS = [
    {
        "_files",
        "_memory",
        "_compat",
        "_safetensors",
        "cond",
        "path",
        "noise",
        "operators",
        "codec",
        "perturbation",
        "reuse",
    },
    {"denoiser", "tiles", "oracle", "analyze", "frames"},
    {"solvers", "sampling", "ode", "guide", "nn"},
    {"text", "data", "degrade"},
    {"model", "cascade", "tasks"},
    {"train", "tune", "evaluate", "zoo"},
    {"cli", "ui", "bench", "assets", "__main__"},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
APART = {
    ("sampling", "guide"), ("guide", "solvers"), ("guide", "sampling"), ("guide", "path"),
    ("nn", "path"), ("nn", "solvers"), ("nn", "sampling"), ("nn", "guide"), ("text", "data"), ("data", "text"),
}  # fmt: skip


def room(file: pathlib.Path) -> str:
    part = file.relative_to(ROOT / "guided").parts[0]
    return part.removesuffix(".py")


def imported(file: pathlib.Path) -> set[str]:
    """The rooms of `guided` that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports inside the package are absolute"
            names = [node.module] if node.module != "guided" else [f"guided.{a.name}" for a in node.names]
        elif isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        found |= {name.split(".")[1] for name in names if name and name.startswith("guided.")}
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_imports_go_down_only(file: pathlib.Path) -> None:
    me = room(file)
    if me == "__init__":
        return
    for other in imported(file) - {me, "__version__"}:
        assert FLOOR[other] <= FLOOR[me], f"{me} (floor {FLOOR[me]}) imports {other} (floor {FLOOR[other]})"
        assert (me, other) not in APART, f"{me} must not import {other}"
        assert other != "zoo" or FLOOR[me] >= 5


def test_floors_0_to_2_need_torch_alone() -> None:
    allowed = {"torch", "guided"} | set(sys.stdlib_module_names)
    for file in FILES:
        if FLOOR.get(room(file), 9) > 2 or room(file) in ("_compat", "_safetensors"):
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            assert {str(n).split(".")[0] for n in names} <= allowed, f"{file} imports {names}"


def test_the_core_and_training_import_without_the_heavy_libraries() -> None:
    code = (
        "import sys\n"
        "class Wall:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('diffusers', 'datasets', 'open_clip', 'transformers'):\n"
        "            raise ImportError(name)\n"
        "sys.meta_path.insert(0, Wall())\n"
        "import guided, guided.train, guided.data, guided.text, guided.model, guided.evaluate, guided.zoo, guided.nn\n"
        "from guided import fit, load, sample, Model, Result, Noise, Cond\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_every_name_of_the_front_room_opens_and_there_are_at_most_60() -> None:
    import guided

    assert len(dir(guided)) <= 60
    for name in dir(guided):
        assert getattr(guided, name) is not None
    with pytest.raises(AttributeError):
        guided.nothing  # noqa: B018


def test_rooms_have_a_size_one_can_hold() -> None:
    lengths = {file: len(file.read_text().splitlines()) for file in FILES if file.name != "__init__.py"}
    assert max(lengths.values()) <= 400, max(lengths, key=lambda f: lengths[f])
    assert 60 <= statistics.median(lengths.values()) <= 250
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef):
                length = (node.end_lineno or 0) - node.lineno + 1
                assert length <= 60, f"{file}:{node.lineno} {node.name} has {length} lines"
                positional = len(node.args.posonlyargs) + len(node.args.args)
                assert positional <= 9, f"{file}:{node.lineno} {node.name} has {positional} positional parameters"


def test_nothing_global_can_change() -> None:
    """`global` statements are the mark of a module that keeps state."""
    for file in FILES:
        assert not any(isinstance(n, ast.Global) for n in ast.walk(ast.parse(file.read_text()))), file
