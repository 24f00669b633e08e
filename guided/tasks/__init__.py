"""What a user does with a model and photos: editing, inpainting, outpainting; and what an edit did, in figures."""

from guided.tasks.edited import Edited
from guided.tasks.editing import Edit, run
from guided.tasks.faithful import Changed, Psnr
from guided.tasks.flow import FlowEdit
from guided.tasks.inversion import Exact, Inversion
from guided.tasks.photo import Photo, read
from guided.tasks.prompts import PromptToPrompt
from guided.tasks.replay import DDPMInversion
from guided.tasks.translating import Translate
from guided.tasks.upscaling import Upscale

__all__ = [
    "Changed",
    "DDPMInversion",
    "Edit",
    "Edited",
    "Exact",
    "FlowEdit",
    "Inversion",
    "Photo",
    "PromptToPrompt",
    "Psnr",
    "Translate",
    "Upscale",
    "read",
    "run",
]
