"""Image-to-image tasks, each a function that spoils a picture: pairs, known pixels and the baseline follow from it."""

from guided.degrade.chain import Photo
from guided.degrade.colour import Colourise, Edges
from guided.degrade.holes import Inpaint, Uncrop
from guided.degrade.quality import JPEG, Deblur, Denoise
from guided.degrade.scale import Down, box, consistent, enlarge
from guided.degrade.task import Pairs, Task
from guided.degrade.translation import Augment, Translation
from guided.degrade.words import TASKS, named, parse

__all__ = [
    "JPEG",
    "TASKS",
    "Augment",
    "Colourise",
    "Deblur",
    "Denoise",
    "Down",
    "Edges",
    "Inpaint",
    "Pairs",
    "Photo",
    "Task",
    "Translation",
    "Uncrop",
    "box",
    "consistent",
    "enlarge",
    "named",
    "parse",
]
