"""What a user holds: a denoiser with its codec, its encoders and its card; and what it draws."""

from guided.model.drawing import Progress
from guided.model.model import Model
from guided.model.request import Request
from guided.model.result import Result, record_of

__all__ = ["Model", "Progress", "Request", "Result", "record_of"]
