"""Inputs: whatever a user passes as images, labels and class prompts, in one internal form."""
