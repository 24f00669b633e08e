"""What a user holds: a denoiser with its codec, its encoders and its card; what it draws; a classifier to steer by."""

from guided.model.classifier import NoisyClassifier, opened
from guided.model.drawing import Progress
from guided.model.model import Model
from guided.model.request import Request
from guided.model.result import Result, record_of

__all__ = ["Model", "NoisyClassifier", "Progress", "Request", "Result", "opened", "record_of"]
