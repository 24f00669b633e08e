"""What a run is: one frozen record, checked key by key before any work starts."""

from __future__ import annotations

import dataclasses
import os
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypeAlias

from pydantic import BaseModel, BeforeValidator, create_model, model_validator

from guided.degrade import Augment, Translation, parse
from guided.nn.config import UNetConfig
from guided.nn.presets import PRESETS
from guided.train import reading
from guided.train.fields import Section, checked, number, one_of, sequence, text, truth, truth_or, whole

Text: TypeAlias = Annotated[str, text]
Truth: TypeAlias = Annotated[bool, truth]
Count: TypeAlias = Annotated[int, whole(1)]
Amount: TypeAlias = Annotated[int, whole(0)]
Positive: TypeAlias = Annotated[float, number(above=0)]
Share: TypeAlias = Annotated[float, number(0, 1)]


def _size(value: Any) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int | float) else value
    if (
        not isinstance(pair, list | tuple)
        or len(pair) != 2
        or any(isinstance(side, bool) or not isinstance(side, int) or not 1 <= side <= 8192 for side in pair)
    ):
        raise ValueError("expected a side in pixels, or [height, width], each from 1 to 8192")
    return int(pair[0]), int(pair[1])


class HoldOut(Section):
    """What is kept out of training for ever: a share of the base captions, and pairs of base and tone."""

    share: Annotated[float, number(0, 0.9)] = 0.05
    pairs: Amount = 200


class Shapes(Section):
    """The rendered source, for `data.path: shapes`."""

    n: Count = 20_000
    objects: Annotated[int, whole(1, 2)] = 1
    hold_out: Share = 0.2


class Data(Section):
    """Pictures and what is known of them."""

    path: Text
    format: Text = "auto"
    caption_key: Text = "text"
    label_key: Text = "label"
    size: Annotated[tuple[int, int], BeforeValidator(_size)] = (32, 32)
    channels: Annotated[int, whole(1, 64)] = 3
    background: Text = "white"
    resize: Annotated[str, one_of("area", "bicubic")] = "area"
    flip: Truth = False  # mirror half of the pictures, left and right
    aspects: Truth = False  # a picture keeps its shape, at one of several sizes of the area of `size`
    crop: Annotated[float, number(0, 1)] = 1.0  # least side of a random window, as a share; 1: the middle; 0: unscaled
    condition: Annotated[str, one_of("text", "class", "none")] = "text"
    balance: Annotated[str, one_of("base", "uniform")] = "uniform"
    hold_out: HoldOut | None = HoldOut()
    workers: Amount = 0
    shapes: Shapes = Shapes()


def _encoder(value: Any) -> Any:
    if not isinstance(value, str | Mapping) or not value:
        raise ValueError("expected the name, folder or spec of a text encoder")
    return value


class TextSection(Section):
    """The frozen encoder of captions."""

    encoder: Annotated[Any, BeforeValidator(_encoder)] = "minilm"
    length: Count | None = None


def _typed(kind: Any) -> Any:
    """The recipe's check for the type of a field of `UNetConfig`."""
    simple = {int: Annotated[int, whole()], float: Annotated[float, number()], str: Text, bool: Truth}
    if kind in simple:
        return simple[kind]
    if isinstance(kind, types.UnionType):
        return typing.Optional[_typed(typing.get_args(kind)[0])]  # noqa: UP045
    inner = _typed(typing.get_args(kind)[0])
    return Annotated[tuple[inner, ...], BeforeValidator(_spread)]  # type: ignore[valid-type]


def _spread(value: Any) -> Any:
    # A U-Net takes one number for all levels; its own check sees to the count.
    return tuple(value) if isinstance(value, list | tuple) else (value,)


_HINTS = typing.get_type_hints(UNetConfig)
ModelSection: type[BaseModel] = create_model(  # type: ignore[call-overload]
    "ModelSection",
    __base__=Section,
    __doc__="A preset, and any field of `UNetConfig` in place of the preset's.",
    preset=(Annotated[str, one_of(*PRESETS)], "unet32-text"),
    **{field.name: (typing.Optional[_typed(_HINTS[field.name])], None) for field in dataclasses.fields(UNetConfig)},  # noqa: UP045
)


