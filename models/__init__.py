"""What is built on the engine: attention, the classifier, and everything around its training."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .errors import InputError
from .multi_head_attention import MultiHeadAttention
from .text_classifier import TextClassifier
from .trained import TrainedClassifier

if TYPE_CHECKING:
    from .estimator import TextClassifierEstimator as TextClassifierEstimator
    from .language_model import LanguageModel as LanguageModel
    from .transformer import TransformerEncoder as TransformerEncoder

__all__ = ["InputError", "MultiHeadAttention", "TextClassifier", "TrainedClassifier"]

# Imported when somebody asks for them: `predict` needs none of them, and should begin at once.
LATER = {
    "LanguageModel": "language_model",
    "TextClassifierEstimator": "estimator",
    "TransformerEncoder": "transformer",
}


def __getattr__(name: str) -> Any:
    if name not in LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f".{LATER[name]}", __name__)
    if getattr(module, "missing", None) is not None:  # scikit-learn
        raise ImportError(module.REMEDY) from module.missing
    return getattr(module, name)
