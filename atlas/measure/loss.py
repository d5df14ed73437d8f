"""A model and held-out texts -> its loss by document: what two models are compared on, text by text."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from atlas.errors import ModelError
from atlas.measure.ablation import HeldOut
from atlas.measure.batches import Reading, batches_of
from atlas.models.adapter import Adapter
from atlas.progress import Progress

_LOGITS = 1 << 25  # logits of a batch: 128 MB in float32; a single context may have more
_TOKENS = 1 << 12  # of a batch


def losses(adapter: Adapter, held: HeldOut, *, progress: Progress) -> npt.NDArray[np.float64]:
    """Negative log likelihood in nats, summed over the predicted positions of each document: [documents].

    Position t predicts token t + 1 of its context, BOS included; the log-softmax is in at least float32, sums are in
    float64. `held` may come from another model with the same tokenizer. Raises ModelError for a loss that is no number.
    """
    tokens = max(min(_LOGITS // adapter.spec.vocab, _TOKENS), held.context_length)
    reading, found = Reading(held.context_length, tokens, 1, skip_bos=False), np.zeros(len(held.sha256))
    with torch.inference_mode(), progress.task("loss", held.tokens, "tokens") as task:
        for batch in batches_of(list(held.contexts), adapter.bos_token_id, reading):
            ids = torch.from_numpy(batch.input_ids).to(adapter.device)
            surprise = _surprise(adapter.model(input_ids=ids, use_cache=False).logits, ids)
            for row, context in enumerate(batch.contexts):
                predicted = len(context.token_ids) - 1
                found[context.document] += float(surprise[row, :predicted].sum(dtype=torch.float64))
                task.advance(predicted)
    if not np.isfinite(found).all():
        raise ModelError(f"the loss of {adapter.spec.name} on this text is no number; measure it in float32")
    return found


def _surprise(logits: Tensor, ids: Tensor) -> Tensor:
    """-log p of the next token [contexts, longest - 1]."""
    wide = logits[:, :-1].to(torch.promote_types(logits.dtype, torch.float32))
    flat = nn.functional.cross_entropy(wide.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    return flat.view(ids.shape[0], -1)
