"""Embeddings: texts and images become vectors, and scores are their cosines."""

from .embeddings import Embeddings
from .forms import EMBEDDING_FORMS, EmbeddingForm

__all__ = ["EMBEDDING_FORMS", "EmbeddingForm", "Embeddings"]