def _task(value: Any) -> Any:
    if not isinstance(value, str):
        raise ValueError('expected a task, such as "colourise" or "jpeg(5, 30)"')
    return repr(parse(value))


class AugmentSection(Section):
    """What is done to the pictures that a network is shown, and what of it a cascade does; see `degrade.Augment`."""

    kind: Annotated[str, one_of("noise", "blur")] = "noise"
    most: Positive = 0.5
    level: Annotated[float, number(0)] = 0.1


class Translate(Section):
    """The tasks of a network that changes pictures; see `guided.degrade`."""

    tasks: Annotated[tuple[Annotated[str, BeforeValidator(_task)], ...], sequence(1)]
    augment: AugmentSection | None = None

    @model_validator(mode="after")
    def _together(self) -> Translate:
        self.taught()
        return self

    def taught(self) -> Translation:
        """The tasks themselves."""
        augment = None if self.augment is None else Augment(**self.augment.model_dump())
        return Translation(tuple(parse(word) for word in self.tasks), augment)


class DenoiserSection(Section):
    """What the network predicts, and over which noise levels."""

    parametrization: Annotated[str, one_of("edm", "eps", "x0", "v", "flow")] = "edm"
    # A published schedule of 1,000 levels, by which the network is shown its noise: diffusers' schedulers know it then.
    frame: Annotated[str, one_of("linear", "scaled", "cosine")] | None = None
    sigma_data: Positive = 0.5
    around: Truth = False  # of the difference from the picture that is shown; see `guided.denoiser.Around`
    lo: Positive = 0.002
    hi: Positive = 80.0

    @model_validator(mode="after")
    def _order(self) -> DenoiserSection:
        if self.lo >= self.hi:
            raise ValueError(f"expected lo < hi, got lo {self.lo:g} and hi {self.hi:g}")
        if self.frame is not None and self.parametrization not in ("eps", "x0", "v"):
            raise ValueError(f"frame: goes with parametrization eps, x0 or v, got {self.parametrization!r}")
        return self


class NoiseSection(Section):
    """The law of the noise levels seen in training; "trained": evenly over those of a published base (tune)."""

    law: Annotated[str, one_of("log_normal", "logit_normal", "trained")] = "log_normal"
    mean: Annotated[float, number()] = -0.8
    std: Positive = 1.2


class LossSection(Section):
    """How the noise levels are weighted against each other; see `guided.train.loss`."""

    weight: Annotated[str, one_of("output", "edm", "eps", "x0", "v", "flow", "min_snr", "sigmoid")] = "edm"
    gamma: Positive = 5.0  # min_snr: the largest signal-to-noise ratio that still counts
    bias: Annotated[float, number()] = -3.0  # sigmoid: log signal-to-noise ratio at which half the weight is reached
    learned: Truth = False


class TrainSection(Section):
    """The run itself; whatever is counted is counted in images."""

    images: Count = 100_000
    batch_size: Count = 64  # images an update, over all processes and parts
    accumulate: Count = 1  # parts a batch is cut into
    optimizer: Annotated[str, one_of("adamw", "adamw8bit", "muon")] = "adamw"  # see `guided.train.eightbit`, `.muon`
    lr: Positive = 7e-4
    warmup: Amount = 10_000
    decay: Share = 0.4
    betas: Annotated[tuple[Share, Share], sequence(2)] = (0.9, 0.99)
    weight_decay: Annotated[float, number(0)] = 0.0
    clip: Positive | None = 1.0
    precision: Annotated[str, one_of("float32", "bf16", "fp16", "float64")] = "float32"
    ema: Annotated[tuple[Annotated[float, number(0.001, 0.28)], ...], sequence(1)] = (0.05, 0.10)
    early: Share = 0.1
    drop: Share = 0.1
    # True: a third more time for most of the memory. "cheap": hardly any for a fifth of it; on a CPU with a compiler.
    checkpointing: Annotated[bool | str, truth_or("cheap")] = False
    compile: Truth = False
    save_every: Count = 20_000
    keep: Annotated[int, whole(2)] = 2
    preview_every: Amount = 20_000
    held_every: Amount = 20_000
    tensorboard: Truth = True

    @model_validator(mode="after")
    def _parts(self) -> TrainSection:
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"expected a batch_size that accumulate divides, got {self.batch_size} and {self.accumulate}"
            )
        if self.optimizer == "adamw8bit" and self.precision == "float64":
            raise ValueError("expected optimizer adamw for precision float64: adamw8bit computes in float32")
        return self

    @property
    def at_once(self) -> int:
        """How many pictures are computed at once, on one process."""
        return self.batch_size // self.accumulate


