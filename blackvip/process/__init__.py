"""The settings of the Python process that must change no result."""
