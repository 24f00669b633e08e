"""`guided eval`: judge a model or a folder of pictures against real ones."""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, cast

import typer

from guided.cli import common
from guided.cli.common import Device, Dtype, Json

if TYPE_CHECKING:
    from guided.evaluate import Options, Report
    from guided.evaluate.material import Watch
    from guided.model import Model

EXAMPLE = "For example: [bold]guided eval runs/emoji32 --against emoji --w 1,2,4[/bold]"
Guided = Annotated[str, typer.Option("--w", help="Guidance weights, such as 1,2,4; the model's by default.")]
Guides = Annotated[
    list[str] | None,
    typer.Option("--guide", metavar="EXPR", help="Guides beside the weights; may be given repeatedly."),
]
Many = Annotated[int | None, typer.Option("--n", help="Pictures drawn each way.")]
Judge = Annotated[str | None, typer.Option("--classifier", help="The folder of one; trained on DATA by default.")]
Bound = Annotated[int, typer.Option("--likelihood", help="Pictures whose ELBO is computed; 0: none.")]
Taught = Annotated[bool, typer.Option("--cas", help="Also train a classifier on what was drawn of classes.")]
Fit = Annotated[str | None, typer.Option("--clip", metavar="FOLDER_OR_ID", help="A CLIP, for CLIPScore.")]
Seen = Annotated[
    str | None,
    typer.Option(
        "--features",
        metavar="SPACE",
        help="Whose features distances use: a folder or hub id (CLIP, DINOv2, timm), timm:NAME[:FILE], inception:FILE.",
    ),
]
Far = Annotated[
    str | None,
    typer.Option("--lpips", metavar="FILE", help="torchvision's AlexNet or VGG16, for the LPIPS of changed pictures."),
]
Pickled = Annotated[
    bool,
    typer.Option("--pickle", help="Read --features and --lpips even if they are pickles, in a process of its own."),
]
Out = Annotated[
    pathlib.Path | None,
    typer.Option("--out", metavar="FILE.json", help="The JSON, and the picture beside it; NAME-eval.json by default."),
]
Sheet = Annotated[pathlib.Path | None, typer.Option("--sheet", help="A contact sheet of what was drawn.")]

Memory = Annotated[
    pathlib.Path | None,
    typer.Option("--memory", metavar="FILE.png", help="A sheet of what is nearest to training, beside it."),
]
Strengths = Annotated[
    pathlib.Path | None,
    typer.Option(
        "--strengths", metavar="FILE.png", help="Judge edits instead: how far 20 strengths go, how near to real."
    ),
]


def evaluate(
    *,
    subject: Annotated[str, typer.Argument(metavar="MODEL_OR_DIR", help="A model, or a folder of pictures.")],
    against: Annotated[str, typer.Option("--against", help="Real pictures: a folder, a file, a dataset, or shapes.")],
    n: Many = None,
    w: Guided = "",
    guide: Guides = None,
    steps: Annotated[int | None, typer.Option("--steps", help="Steps of the solver.")] = None,
    solver: Annotated[str | None, typer.Option("--solver", help="Any of guided.solvers.NAMES.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the first picture.")] = 0,
    batch: Annotated[int, typer.Option("--batch", help="Pictures drawn at once.")] = 64,
    size: Annotated[int | None, typer.Option("--size", help="Side at which two folders are compared.")] = None,
    classifier: Judge = None,
    likelihood: Bound = 0,
    cas: Taught = False,
    clip: Fit = None,
    features: Seen = None,
    lpips: Far = None,
    pickle: Pickled = False,
    sheet: Sheet = None,
    memory: Memory = None,
    strengths: Strengths = None,
    out: Out = None,
    device: Device = "auto",
    dtype: Dtype = "float32",
    as_json: Json = False,
) -> None:
    """Measure what follows from the two: nearest captions, class accuracy, FD, KID, precision, recall.

    Prints one table, and writes one JSON and one picture of it.
    """
    from guided import evaluate as judging

    pictures = {"--sheet": sheet, "--memory": memory, "--strengths": strengths}
    names = _places(out or pathlib.Path(f"{pathlib.PurePath(subject).name or 'model'}-eval.json"), pictures)
    if strengths is not None:
        more: dict[str, object] = {"--sheet": sheet, "--memory": memory, "--cas": cas, "--clip": clip, "--lpips": lpips}
        more |= {"--features": features, "--classifier": classifier, "--likelihood": likelihood, "--size": size}
        _check_strengths(subject, strengths, more)

    options = judging.Options(
        n=n, w=_weights(w), guide=tuple(guide or ()), steps=steps, solver=solver, seed=seed, batch=batch,
        classifier=classifier, likelihood=likelihood, size=size, cas=cas,
        clip=clip, features=features, lpips=lpips, pickle=pickle,
        device=None if judging.is_model(subject) else common.device_of(device),
    )  # fmt: skip
    judged: Model | str = subject if options.device else common.open_model(subject, device, dtype)
    with common.bar(1, "") as update:

        def watch(what: str, done: int, total: int) -> None:
            update(done / max(total, 1), what)

        if strengths is None:
            report = judging.evaluate(judged, against, options, sheet=sheet, memory=memory, watch=watch)
        else:
            report = _curve(cast("Model", judged), against, options, watch, strengths)
    report.save(names[0])
    _show(report, as_json)
    drawn = " and ".join(str(path) for path in pictures.values() if path)
    common.say(f"written to {names[0]} and {names[1]}" + (f"; pictures in {drawn}" if drawn else ""))


def _show(report: Report, as_json: bool) -> None:
    if as_json:
        common.show_json(report.json())
    else:
        report.show()
    sys.stdout.flush()


def _places(out: pathlib.Path, pictures: Mapping[str, pathlib.Path | None]) -> Sequence[pathlib.Path]:
    """Where the report goes; ValueError where a picture would go there too."""
    from guided import evaluate as judging

    names = judging.places(out)
    for option, file in pictures.items():
        if file is not None and file.resolve() in [name.resolve() for name in names]:
            raise ValueError(f"{option}: {file} is where the report goes; choose another name, or another --out")
    return names


def _check_strengths(subject: str, file: pathlib.Path, more: Mapping[str, object]) -> None:
    """Raise ValueError for what does not go with --strengths, before anything is opened."""
    from guided import evaluate as judging

    if wrong := [name for name, value in more.items() if value]:
        raise ValueError(f"--strengths judges edits: leave out {', '.join(wrong)}")
    if file.suffix.lower() != ".png":
        raise ValueError(f"--strengths: the plot is a .png file, got {file}")
    if not judging.is_model(subject):
        raise ValueError(f"--strengths: {subject} is no model, and pictures edit none")


def _curve(model: Model, against: str, options: Options, watch: Watch, file: pathlib.Path) -> Report:
    """Judge edits, and write their curve as a picture."""
    from guided.bench import plots
    from guided.evaluate import strengths

    report = strengths.strength_curve(model, against, options, watch=watch)
    title = f"{report.subject}: edits of {pathlib.PurePath(against).name}"
    plots.plot(file, title, "strength", "share", strengths.curves(report), shares=True)
    return report


def _weights(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.replace(",", " ").split())
    except ValueError:
        raise ValueError(f"--w: expected numbers such as 1,2,4, got {text!r}") from None
