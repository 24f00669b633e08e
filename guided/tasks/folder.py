"""Photos by their files: which become which, what is done already, and each written as soon as it is made.

The record of every picture holds what was asked. So a command that was interrupted goes on where it stopped, and one
that asks something else is told so before anything is overwritten.
"""

from __future__ import annotations

import json
import math
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from guided import _files
from guided.data.folder import PICTURES, scan
from guided.model.result import LINES, png, record_of
from guided.model.sheet import sheet
from guided.tasks.edited import Edited
from guided.tasks.photo import read

ASKED = "asked"
"""The key of a record that holds the caller's own words."""
SUFFIXES = (".png", ".tiff", ".jpg")
SHOWN = 32
"""Photos on a sheet at most, the first ones."""
SIDE = 320
"""Pixels of a picture's longer side on a sheet."""
Asked = Mapping[str, Any]


@dataclass(frozen=True)
class Job:
    """A photo, and its picture: a path without a suffix, or where the caller named the file, with one.

    root: the folder that lists its pictures in `images.jsonl`.
    """

    photo: pathlib.Path
    target: pathlib.Path
    root: pathlib.Path
    named: bool = False

    @property
    def found(self) -> pathlib.Path | None:
        """The picture, if it is there."""
        places = [self.target] if self.named else [self.target.with_name(self.target.name + s) for s in SUFFIXES]
        return next((place for place in places if place.exists()), None)

    def check(self, in_colour: bool = False) -> None:
        """Raise ValueError where the file that the caller named cannot hold all of the photo; in_colour: as RGB."""
        if not self.named:
            return
        photo, wanted = read(self.photo), self.target.suffix.lower()
        lossless = ".tiff" if photo.mode == "CMYK" and not in_colour else ".png"
        if wanted in (".jpg", ".jpeg"):
            if photo.alpha or photo.bits == 16:
                raise ValueError(f"--out: JPEG keeps no {'alpha' if photo.alpha else '16 bits'}: name a .png file")
        elif wanted not in (lossless, lossless.rstrip("f")):
            raise ValueError(f"--out: {self.photo} keeps all that it is in a {lossless} file, got {self.target.name}")


def jobs(source: pathlib.Path, out: pathlib.Path) -> list[Job]:
    """What becomes of a photo, or of all in a folder: a folder gives a folder, with the same names in it.

    Raises FileNotFoundError, and ValueError where there are no photos, or two would give one picture.
    """
    if not source.exists():
        raise FileNotFoundError(f"{source}: no such picture or folder")
    if source.is_file():
        return [Job(source, out, out.parent, True) if _is_picture(out) else Job(source, out / source.stem, out)]
    if _is_picture(out):
        raise ValueError(f"--out: {source} is a folder, so {out} has to be one too")
    if out.resolve() == source.resolve():
        raise ValueError(f"--out: {out} holds the photos themselves: choose another folder")
    photos = [file for file in scan(source)[0] if out.resolve() not in file.resolve().parents]
    if not photos:
        raise ValueError(f"{source}: holds no pictures")
    found: dict[pathlib.Path, pathlib.Path] = {}
    for photo in photos:
        target = out / photo.relative_to(source).with_suffix("")
        if target in found:
            raise ValueError(f"{found[target]} and {photo} would both become {target}.png: rename one of them")
        found[target] = photo
    return [Job(photo, target, out) for target, photo in found.items()]


def left(every: Sequence[Job], asked: Callable[[Job], Asked]) -> list[Job]:
    """The jobs that are still to do; raises FileExistsError where a picture is there that was made otherwise."""
    todo, listed = [], _listed({job.root for job in every})
    for job in every:
        place = job.found
        if place is None:
            todo.append(job)
            continue
        try:
            record = record_of(place)
        except ValueError:
            record = None
        if record is None or ASKED not in record:
            raise FileExistsError(f"{place} is there already, and was not made by this command: choose another --out")
        before, now = record[ASKED], json.loads(json.dumps(asked(job)))
        if before != now:
            names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
            told = "; ".join(f"{name}: {before.get(name)!r} there, {now.get(name)!r} now" for name in names)
            raise FileExistsError(f"{place} was made otherwise ({told}): choose another --out")
        if place not in listed:
            _note(place, job, record)
    return todo


def write(job: Job, result: Edited, asked: Asked) -> pathlib.Path:
    """Write the only picture of a result, with its record, and a line of JSON beside it; returns its path."""
    result.records[0] = {**result.records[0], ASKED: asked}
    suffix, content = result.encoded(0)
    place = job.target.with_name(job.target.name + suffix)
    if job.named:
        place = job.target
        content = result.jpeg(0) if place.suffix.lower() in (".jpg", ".jpeg") else content
    _files.write(place, content)
    _note(place, job, result.records[0])
    return place


def _note(place: pathlib.Path, job: Job, record: Mapping[str, Any]) -> None:
    """Add the line of a picture: after the picture itself, so that none is ever named that is not there."""
    with open(job.root / LINES, "ab", buffering=0) as stream:
        stream.write((json.dumps({"file": place.relative_to(job.root).as_posix(), **record}) + "\n").encode())


def _listed(roots: Iterable[pathlib.Path]) -> set[pathlib.Path]:
    """The pictures that have their line."""
    found = set()
    for root in roots:
        if (root / LINES).exists():
            for line in (root / LINES).read_text(encoding="utf-8").splitlines():
                name = re.match(r'\{"file": ("(?:[^"\\]|\\.)*")', line)
                if name is not None:
                    found.add(root / json.loads(name[1]))
    return found


def compare(every: Sequence[Job], out: pathlib.Path) -> pathlib.Path | None:
    """Write before and after of the first photos as one sheet beside `out`; returns its path, None without pictures."""
    pictures: list[Image.Image] = []
    captions: list[str] = []
    for job in every:
        place = job.found
        if place is not None and len(pictures) < 2 * SHOWN:
            pictures += [_small(job.photo), _small(place)]
            captions += [job.photo.name, told(record_of(place) or {})]
    if not pictures:
        return None
    target = out.with_name(f"{out.stem if _is_picture(out) else out.name}-sheet.png")
    _files.write(target, png(sheet(pictures, captions, 2 * math.ceil(math.sqrt(len(pictures) / 4))), None))
    return target


def told(record: Mapping[str, Any]) -> str:
    """What an edit did, in a few words."""
    seen = [f"{100 * record['changed']:.1f} % changed"] if "changed" in record else []
    if record.get("seam") is not None:
        seen.append(f"seam {record['seam']:.2f}")
    if "faithful" in record:
        seen.append(f"{record['faithful']['wanted']} asked for")
    if record.get("strength") is not None and record.get("task") == "edit":
        seen.append(f"strength {record['strength']:.2f}")
    return ", ".join([*seen, f"NFE {record['nfe']}"]) if "nfe" in record else ", ".join(seen)


def _small(path: pathlib.Path) -> Image.Image:
    """A picture as the sheet shows it: upright, in sRGB on white."""
    rgb = read(path).rgb
    picture = Image.fromarray(rgb if rgb.dtype == "uint8" else (rgb // 257).astype("uint8"))
    picture.thumbnail((SIDE, SIDE), Image.Resampling.BOX)
    return picture


def _is_picture(path: pathlib.Path) -> bool:
    return path.suffix.lower().lstrip(".") in PICTURES
