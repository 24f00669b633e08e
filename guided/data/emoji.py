"""The captioned emoji set, built from a checkout of the public Noto repository."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from guided import _files
from guided.data.records import counted

CAPTIONS = Path(__file__).parent.parent / "assets" / "noto-captions.txt"
COMMIT = "41e31b110b4eb929dffb410264694a06205b7ad7"
"""The last state of googlefonts/noto-emoji whose licence file is Apache-2.0; later pictures differ in places."""
_LINE = re.compile(r"([0-9A-F ]+?)\s*;\s*(\S+)\s*#\s*\S+\s+E[\d.]+\s+(.+)")


def noto(checkout: str | Path, out: str | Path, *, names: str | Path | None = None) -> dict[str, Any]:
    """Copy the 128-pixel emoji of a checkout of googlefonts/noto-emoji to an imagefolder with captions.

    The captions are the short names of Unicode's emoji list, kept beside this library for the commit above;
    `names`, a copy of Unicode's `emoji-test.txt`, replaces them for other versions. The folder appears whole
    or not at all. Returns the counts. Raises FileNotFoundError, and ValueError where nothing matches or `out`
    exists and is not empty.
    """
    pictures = _pictures(Path(checkout))
    table = captions() if names is None else dict(read_names(Path(names)))
    target = Path(out)
    if target.exists() and any(target.iterdir()):
        raise ValueError(f"{target}: exists and is not empty: name a new folder")
    chosen = {stem: pictures[stem] for stem in table if stem in pictures}
    if not chosen:
        raise ValueError(f"{checkout}: none of its {counted(len(pictures), 'picture')} has a known name")
    with _files.folder(target) as aside:
        (aside / "images").mkdir()
        lines = []
        for stem, file in chosen.items():
            group, caption = table[stem]
            name = f"images/{file.name}"
            shutil.copyfile(file, aside / name)
            row = {"file_name": name, "text": caption, "codepoints": stem.replace("_", " ").upper(), "group": group}
            lines.append(json.dumps(row, ensure_ascii=False))
        (aside / "metadata.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    missing = [stem for stem in table if stem not in pictures]
    return {
        "pictures": len(chosen),
        "unnamed": len(pictures) - len(chosen),
        "missing": len(missing),
        "path": str(target),
    }


def _pictures(checkout: Path) -> dict[str, Path]:
    """Code points (`1f469_1f52c`, the variation selector left out) to file."""
    if not checkout.is_dir():
        raise FileNotFoundError(f"{checkout}: no such folder; expected a checkout of googlefonts/noto-emoji")
    folder = checkout / "png" / "128" if (checkout / "png" / "128").is_dir() else checkout
    files = sorted(folder.glob("emoji_u*.png"))
    if not files:
        raise ValueError(f"{folder}: holds no emoji_u*.png; expected the folder png/128 of googlefonts/noto-emoji")
    return {file.stem.removeprefix("emoji_u"): file for file in files}


@lru_cache(maxsize=1)
def captions() -> dict[str, tuple[str, str]]:
    """Code points to (group, caption), as in the set the shipped model was trained on."""
    table, group = {}, ""
    for line in CAPTIONS.read_text("utf-8").splitlines():
        if line.startswith("## "):
            group = line[3:]
        elif line and not line.startswith("#"):
            stem, _, caption = line.partition(" ")
            table[stem] = (group, caption)
    return table


def read_names(file: Path) -> Iterator[tuple[str, tuple[str, str]]]:
    """(code points, (group, caption)) of the fully qualified lines of Unicode's emoji-test.txt."""
    group, any_line = "", False
    for line in file.read_text("utf-8").splitlines():
        if line.startswith("# group:"):
            group = line.partition(":")[2].strip()
        elif (match := _LINE.fullmatch(line.strip())) and match[2] in ("fully-qualified", "component"):
            any_line = True
            points = [point.lower().zfill(4) for point in match[1].split() if point != "FE0F"]
            yield "_".join(points), (group, caption_of(match[3]))
    if not any_line:
        raise ValueError(f"{file}: expected Unicode's emoji-test.txt, found no line of it")


def caption_of(name: str) -> str:
    """A short name as a caption: "Woman Scientist: medium skin tone" gives "woman scientist, medium skin tone"."""
    return name.lower().replace(": ", ", ")