METHODS = ("lora", "dora", "full", "dreambooth", "textual-inversion")


class Tune(Section):
    """A model that exists, what of it is trained, and what it must not forget; see `guided.tune`."""

    base: Text
    method: Annotated[str, one_of(*METHODS)] = "lora"
    rank: Amount = 16  # of the adapters; 0: the weights themselves, as `full` does
    alpha: Positive | None = None  # an adapter counts alpha / rank times; None: once
    targets: Annotated[str, one_of("attention", "convolutions", "all")] = "all"
    text_rank: Amount = 0  # of adapters on the text encoder; 0: none
    word: Text | None = None  # the new word: of textual inversion; and what pictures without a caption are called
    classes: Truth = False  # class folders that the base does not know become new classes
    encoder: Annotated[Any, BeforeValidator(_encoder)] | None = None  # another text encoder than the base's
    vectors: Count = 4  # token states that a new word of textual inversion stands for
    replay: Annotated[float, number(0, 0.9)] = 0.5  # share of a batch that are pictures which the base drew
    replayed: Count = 128  # how many it draws
    prompts: Annotated[tuple[Text, ...], sequence()] = ()  # of what; none: what its card says it was trained on
    budget: Positive | None = 0.05  # most that the loss on replayed pictures may rise, as a share; None: any
    patience: Count = 4  # checks without a better state that end the run
    frozen: Annotated[str, one_of("float32", "bf16")] = "float32"  # what weights that stay as they are lie in


class SampleSection(Section):
    """How previews are drawn, and what the finished model does by default."""

    steps: Annotated[int, whole(1, 1000)] = 24
    w: Annotated[float, number(0)] = 3.0
    prompts: Annotated[tuple[Text, ...], sequence()] = ()


class Recipe(Section):
    """A whole run. Frozen; `load_recipe` makes one from a file."""

    name: Text = "run"
    task: Annotated[str, one_of("denoiser", "classifier")] = "denoiser"  # the latter of noisy pictures, by class
    seed: Annotated[int, whole(0, 2**62)] = 0
    out: Text = ""
    estimates: Text | None = None  # a model: a classifier for guides of D learns from what it makes of noise
    data: Data
    text: TextSection = TextSection()
    translate: Translate | None = None
    tune: Tune | None = None
    model: ModelSection = ModelSection()  # type: ignore[valid-type]
    denoiser: DenoiserSection = DenoiserSection()
    noise: NoiseSection = NoiseSection()
    loss: LossSection = LossSection()
    train: TrainSection = TrainSection()
    sample: SampleSection = SampleSection()

    def changes(self) -> dict[str, Any]:
        """The fields of `UNetConfig` that the recipe sets itself, besides the preset."""
        given = self.model.model_dump(exclude_none=True)  # type: ignore[attr-defined]
        for name in ("blocks", "depth", "text_only"):  # one entry stands for all levels
            if len(given.get(name, ())) == 1:
                given[name] = given[name][0]
        return {key: value for key, value in given.items() if key != "preset"}


TEXT_KEYS = frozenset(
    f"{prefix}{name}"
    for prefix, section in (("", Recipe), ("data.", Data), ("text.", TextSection), ("tune.", Tune))
    for name, field in section.model_fields.items()
    if field.annotation is str or name in ("encoder", "estimates")
)


def load_recipe(
    recipe: str | os.PathLike[str] | Mapping[str, Any] | Recipe,
    overrides: Mapping[str, Any] | Sequence[str] = (),
) -> Recipe:
    """A checked recipe from a YAML or TOML file, a mapping or a Recipe, with dotted overrides.

    `overrides`: a mapping {"train.images": 20000} or strings "train.images=20000". A missing `out` is runs/NAME.
    Raises FileNotFoundError, or ValueError with one line for every fault: `file: section.key: expected ..., got ...`.
    """
    where = "recipe"
    if isinstance(recipe, Recipe):
        values: Mapping[str, Any] = recipe.model_dump(exclude_unset=True)
    elif isinstance(recipe, Mapping):
        values = recipe
    else:
        values, where = reading.read(recipe), os.fspath(recipe)
    found = checked(Recipe, reading.overridden(values, overrides, TEXT_KEYS), where)
    if faults := _unfit(found):
        raise ValueError("\n".join(f"{where}: {fault}" for fault in faults))
    return found if found.out else found.model_copy(update={"out": f"runs/{found.name}"})


