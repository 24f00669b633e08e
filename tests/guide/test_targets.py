"""Each method moves what it is for, on a trained model of shapes: the exact parser sees colour, shape, size and place.

Give a run of recipes/shapes32.yaml in $GUIDED_SHAPES_MODEL, and one of recipes/classifier-shapes32.yaml in
$GUIDED_SHAPES_CLASSIFIER for what needs it.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import guided
from guided import guide as g
from guided import path
from guided.cond import Cond
from guided.data.shapes import ShapesSource, look, parse, read, score
from guided.denoiser import Denoise
from guided.guide import Guide, Term
from guided.model import Model, NoisyClassifier, conditioning
from guided.noise import Noise
from guided.operators import BoxDown, Mask
from guided.sampling import sample

pytestmark = pytest.mark.slow
N, STEPS, STRONG = 64, 12, 8.0
Route = Callable[[Tensor], Tensor]


def opened(variable: str, recipe: str) -> Any:
    folder = os.environ.get(variable)
    if not folder:
        pytest.skip(f"needs a trained model: set {variable} to a run of recipes/{recipe}.yaml")
    return guided.load(folder)


@functools.cache
def model() -> Model:
    found: Model = opened("GUIDED_SHAPES_MODEL", "shapes32")
    return found


@functools.cache
def judge() -> NoisyClassifier:
    found: NoisyClassifier = opened("GUIDED_SHAPES_CLASSIFIER", "classifier-shapes32")
    return found


@functools.cache
def young() -> Denoise:
    """The early snapshot: half of its captions go wrong, so that there is something to mend."""
    found = model().early()
    assert found is not None
    return found


@functools.cache
def captions() -> tuple[str, ...]:
    source = ShapesSource(N, seed=11, hold_out=0.0)
    return tuple(str(source.records[i].caption) for i in range(N))


@functools.cache
def prompts(texts: tuple[str, ...]) -> Cond:
    return conditioning.trimmed(conditioning.read(model().encoders["text"], list(texts))[0])


@functools.cache
def renders() -> Tensor:
    """True pictures of the captions, (N, 3, 32, 32) in [-1, 1]."""
    source = ShapesSource(N, seed=11, hold_out=0.0)
    return torch.stack([torch.as_tensor(source.image(i, (32, 32))).permute(2, 0, 1) for i in range(N)]) / 127.5 - 1


def draw(
    guide: Guide | Term | None, cond: Cond | None = None, network: Denoise | None = None, route: Route | None = None
) -> Tensor:
    """N pictures, not yet cut to the range of a picture; of the captions where no condition is given."""
    m, noise = model(), Noise(range(N))
    given = prompts(captions()) if cond is None else cond
    levels = path.default(STEPS, m.denoiser.lo, m.denoiser.hi, 3.0)
    levels = levels if route is None else route(levels)
    mean = torch.tensor(m.card["mean"]).reshape(-1, 1, 1)
    x = mean + float(levels[0]) * noise(0, (3, 32, 32))
    denoise = network or m.denoiser
    return sample(denoise if guide is None else guide(denoise), x, levels, given, noise=noise)


@functools.cache
def plain(kind: str) -> Tensor:
    """What no guide draws: of the captions, of no caption, or of the captions by the early snapshot."""
    return {
        "told": lambda: draw(None),
        "blind": lambda: draw(None, Cond()),
        "young": lambda: draw(None, None, young()),
    }[kind]()


@functools.cache
def strong() -> Tensor:
    return draw(g.cfg(STRONG))


def bytes_of(x: Tensor) -> Tensor:
    return ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def right(x: Tensor, texts: tuple[str, ...] | None = None, names: tuple[str, ...] = ()) -> float:
    """The share of pictures that show all of their caption, or the attributes named."""
    rows = [score(picture.numpy(), read(text)) for picture, text in zip(bytes_of(x), texts or captions(), strict=True)]
    return sum(all(row[name] for name in names or row) for row in rows) / len(rows)


def share(x: Tensor, **wanted: str) -> float:
    """The share of pictures with an object of these attributes."""
    seen = [look(picture.numpy()) or () for picture in bytes_of(x)]
    fits = [any(all(getattr(one, k) == v for k, v in wanted.items()) for one in objects) for objects in seen]
    return sum(fits) / len(fits)


def beyond(x: Tensor) -> float:
    """The share of numbers outside the range of a picture."""
    return float((x.abs() > 1.02).float().mean())


def moved(name: str, before: float, after: float) -> None:
    print(f"\n{name}: {before:.4g} -> {after:.4g}", end="")


# Contrasts make a network that errs draw more of what it was asked for


@pytest.mark.parametrize(
    "make",
    [
        lambda: g.cfg(3),
        lambda: g.cfg(3).during(0.3, 20),
        lambda: g.cfg(lambda sigma, next_sigma: 1 + 2 * (sigma > 0.5)),
        lambda: g.nested((3, {"tokens", "mask"})),
        lambda: g.cfgpp(1.0),
        lambda: g.independent(1.3, prompts(captions())),
        lambda: g.compose([(prompts(captions()), 3)]),
        lambda: g.cfg(5) >> g.frequency(),
    ],
)
def test_more_of_the_caption(make: Callable[[], Guide | Term]) -> None:
    guide = make()
    before, after = right(plain("young")), right(draw(guide, network=young()))
    moved(f"{guide!r}: all of the caption", before, after)
    assert after > before + 0.02


def sound(x: Tensor) -> float:
    """The share of pictures that are a scene at all."""
    return sum(parse(picture.numpy()) is not None for picture in bytes_of(x)) / len(x)


# A worse copy of the network, pushed away from, leaves sounder pictures


@pytest.mark.parametrize(("kind", "layers"), [("identity", "up"), ("blur", "up"), ("skip", None)])
def test_sounder_pictures_of_a_network_that_errs(kind: str, layers: str | None) -> None:
    scale = 1.0 if kind == "skip" else 2.0
    before = sound(draw(None, Cond(), young()))
    after = sound(draw(g.perturbed(kind, scale, layers=layers), Cond(), young()))
    moved(f"perturbed({kind!r}): sound pictures of nothing in particular", before, after)
    assert after > before


def test_autoguidance_draws_sounder_pictures() -> None:
    before, after = sound(plain("blind")), sound(draw(g.between(young(), 2), Cond()))
    moved("autoguidance: sound pictures of nothing in particular", before, after)
    assert after > before


# Negatives


RED = ("a large red circle in the center",) * N
BLUE = ("a large blue circle in the center",) * N


@pytest.mark.parametrize("attribute", ["colour", "place"])
def test_a_negative_prompt_lowers_what_it_names(attribute: str) -> None:
    """Of a picture of nothing in particular; the negative names what the mere picture shows often enough."""
    named = {"colour": "red", "place": "center"}[attribute]
    before = share(plain("blind"), **{attribute: named})
    after = share(draw(g.cfg(2.5, negative=prompts(RED[:1])), Cond()), **{attribute: named})
    moved(f"negative prompt: {named}", before, after)
    assert before > 0.05 and after < 0.4 * before


def test_a_negated_prompt_of_compose_lowers_what_it_names() -> None:
    before = share(plain("blind"), colour="red")
    after = share(draw(g.compose([(prompts(RED[:1]), -1.5)]), Cond()), colour="red")
    moved("compose: red", before, after)
    assert before > 0.05 and after < 0.4 * before


def test_compose_draws_what_its_prompts_share() -> None:
    both = [(prompts(RED[:1]), 2.0), (prompts(("a small red ring in the center",)), 2.0)]
    before, after = (share(x, colour="red", place="center") for x in (plain("blind"), draw(g.compose(both), Cond())))
    moved("compose: red and in the center, as both say", before, after)
    assert after > 0.8


def test_perp_neg_keeps_the_positive_prompt_where_a_plain_negative_loses_it() -> None:
    """Blue is wanted, red is not; what the two prompts share must stay."""
    wanted = prompts(BLUE)
    plainly = right(draw(g.cfg(4, negative=prompts(RED[:1])), wanted), BLUE)
    perpendicular = right(draw(g.perp_neg(4, (prompts(RED[:1]), 1.0)), wanted), BLUE)
    moved("perp-neg: all of the positive prompt, beside cfg with that negative", plainly, perpendicular)
    assert perpendicular > 2 * plainly


# Pushes along a gradient, from the network told nothing


def red_circle(reads: str) -> Term:
    label = list(judge().classes).index("red circle")
    known = judge() if reads == "x" else lambda D: judge()(D, torch.tensor(0.1))
    return g.gradient(g.class_log_prob(known, label), reads=reads, scale=2.0)


@pytest.mark.parametrize("reads", ["x", "D"])
def test_a_classifier_draws_its_class(reads: str) -> None:
    before, after = (share(x, colour="red", shape="circle") for x in (plain("blind"), draw(red_circle(reads), Cond())))
    moved(f"classifier of {reads}: red circles", before, after)
    assert after > 3 * before


def redness(D: Tensor, cond: Cond) -> Tensor:
    """Minus how far the picture's mean colour is from a reddish one: a function that is no class of the network's."""
    return -400 * (D.mean((2, 3)) - D.new_tensor([0.8, 0.4, 0.4])).square().sum(1)


@pytest.mark.parametrize(
    ("name", "guide", "route"),
    [
        ("dps without norm", g.gradient(redness), None),
        ("freedom", g.tfg(redness, rho=0.5), lambda levels: path.ancestral(path.resample(levels, 4, 2))),
        ("mpgd", g.tfg(redness, rho=0.0, mu=0.5), None),
        ("universal", g.tfg(redness, rho=0.5, mu=0.2, iterations=3), None),
        ("loss-guided", g.tfg(redness, rho=0.5, gamma=0.1), None),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_function_of_the_picture_rises(name: str, guide: Term, route: Route | None) -> None:
    before, after = (float(redness(x, Cond()).mean()) for x in (plain("blind"), draw(guide, Cond(), route=route)))
    moved(f"{name}: a function of the picture", before, after)
    assert after > before / 2


# Observations are met


BOX = BoxDown(4)
LEFT = torch.zeros(32, 32, dtype=torch.bool)
LEFT[:, :16] = True


@pytest.mark.parametrize(
    ("name", "make", "ancestral", "most"),
    [
        ("pigdm", lambda y: g.pigdm(BOX, y, 0.05, 0.16), False, 0.25),
        ("mmps", lambda y: g.mmps(BOX, y, 0.05), False, 0.1),
        ("dps", lambda y: g.dps(BOX, y, 1.0), True, 0.35),
        ("ddnm", lambda y: g.project(BOX, y), False, 1e-5),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_observation_is_met(name: str, make: Callable[[Tensor], Term], ancestral: bool, most: float) -> None:
    y = BOX(renders())
    route = path.ancestral if ancestral else None

    def missed(x: Tensor) -> float:
        return float((y - BOX(x)).square().mean().sqrt())

    guide = make(y)
    before, after = missed(plain("blind")), missed(draw(guide, Cond(), route=route))
    told = right(draw(guide, Cond(), route=route))
    moved(f"{name}: distance of the observation", before, after)
    moved(f"{name}: all of the caption that was not told", right(plain("blind")), told)
    assert after < most < before


def test_repaint_keeps_what_is_known_and_fits_the_rest_to_it() -> None:
    """The half that is known holds half of a shape in the pictures whose place is the middle column."""
    known = Mask(LEFT)
    y = known(renders())
    drawn = draw(g.project(known, y), route=lambda levels: path.ancestral(path.resample(levels, 4, 2)))
    middle = [i for i, text in enumerate(captions()) if text.endswith(("the top", "the center", "the bottom"))]
    fits = right(drawn[middle], tuple(captions()[i] for i in middle))
    moved("repaint: the known half, largest distance", 2.0, float((known(drawn) - y).abs().max()))
    moved("repaint: all of the caption where a shape lies across the border", 0.0, fits)
    assert torch.equal(known(drawn), y) and fits > 0.5


# Shaping tames a strong guide


@pytest.mark.parametrize(
    "make",
    [
        lambda: g.cfg(STRONG) >> g.rescale(0.7),
        lambda: g.cfg(STRONG) >> g.threshold(0.995),
        lambda: g.cfg(STRONG) >> g.clip(),
        lambda: g.cfg(STRONG) >> g.apg(0.0, 0.0, 2.5),
        lambda: g.cfg(STRONG) >> g.frequency(),
        lambda: g.cfg(STRONG).during(0.3, 5),
        lambda: g.cfgpp(1.0),
    ],
)
def test_less_beyond_the_range_of_a_picture(make: Callable[[], Guide]) -> None:
    guide = make()
    before, after = beyond(strong()), beyond(draw(guide))
    moved(f"{guide!r}: numbers beyond the range, beside cfg({STRONG:g})", before, after)
    assert after < 0.8 * before


def test_a_map_acts_where_it_lies() -> None:
    weights = torch.ones(1, 1, 32, 32)
    weights[..., 16:] = 4.0
    off = (draw(g.cfg(weights)) - plain("told")).abs().mean((0, 1, 2))
    moved("map: change where the weight is 1, beside where it is 4", float(off[16:].mean()), float(off[:16].mean()))
    assert off[:16].mean() < 0.5 * off[16:].mean()
