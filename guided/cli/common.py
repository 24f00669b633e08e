"""What the commands share: words to stderr, devices and dtypes, progress, and text that a terminal may see."""

from __future__ import annotations

import contextlib
import json
import pathlib
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

if TYPE_CHECKING:
    import torch

    from guided.cascade import Cascade
    from guided.model import Model

Drawn = TypeVar("Drawn", "Model", "Cascade", "Model | Cascade")
Opened = TypeVar("Opened", "Model", "Model | Cascade")

Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.", rich_help_panel="Machine")]
Dtype = Annotated[
    str, typer.Option("--dtype", help="What the network computes in: float32, bf16 or fp16.", rich_help_panel="Machine")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
ModelOption = Annotated[
    str, typer.Option("--model", help='A folder of a model, a run or a diffusers pipeline, a hub id, or "emoji".')
]
Lora = Annotated[
    list[str] | None,
    typer.Option("--lora", metavar="FILE[:WEIGHT]", help="An adapter to put on it, a file or a folder; repeatable."),
]
_DTYPES = {"float32": "float32", "fp32": "float32", "bf16": "bfloat16", "bfloat16": "bfloat16"}
_DTYPES |= {"fp16": "float16", "float16": "float16"}


def say(text: str) -> None:
    """A line for the person, to stderr, without what would steer a terminal."""
    print(printable(text), file=sys.stderr, flush=True)


def took(begun: float, device: str) -> None:
    """Say how long it took since `begun`, a `time.monotonic()`, and the most memory that was held."""
    import torch

    from guided import _memory

    seconds, peak = time.monotonic() - begun, _memory.peak(torch.device(device))
    length = f"{seconds:.0f} seconds" if seconds < 120 else f"{seconds / 60:.1f} minutes"
    say(f"took {length}, {_memory.gigabytes(peak)} at most")


def printable(text: str) -> str:
    """The text with control characters spelt out; line breaks stay."""
    return "".join(letter if letter == "\n" or not _steers(letter) else repr(letter)[1:-1] for letter in text)


def _steers(letter: str) -> bool:
    # C0, DEL and C1; the marks that turn the direction of writing around; halves of letters, which cannot be printed.
    code = ord(letter)
    marks = 0x202A <= code <= 0x202E or 0x2066 <= code <= 0x2069
    return code < 32 or 127 <= code < 160 or marks or 0xD800 <= code <= 0xDFFF


def quoted(word: str) -> str:
    """A word as a shell reads it back, whatever it holds."""
    if any(_steers(letter) for letter in word):
        return f"$'{''.join(map(_spelt, word))}'"
    return shlex.quote(word)


def _spelt(letter: str) -> str:
    return f"\\u{ord(letter):04x}" if _steers(letter) else "\\" + letter if letter in "\\'" else letter


def show_json(values: Any) -> None:
    """One JSON document on stdout."""
    print(json.dumps(values, indent=1))


def device_of(name: str) -> str:
    """The device that a word means on this machine; raises ValueError for one that is not there."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    found = re.fullmatch(r"cpu|cuda(?::(\d+))?", name)
    if found is None:
        raise ValueError(f"--device: expected auto, cpu, cuda or cuda:N, got {name!r}")
    count = torch.cuda.device_count() if name != "cpu" else 0
    if name != "cpu" and int(found[1] or 0) >= count:
        there = f"{count} of them" if count else "none"
        raise ValueError(f"--device: {name}: this machine has {there}; use --device auto or cpu")
    return name


def dtype_of(name: str) -> str:
    """The full name of a dtype; raises ValueError for an unknown one."""
    if name not in _DTYPES:
        raise ValueError(f"--dtype: expected one of {', '.join(_DTYPES)}, got {name!r}")
    return _DTYPES[name]


def open_model(path: str, device: str, dtype: str, lora: Sequence[str] | None = None) -> Model:
    """The model of `--model`, with adapters on it, on the device, computing in the dtype; says what was chosen."""
    from guided import zoo

    return _placed(lambda: _with(zoo.load_model(path), lora), device, dtype)


def open_drawing(path: str, device: str, dtype: str, lora: Sequence[str] | None = None) -> Model | Cascade:
    """The same, where a cascade will do as well."""
    from guided import zoo

    return _placed(lambda: _with(zoo.load_drawing(path), lora), device, dtype)


def _with(model: Opened, lora: Sequence[str] | None) -> Opened:
    """The model with the adapters of `--lora`; raises ValueError for a cascade, whose stages differ."""
    if lora:
        from guided.model import Model
        from guided.tune.adapters import apply

        if not isinstance(model, Model):
            raise ValueError("--lora: an adapter goes on one network: give a stage of the cascade as --model")
        apply(model, lora)
    return model


def _placed(opened: Callable[[], Drawn], device: str, dtype: str) -> Drawn:
    wanted = dtype_of(dtype)
    place = device_of(device)
    import torch

    model = opened()
    model.to(place)
    precision: torch.dtype = getattr(torch, wanted)
    model.compute_in(None if wanted == "float32" else precision)
    say(f"{model.name} on {place}, {wanted}")
    return model


def size_of(text: str | None) -> tuple[int, int] | None:
    """(H, W) of a `--size WxH`, or of one number; raises ValueError."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d{1,5})(?:[x×](\d{1,5}))?", text.strip().lower())
    if found is None:
        raise ValueError(f"--size: expected WIDTHxHEIGHT or one number, got {text!r}")
    width, height = int(found[1]), int(found[2] or found[1])
    return height, width


def numbers_of(text: str, option: str, least: int = 1) -> list[int]:
    """Whole numbers between commas; raises ValueError."""
    try:
        found = [int(word) for word in text.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < least:
        raise ValueError(f"{option}: expected whole numbers >= {least} between commas, got {text!r}")
    return found


def lines_of(file: pathlib.Path) -> list[str]:
    """The lines of a text file that are not blank; raises ValueError where it is no text."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: not UTF-8 text (byte {error.start})") from None
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise ValueError(f"{file}: no prompt in it; write one a line")
    return lines


class Bar:
    """A progress bar's handle: call it with what is done and a note; `watched` says whether a person sees it."""

    def __init__(self, progress: Any, task: Any, watched: bool) -> None:
        self._progress, self._task, self.watched = progress, task, watched

    def __call__(self, done: float, note: str = "") -> None:
        self._progress.update(self._task, completed=done, note=note)


@contextlib.contextmanager
def bar(total: int, unit: str) -> Iterator[Bar]:
    """A progress bar on stderr where a person watches, with the time left; silent elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns: Sequence[Any] = (
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(f"{unit} {{task.fields[note]}}", markup=False),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        yield Bar(progress, progress.add_task("", total=total, note=""), console.is_terminal)
