"""The fitted half of the classifier: images -> prompted images -> scores -> probabilities."""

from .fitted import PromptedClassifier

__all__ = ["PromptedClassifier"]
