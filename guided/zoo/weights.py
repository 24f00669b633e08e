"""The weights of published checkpoints: one safetensors file, several under an index, or, when asked for, a pickle."""

from __future__ import annotations

import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from guided import _safetensors
from guided._safetensors import Entry

Path = str | os.PathLike[str]
INDEX = ".index.json"
FLOATS = ("F32", "F16", "BF16")
_INDEX_LIMIT, _CONFIG_LIMIT = 16 << 20, 1 << 20
_SHARD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\.safetensors")
SECONDS = 600
"""How long a pickle may take to be read."""
MEMORY = 1 << 30
"""How many bytes its reader may take beside four times the file."""


def read(path: Path, *, pickle: bool = False) -> dict[str, Tensor]:
    """All tensors of a checkpoint: a .safetensors file, or the .safetensors.index.json of several.

    pickle: whether a pickle (.pt, .ckpt, .bin) may be read too; it is then read with torch's restricted unpickler in a
    short-lived process with bounds of its own. Raises FileNotFoundError, or ValueError where a file is refused, damaged
    or contradicts its index. Warns (`NotFinite`) where weights hold NaN or infinity.
    """
    file = pathlib.Path(path)
    if is_pickle(file):
        if not pickle:
            _safetensors.refuse_pickle(file)
        return _unpickled(file)
    tensors: dict[str, Tensor] = {}
    entries(file)
    for part in parts(file):
        tensors |= _safetensors.load(part)
    return tensors


def entries(path: Path) -> dict[str, Entry]:
    """What a checkpoint says it holds, by name; no tensor is read. Raises as `read`; a pickle is refused."""
    file = pathlib.Path(path)
    headers = {part: _safetensors.header(part).tensors for part in parts(file)}
    if not file.name.endswith(INDEX):
        return dict(headers[file])
    where = {name: part.name for part, tensors in headers.items() for name in tensors}
    count = sum(map(len, headers.values()))
    listed = _weight_map(file)
    if where != listed or count != len(listed):
        twice = "; a tensor stands in two files" if count != len(where) else ""
        wrong = [name for name in listed.keys() | where.keys() if listed.get(name) != where.get(name)]
        raise ValueError(f"{file}: its files hold other tensors than it lists: {', '.join(sorted(wrong)[:5])}{twice}")
    return {name: entry for tensors in headers.values() for name, entry in tensors.items()}


def parts(path: Path) -> list[pathlib.Path]:
    """The files that hold a checkpoint's tensors; raises ValueError where an index names anything but its siblings."""
    file = pathlib.Path(path)
    if not file.name.endswith(INDEX):
        return [file]
    found = [file.with_name(name) for name in sorted(set(_weight_map(file).values()))]
    missing = [part.name for part in found if not part.is_file()]
    if missing:
        raise FileNotFoundError(f"{file}: names {missing[0]}, which is not in the folder")
    return found


def _weight_map(file: pathlib.Path) -> dict[str, str]:
    values = _json(file, _INDEX_LIMIT)
    listed = values.get("weight_map") if isinstance(values, dict) else None
    if not isinstance(listed, dict) or not listed or len(listed) > _safetensors.TENSOR_LIMIT:
        raise ValueError(f"{file}: weight_map: expected a mapping of names to files, got {listed!r:.80}")
    for name, part in listed.items():
        if not isinstance(part, str) or not _SHARD.fullmatch(part):
            raise ValueError(f"{file}: weight_map: {name}: expected a .safetensors file beside it, got {part!r:.80}")
    return listed


def is_pickle(path: Path) -> bool:
    """Whether a file is a pickle by its name or content; raises FileNotFoundError."""
    file = pathlib.Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file")
    try:
        _safetensors.refuse_pickle(file)
    except ValueError:
        return True
    return False


def _unpickled(file: pathlib.Path) -> dict[str, Tensor]:
    """The tensors of a pickle, read by a process that does nothing else."""
    size = file.stat().st_size
    with tempfile.TemporaryDirectory(prefix="guided-") as folder:
        target = pathlib.Path(folder) / "weights.safetensors"
        program = pathlib.Path(__file__).with_name("_unpickle.py")
        # -I: neither the working directory nor the user's settings decide what this process imports.
        command = [sys.executable, "-I", str(program), str(file.resolve()), str(target)]
        limits = [str(4 * size + MEMORY), str(SECONDS)]
        try:
            done = subprocess.run([*command, *limits], capture_output=True, timeout=SECONDS, cwd=folder, text=True)
        except subprocess.TimeoutExpired:
            raise ValueError(f"{file}: refused: reading this pickle took longer than {SECONDS} s") from None
        if done.returncode != 0:
            reason = done.stdout.strip().splitlines()[-1:] or [f"its reader ended with {done.returncode}"]
            raise ValueError(
                f"{file}: refused: a pickle that holds more than tensors, or is damaged: {reason[0]}. Get the "
                ".safetensors version of this file"
            )
        # Copied out before the folder goes: what is read from safetensors lies in the file.
        return {name: value.clone() for name, value in _safetensors.load(target).items()}


def config_beside(path: Path) -> Mapping[str, Any] | None:
    """The config under the same name beside a checkpoint (.yaml, .yml or .json), None where there is none."""
    file = pathlib.Path(path)
    for suffix in (".yaml", ".yml", ".json"):
        beside = file.with_suffix(suffix)
        if beside.is_file() and beside != file:
            return config_of(beside)
    return None


def config_of(path: Path) -> Mapping[str, Any]:
    """The mapping of a JSON or YAML file; raises FileNotFoundError, or ValueError where it is none."""
    file = pathlib.Path(path)
    if file.suffix == ".json":
        values = _json(file, _CONFIG_LIMIT)
    else:
        import yaml

        content = _bytes(file, _CONFIG_LIMIT)
        try:
            # An alias of aliases of aliases is short, and what it stands for without end.
            if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(content, yaml.SafeLoader)):
                raise ValueError("an alias (*name), which no published config has")
            values = yaml.safe_load(content)
        except (yaml.YAMLError, RecursionError, ValueError, OverflowError) as error:
            raise ValueError(f"{file}: not YAML that is read here ({error})") from None
    if not isinstance(values, dict):
        raise ValueError(f"{file}: expected a mapping, got {type(values).__name__}")
    return values


def _json(file: pathlib.Path, limit: int) -> Any:
    try:
        return json.loads(_bytes(file, limit))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: not JSON ({error})") from None


def _bytes(file: pathlib.Path, limit: int) -> bytes:
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file")
    if file.stat().st_size > limit:
        raise ValueError(f"{file}: {file.stat().st_size} bytes, at most {limit} are read")
    return file.read_bytes()


def floats(dtypes: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """The commonest dtype of a network's tensors, and the exceptions by name.

    Raises ValueError where one is no float of 16 or 32 bits: what float32 cannot hold would not come out as it went in.
    """
    wrong = [f"{name} is {dtype}" for name, dtype in dtypes.items() if dtype not in FLOATS]
    if wrong:
        raise ValueError(f"dtype: expected {', '.join(FLOATS)}, but {', '.join(wrong[:5])}")
    usual = Counter(dtypes.values()).most_common(1)[0][0]
    return usual, {name: dtype for name, dtype in dtypes.items() if dtype != usual}
