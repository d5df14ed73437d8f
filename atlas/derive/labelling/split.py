"""Documents -> the half that labels are made from and the half that scores them.

The half is a hash of corpus and document, so every exemplar of a document is on one side, for every neuron and in
every run. `IS_TEST` says the same in SQL over the columns of `contexts`.
"""

from __future__ import annotations

import hashlib

# First hex digit 0 to 7, half of them. concat takes NULL for ''.
IS_TEST = "md5(concat(corpus, ' ', document)) < '8'"


def is_test(corpus: str | None, document: int) -> bool:
    """Whether a document is kept for scores; labelling never sees it."""
    return hashlib.md5(f"{corpus or ''} {document}".encode(), usedforsecurity=False).hexdigest() < "8"
