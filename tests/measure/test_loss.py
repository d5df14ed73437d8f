"""Loss by document against plain transformers, one context at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_models import FAMILIES, tiny_llama, tokens

from atlas.errors import ModelError
from atlas.measure.ablation import HeldOut
from atlas.measure.corpus import Context
from atlas.measure.loss import losses
from atlas.progress import Quiet


def texts(*lengths: tuple[int, int]) -> HeldOut:
    """Contexts of (document, tokens)."""
    found = [Context(i, document, 0, tuple(tokens(n, seed=i))) for i, (document, n) in enumerate(lengths)]
    return HeldOut(tuple(found), tuple(f"{i}" for i in range(1 + max(d for d, _ in lengths))), 20)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "neox"])
def test_loss_is_that_of_transformers(family: str) -> None:
    adapter, held = FAMILIES[family](torch.float64), texts((0, 20), (0, 7), (1, 2), (2, 13), (3, 20))
    expected = np.zeros(4)
    for context in held.contexts:
        ids = torch.tensor([context.token_ids])
        with torch.no_grad():  # transformers' own loss: the mean over predicted positions
            expected[context.document] += float(adapter.model(ids, labels=ids).loss) * (len(context.token_ids) - 1)
    np.testing.assert_allclose(losses(adapter, held, progress=Quiet()), expected, rtol=1e-6)  # its loss is in float32


def test_a_loss_that_is_no_number_is_refused() -> None:
    adapter = tiny_llama(torch.float32)
    adapter.unembedding.weight.data[3] = torch.nan
    with pytest.raises(ModelError, match="no number"):
        losses(adapter, texts((0, 5)), progress=Quiet())
