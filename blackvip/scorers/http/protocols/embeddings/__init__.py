"""Embeddings: texts and images become vectors, and scores are their cosines."""

from .cosine import COSINE_FORMS, CosineForm, CosineScore
from .embeddings import Embeddings, ImageVectors
from .forms import EMBEDDING_FORMS, EmbeddingForm

__all__ = [
    "COSINE_FORMS",
    "EMBEDDING_FORMS",
    "CosineForm",
    "CosineScore",
    "EmbeddingForm",
    "Embeddings",
    "ImageVectors",
]
