"""The Python process: its settings, which must change no result, and the devices of torch."""
