"""What app.py answers at the urls of hosted services: one line here for each protocol, and a function in a file beside.

A fake is ``fake(headers, data) -> (images, answer, n_classes)``. `data` is the JSON body, None for a GET; `images` are
those of the request, an array (n, h, w, 3), uint8, or `NO_IMAGES` if it prepares the adapter, see images.py;
``answer(scores)`` makes the JSON of the answer from `stripe_scores` (n, n_classes). A request that is not as documented
is an error: an assertion that fails answers it with 400 and the assertion's text.
"""

from servers.chat import CHAT
from servers.decisions import DECISIONS
from servers.embeddings import EMBEDDINGS

#: By the path of a request.
FAKES = {**CHAT, **DECISIONS, **EMBEDDINGS}