def _unfit(recipe: Recipe) -> list[str]:
    """What a recipe asks for that does not go together."""
    faults = []
    if recipe.translate is not None:
        if len(recipe.translate.tasks) > 1 and recipe.data.condition == "class":
            faults.append("translate.tasks: several are told apart by the label, which data.condition=class needs too")
        for task in recipe.translate.taught().tasks:
            try:
                task.check(recipe.data.channels, recipe.data.size)
            except ValueError as error:
                faults.append(f"translate.tasks: {error}")
        if "pairs" in recipe.translate.tasks and recipe.data.path == "shapes":
            faults.append("translate.tasks: pairs need a folder with `source` and `target` in it")
        if "pairs" in recipe.translate.tasks and recipe.data.aspects:
            faults.append("data.aspects: pairs are brought to one size, data.size; leave it out")
    if recipe.denoiser.around and recipe.translate is None:
        faults.append("denoiser.around: a network that is shown no picture (translate) has none to differ from")
    faults += [] if recipe.tune is None else _untunable(recipe, recipe.tune)
    if recipe.noise.law == "trained" and recipe.tune is None:
        faults.append("noise.law: trained: only a model that is tuned has levels it was trained on")
    if recipe.task != "classifier":
        return [*faults, *(["estimates: only a classifier reads them; leave it out"] if recipe.estimates else [])]
    if recipe.translate is not None:
        faults.append("translate: a classifier changes no pictures; leave the section out")
    if recipe.data.condition != "class":
        faults.append(f"data.condition: expected class, which a classifier learns, got {recipe.data.condition}")
    if "drop" in recipe.train.model_fields_set and recipe.train.drop:
        faults.append("train.drop: a classifier learns the class of every picture; leave it out")
    if recipe.loss.model_fields_set:
        faults.append("loss: a classifier's is cross-entropy; leave the section out")
    return faults


def _untunable(recipe: Recipe, tune: Tune) -> list[str]:
    faults = []
    if recipe.task == "classifier":
        faults.append("tune: a classifier is not tuned; train one with another recipe")
    if recipe.model.model_fields_set:  # type: ignore[attr-defined]
        faults.append("model: the network is that of tune.base; leave the section out")
    if recipe.text.model_fields_set:
        faults.append("text: the encoder is that of tune.base; leave the section out, or name another in tune.encoder")
    if tune.method in ("lora", "dora") and not tune.rank:
        faults.append(f"tune.rank: expected at least 1 for {tune.method}, got 0; the weights themselves: method full")
    if tune.method == "textual-inversion" and tune.word is None:
        faults.append("tune.word: expected the word that textual-inversion is to learn, got none")
    if tune.method == "full" or (tune.method == "dreambooth" and not tune.rank):
        said = tune.model_fields_set
        given = {"rank": "rank" in said and tune.rank, "targets": "targets" in said, "text_rank": tune.text_rank}
        faults += [
            f"tune.{name}: {tune.method} trains the weights, without adapters: leave it out, or method lora"
            for name, value in given.items()
            if value
        ]
    if tune.method == "textual-inversion" and tune.text_rank:
        faults.append("tune.text_rank: textual-inversion learns a word and nothing else: leave it out, or method lora")
    if tune.method != "textual-inversion" and "vectors" in tune.model_fields_set:
        faults.append(f"tune.vectors: of a word that textual-inversion learns, got method {tune.method}")
    if tune.prompts and not tune.replay:
        faults.append("tune.prompts: nothing is drawn of them where tune.replay is 0: leave them out, or replay more")
    if tune.budget is not None and not tune.replay:
        faults.append("tune.budget: what is forgotten shows on replayed pictures: give tune.replay > 0, or budget null")
    return faults
