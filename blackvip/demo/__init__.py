"""Services and images of the demos, and how their results are shown."""

from .forms import READERS, SURFACES, draw_forms, load_forms, shuffled_digits, text_reader
from .pictures import CONDITIONS, PICTURES, draw_pictures, label_reader, load_pictures
from .results import draw_sent, results_table

__all__ = [
    "CONDITIONS",
    "PICTURES",
    "READERS",
    "SURFACES",
    "draw_forms",
    "draw_pictures",
    "draw_sent",
    "label_reader",
    "load_forms",
    "load_pictures",
    "results_table",
    "shuffled_digits",
    "text_reader",
]
