"""What is built on the engine: attention, the classifier, and everything around its training."""

from .errors import InputError
from .multi_head_attention import MultiHeadAttention
from .text_classifier import TextClassifier
from .trained import TrainedClassifier

__all__ = ["InputError", "MultiHeadAttention", "TextClassifier", "TrainedClassifier"]
