"""What is built on the engine: attention, the classifier, and everything around its training."""

from typing import TYPE_CHECKING, Any

from .errors import InputError
from .multi_head_attention import MultiHeadAttention
from .text_classifier import TextClassifier
from .trained import TrainedClassifier

if TYPE_CHECKING:
    from .estimator import TextClassifierEstimator as TextClassifierEstimator

__all__ = [
    "InputError",
    "MultiHeadAttention",
    "TextClassifier",
    "TrainedClassifier",
]


def __getattr__(name: str) -> Any:
    """The estimator is imported when somebody asks for it, since it imports scikit-learn."""
    if name != "TextClassifierEstimator":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import estimator

    if estimator.missing is not None:
        raise ImportError(estimator.REMEDY) from estimator.missing
    return estimator.TextClassifierEstimator
