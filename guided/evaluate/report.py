"""One table, one JSON and one picture: what a model or a folder of pictures is worth, held against real pictures."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from PIL import Image
from torch import Tensor

from guided import _files, data
from guided.evaluate import measures
from guided.evaluate.classifier import Schedule
from guided.evaluate.features import Features
from guided.evaluate.figures import Figure
from guided.evaluate.lpips import open_lpips
from guided.evaluate.material import Artist, How, Real, Watch, real
from guided.evaluate.measures import Extra, Found
from guided.evaluate.memory import contact, held_out, memorised
from guided.evaluate.network import Classifier
from guided.evaluate.spaces import open_space
from guided.evaluate.towers import clip_score, open_towers
from guided.evaluate.translations import translations
from guided.model import Model
from guided.model.result import png
from guided.model.sheet import sheet as contact_sheet

if TYPE_CHECKING:
    from rich.console import Console

CAPTIONS, SCENES, DRAWN, TRANSLATED = 200, 500, 1000, 400


@dataclass(frozen=True)
class Options:
    """How to judge.

    n: pictures each way (200 captions, 500 scenes or 1,000 of classes by default). w, guide: the ways, guidance weights
    and guides as text; by default the card's weight. steps, solver: the card's by default. classifier: the folder of
    one; by default it is trained on the labelled real pictures, `epochs` passes, and kept in the cache. likelihood:
    pictures a part whose ELBO is computed at `moves` noise levels, 0 for none. size: side in pixels at which folders
    are compared, their own by default.
    cas: also train a classifier on the pictures drawn of classes, for `epochs`. clip: a folder or hub id of a CLIP, for
    CLIPScore of what was drawn from captions. features: the network whose features all distances are taken in, as
    `spaces.open_space` reads it: a CLIP, a DINOv2, a timm model, FID's Inception. lpips: the file of torchvision's
    AlexNet or VGG16, for the LPIPS of what a model makes of pictures it is given. pickle: whether the last two may be
    pickles. device: where these are computed; the model's by default, the CPU for folders.
    """

    n: int | None = None
    w: tuple[float, ...] = ()
    guide: tuple[str, ...] = ()
    steps: int | None = None
    solver: str | None = None
    seed: int = 0
    batch: int = 64
    classifier: str | os.PathLike[str] | None = None
    epochs: float = Schedule().epochs
    likelihood: int = 0
    moves: int = 100
    size: int | None = None
    cas: bool = False
    clip: str | os.PathLike[str] | None = None
    features: str | os.PathLike[str] | None = None
    lpips: str | os.PathLike[str] | None = None
    pickle: bool = False
    device: str | None = None

    def __post_init__(self) -> None:
        for name, value, least in (("n", self.n, 1), ("batch", self.batch, 1), ("likelihood", self.likelihood, 0)):
            if value is not None and value < least:
                raise ValueError(f"{name}: expected at least {least}, got {value}")


@dataclass(frozen=True, eq=False)
class Report:
    """What was judged against what, with which settings, and the figures."""

    subject: str
    against: str
    settings: dict[str, str]
    figures: tuple[Figure, ...]

    def json(self) -> dict[str, Any]:
        """The report as JSON."""
        return {
            "subject": self.subject,
            "against": self.against,
            "settings": self.settings,
            "figures": [figure.json() for figure in self.figures],
        }

    def save(self, path: str | os.PathLike[str]) -> tuple[pathlib.Path, pathlib.Path]:
        """Write the JSON and, beside it as .png, the picture of the figures; where they are (`places`)."""
        from guided.evaluate.chart import chart

        where, shown = places(path)
        _files.write(where, json.dumps(self.json(), indent=1) + "\n")
        _files.write(shown, png(chart(self.subject, self.against, self.settings, self.figures), None))
        return where, shown

    def show(self, console: Console | None = None) -> None:
        """Print the settings and one table; to stdout unless told otherwise."""
        from rich.console import Console
        from rich.markup import escape
        from rich.table import Table

        out = console or Console()
        for name, value in self.settings.items():
            out.print(f"{name}: {value}", markup=False, highlight=False, soft_wrap=True)
        table = Table(
            "figure",
            "at",
            "value",
            "95 % interval",
            "n",
            "beside",
            title=escape(f"{self.subject} against {self.against}"),
        )
        for f in self.figures:
            interval = "-" if f.low != f.low else f"{f.text(f.low)} .. {f.text(f.high)}"
            beside = ", ".join(f"{name} {f.text(value)}" for name, value in f.beside.items())
            table.add_row(escape(f.name), escape(f.at), f.text(f.value), interval, str(f.n), escape(beside))
        out.print(table)


def places(path: str | os.PathLike[str]) -> tuple[pathlib.Path, pathlib.Path]:
    """The JSON and the picture of a report called `path`: NAME.json and NAME.png, whichever of the two is named."""
    file = pathlib.Path(path)
    if file.suffix.lower() == ".png":
        return file.with_suffix(".json"), file
    return file, file.with_suffix(".png") if file.suffix.lower() == ".json" else file.with_name(f"{file.name}.png")


def evaluate(
    subject: Model | str | os.PathLike[str],
    against: str | os.PathLike[str],
    options: Options | None = None,
    *,
    sheet: str | os.PathLike[str] | None = None,
    memory: str | os.PathLike[str] | None = None,
    watch: Watch | None = None,
) -> Report:
    """Judge a model, or a folder of pictures, against real ones; what is measured follows from what they are.

    subject: a `Model`, or whatever `guided.load` opens, or a folder of pictures. against: whatever `data.open` opens,
    or "shapes". sheet: where to write a contact sheet of what was drawn. memory: where to
    write one of the drawn pictures nearest to training, each beside its nearest; their share becomes a figure. watch:
    called as (what, done, total).

    - A model of captions: for the same n training captions each way, the share whose nearest training picture has
      their base caption (all, the largest group, the others), and in the best way the held-out pairs of base and tone
      and the held-out bases. The split is that of the model's recipe.
    - A model of shapes: the exact parser's verdict on captions of colour-shape pairs that were never in training.
    - A model of classes: class accuracy by a classifier, FD, KID, precision, recall, coverage and density.
    - A model that changes pictures: each of its tasks undone in each way, beside the trivial answer.
    - A folder: FD, KID, precision, recall, coverage and density.

    On a command line: `evaluate(MODEL, DATA, Options(n=captions, w=(1, 2, 4)), sheet=...)`, then `.show()` and
    `.save(FILE)`. Raises ValueError or FileNotFoundError where the two do not go together.
    """
    options = options or Options()
    model = _model(subject)
    if model is None:
        return _folder(pathlib.Path(os.fspath(subject)), os.fspath(against), options, memory, watch)  # type: ignore[arg-type]
    _refuse(model, os.fspath(against), options, memory is not None)
    artist = Artist(model, options.steps, options.solver, options.seed, options.batch, watch)
    draws = model.translation is None
    ways: tuple[How, ...] = (*options.w, *options.guide) or (artist.w if draws else None,)
    # What is no guide is refused here, before long work.
    costs = [artist.cost(how) for how in ways] if options.guide and draws else []
    recipe = model.card.get("recipe") or {}
    extra = _extra(options, model.device)
    if _endless(os.fspath(against)) and draws:
        found, pictures = measures.shapes(artist, ways, options.n or SCENES, extra), None
        preprocessing = "none: scenes are rendered at the model's size"
    else:
        pictures = real(os.fspath(against), (options.size, options.size) if options.size else model.size, recipe)
        if memory is not None:
            held_out(pictures)
        found = _judged(artist, pictures, ways, options, extra)
        preprocessing = pictures.preprocessing
    figures = [*found.figures, *costs]
    if options.likelihood and pictures is not None:
        figures += measures.likelihood(artist, pictures, options.likelihood, options.moves)
    if sheet is not None and found.shown is not None:
        _write_sheet(sheet, found)
    if memory is not None and pictures is not None:
        figures.append(_remembered(found, pictures, memory))
    settings = {**_told(model, preprocessing, options), **found.settings}
    return Report(model.name, os.fspath(against), settings, tuple(figures))


def _told(model: Model, preprocessing: str, options: Options) -> dict[str, str]:
    """The settings every report of a model begins with."""
    steps = options.steps or model.card.get("defaults", {}).get("steps", "default")
    return {
        "model": f"{model.name}, {model.hash[:12]}",
        "real pictures": preprocessing,
        "drawn": f"steps {steps}, solver {options.solver or 'of the card'}, seeds from {options.seed}",
    }


def _endless(against: str) -> bool:
    """Whether the real pictures are rendered, as many as one likes."""
    return against == "shapes" or against.startswith("shapes:")


def _refuse(model: Model, against: str, options: Options, memory: bool) -> None:
    """Raise ValueError, before any work, for what cannot be measured of such a model."""
    changes, reads = model.translation is not None, "text" in model.encoders
    if options.cas and (changes or reads or not model.classes or _endless(against)):
        raise ValueError(f"cas: is measured of models that draw classes, and {model.name} is none; leave it out")
    if options.clip is not None and (changes or not reads):
        raise ValueError(f"clip: CLIPScore is measured of models that draw captions, and {model.name} is none")
    if options.lpips is not None and not changes:
        raise ValueError(f"lpips: is measured of models that change pictures they are given, and {model.name} is none")
    if options.likelihood and changes:
        raise ValueError(
            f"likelihood: is measured of models that draw, and {model.name} changes pictures; leave it out"
        )
    if memory and (changes or _endless(against)):
        why = "changes pictures it is given" if changes else "is judged on scenes that are rendered without end"
        raise ValueError(f"memory: {model.name} {why}; it is measured of models that draw, against their own data")


def _extra(options: Options, device: Any) -> Extra:
    """What was asked for beyond the usual, opened."""
    where = options.device or device
    clip = None if options.clip is None else open_towers(os.fspath(options.clip), where, captions=True)
    if options.features is None or options.features == options.clip:
        space = None if options.features is None else clip
    else:
        space = open_space(os.fspath(options.features), where, pickle=options.pickle)
    seen = None if options.lpips is None else open_lpips(os.fspath(options.lpips), where, pickle=options.pickle)
    return Extra(space, clip, Schedule(epochs=options.epochs) if options.cas else None, seen)


def _judged(artist: Artist, pictures: Real, ways: Sequence[How], options: Options, extra: Extra) -> Found:
    model = artist.model
    if model.translation is not None:
        crop = float((model.card.get("recipe") or {}).get("data", {}).get("crop", 1.0))
        judged = None if options.classifier is None else Classifier.open(options.classifier).space
        return translations(artist, pictures, options.n or TRANSLATED, ways, extra.space or judged, crop, extra.lpips)
    if "text" in model.encoders:
        if all(record.caption is None for record in pictures.records):
            raise ValueError(f"{model.name} draws captions, but the data has none; give captioned pictures")
        return measures.captions(artist, pictures, ways, options.n or CAPTIONS, extra)
    if model.classes:
        if not pictures.source.classes:
            raise ValueError(f"{model.name} draws classes, but the data has none; give labelled pictures")
        judge = _judge(pictures, options, artist.watch)
        assert judge is not None
        return measures.classes(artist, pictures, ways, options.n or DRAWN, judge, extra)
    space = _space(options, extra, pictures, artist.watch)
    return measures.folder(artist.pictures(None, n=options.n or DRAWN), pictures, space)


def _space(options: Options, extra: Extra, pictures: Real, watch: Watch | None) -> Features | None:
    """The features asked for, or those of the classifier asked for or of the labelled pictures; None without any."""
    if extra.space is not None:
        return extra.space
    judge = _judge(pictures, options, watch)
    return None if judge is None else judge.space


def _judge(pictures: Real, options: Options, watch: Watch | None) -> Classifier | None:
    """The classifier asked for, or that of the labelled pictures; None where there are neither."""
    if options.classifier is not None:
        return Classifier.open(options.classifier)
    if not pictures.source.classes:
        return None
    return measures.judge_of(pictures, Schedule(epochs=options.epochs), watch)


def _folder(
    subject: pathlib.Path,
    against: str,
    options: Options,
    memory: str | os.PathLike[str] | None,
    watch: Watch | None,
) -> Report:
    source = data.open(subject)
    size = (options.size, options.size) if options.size else _own_size(source)
    pictures = real(against, size)
    if memory is not None:
        held_out(pictures)
    given = real(str(subject), size)
    drawn, rows = given.read(range(len(source.records)))
    extra = _extra(options, "cpu")
    captions = [given.records[row].caption for row in rows]
    if options.cas or options.lpips is not None or (extra.clip is not None and None in captions):
        raise ValueError(
            f"{subject}: cas needs a model of classes, lpips one that changes pictures, and clip pictures that all "
            "have a caption"
        )
    found = measures.folder(drawn, pictures, _space(options, extra, pictures, watch))
    figures, settings = list(found.figures), {"pictures": f"{len(rows)} of {subject}"}
    if extra.clip is not None:
        figures += clip_score(extra.clip, drawn, [caption or "" for caption in captions])
        settings["CLIPScore"] = extra.clip.name
    if memory is not None:
        figures.append(_remembered(found, pictures, memory))
    settings |= {"preprocessing of both": pictures.preprocessing, **found.settings}
    return Report(str(subject), against, settings, tuple(figures))


def _own_size(source: data.Source) -> tuple[int, int]:
    """(H, W) of the first sound picture; raises ValueError where there is none."""
    for i in range(len(source.records)):
        with contextlib.suppress(data.BadPicture):
            height, width = data.decode(source.bytes(i)).array.shape[:2]
            return height, width
    raise ValueError(f"{source.summary.get('path')}: holds no picture that can be read")


def _model(subject: Model | str | os.PathLike[str]) -> Model | None:
    """The model, None where the subject is a folder of pictures."""
    if isinstance(subject, Model):
        return subject
    from guided import zoo

    return zoo.load_model(subject) if is_model(subject) else None


def is_model(subject: str | os.PathLike[str]) -> bool:
    """Whether this names a model rather than a folder of pictures; a shipped model goes before a folder of its name."""
    from guided import zoo

    place = pathlib.Path(subject)
    own = any((place / name).is_file() for name in ("card.json", "run.json", "model/card.json"))
    return os.fspath(subject) in zoo.SHIPPED or not place.is_dir() or own


def _remembered(found: Found, pictures: Real, path: str | os.PathLike[str]) -> Figure:
    """The share of drawn pictures that are suspiciously near to training, and the sheet of them."""
    assert found.lot is not None
    panel = memorised(found.lot.space, found.lot.pictures, pictures, found.lot.at)
    _files.write(path, png(contact(panel, found.lot.pictures, pictures, found.lot.asked), None))
    found.settings["memory"] = panel.told
    return panel.figure


def _write_sheet(path: str | os.PathLike[str], found: Found) -> None:
    assert found.shown is not None
    pictures = [_picture(picture) for picture in found.shown]
    _files.write(path, png(contact_sheet(pictures, list(found.captions), found.columns), None))


def _picture(picture: Tensor) -> Image.Image:
    array = picture.permute(1, 2, 0).numpy()
    return Image.fromarray(array if array.shape[-1] == 3 else array[..., 0])
