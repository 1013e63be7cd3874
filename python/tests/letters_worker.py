"""Counts the letters of texts, as the worker of the example `embed_host` does."""

from __future__ import annotations

import string

import numpy as np
import slipring

worker = slipring.Worker()


@worker.handler("embed")
def embed(request: slipring.Request) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    texts = [text.lower() for text in request.texts()]
    rows = [[text.count(letter) for letter in string.ascii_lowercase] for text in texts]
    return np.array(rows, dtype=np.float32).reshape(len(texts), 26)


worker.run()
