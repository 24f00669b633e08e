"""What a user does with a model and photos: editing, inpainting, outpainting; and what an edit did, in figures."""

from guided.tasks.edited import Edited
from guided.tasks.editing import Edit, run
from guided.tasks.photo import Photo, read

__all__ = ["Edit", "Edited", "Photo", "read", "run"]
