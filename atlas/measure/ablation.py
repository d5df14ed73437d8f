"""Sets of neurons -> what a model loses on held-out text without each set: KL, loss, flips, change (pruning.md).

Nothing below a set's first layer L changes, so that part runs once. At L the change is a sum of columns of the down
projection, h_L' = h_L - sum_i (a_i - mu_i) W_down[:, i], and only the blocks above run again, many sets in one batch.
The logits' change is one product with the change of the normed states (logit_sums.py), so tiny KLs are no noise.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import groupby
from types import TracebackType
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from atlas.errors import InputError, ModelError
from atlas.measure.batches import Batch, Reading, batches_of
from atlas.measure.corpus import Context, context_length, contexts
from atlas.measure.impact import Evaluation, corpus_hash
from atlas.measure.logit_sums import LogitSums
from atlas.models.adapter import Adapter, Block
from atlas.models.linear import weight
from atlas.models.selfcheck import capped
from atlas.neuron import NeuronId
from atlas.progress import Progress, Quiet, Task

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

MEMORY = 512 << 20  # bytes of states and logits of the unchanged model
_PIECE_TOKENS = 1024  # padded tokens of the contexts that are read at once, fewer where MEMORY is too small for them
_ROWS = 2048  # positions (of all sets of a batch) that run through the blocks at once
_LOGITS = 1 << 20  # logits of one product with the unembedding: 4 MB in float32, of which two stand in the cache


@dataclass(frozen=True)
class HeldOut:
    """Texts as contexts, with at least one predicted token each; documents never share a context.

    `Context.document` is the index of the document's hash in `sha256` (of its UTF-8 text).
    """

    contexts: tuple[Context, ...]
    sha256: tuple[str, ...]
    context_length: int  # tokens, BOS included

    @property
    def tokens(self) -> int:
        """Predicted positions: every position of a context but the last one, BOS included."""
        return sum(len(context.token_ids) - 1 for context in self.contexts)


def held_out(
    adapter: Adapter, documents: Sequence[str], *, context_length: int | None = None, max_tokens: int | None = None
) -> HeldOut:
    """Cut documents into contexts; `max_tokens` keeps the first contexts, the last one cut, of so many predicted ones.

    Documents that predict no token (empty, or one token without BOS) are left out. Raises InputError when none is left,
    or for the context length.
    """
    length = _length(adapter, context_length)
    left = max_tokens if max_tokens is not None else 1 << 62
    kept: list[Context] = []
    for context in _contexts(adapter, documents, length):
        if left < 1:
            break
        ids = context.token_ids[: left + 1]
        if len(ids) > 1:
            kept.append(replace(context, token_ids=ids))
            left -= len(ids) - 1
    if not kept:
        raise InputError(
            f"{len(documents)} texts hold no token to predict (an empty text, or one token); give text of several words"
        )
    places = {document: place for place, document in enumerate(dict.fromkeys(c.document for c in kept))}
    hashes = tuple(document_sha256(documents[document]) for document in places)
    return HeldOut(tuple(replace(c, document=places[c.document]) for c in kept), hashes, length)


def document_sha256(text: str) -> str:
    """The sha256 of a document's UTF-8 text, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Ablation:
    """What a_i becomes at every position: its mean over calibration documents, or 0."""

    kind: Literal["mean", "zero"]
    means: FloatArray | None = None  # [layers, d_mlp]

    @property
    def name(self) -> str:
        """For eval_id: the kind, and the hash of the means in float32."""
        if self.kind == "zero" or self.means is None:
            return self.kind
        return f"mean:{hashlib.sha256(np.ascontiguousarray(self.means, np.float32).tobytes()).hexdigest()[:16]}"


@dataclass(frozen=True)
class Damages:
    """Sums over predicted positions: rows are sets, columns documents; KL and NLL in nats.

    kl: KL(p_model || p_without); nll: loss without minus loss with; flips: positions whose most likely token changes;
    change: ||h' - h|| / ||h|| at the end of the residual stream, before the final norm.
    """

    kl: FloatArray
    nll: FloatArray
    flips: FloatArray
    change: FloatArray
    tokens: IntArray  # [documents]
    max_change: FloatArray  # [sets]
    kl_p99: FloatArray  # [sets], interpolated as numpy does


@dataclass(frozen=True)
class _Piece:
    """Contexts that run at once, and their predicted positions P."""

    batch: Batch
    rows: Tensor  # [P] flat positions in [contexts, longest]
    targets: Tensor  # [P]
    documents: Tensor  # [P]


@dataclass(frozen=True)
class _Reference:
    """The unchanged model on a piece; hidden, activations, written and calls by layer."""

    hidden: dict[int, Tensor]  # behind the block [contexts, longest, d]
    activations: dict[int, Tensor]  # [contexts * longest, d_mlp]
    written: dict[int, Tensor]  # input of the norm on the MLP's output, where there is one
    calls: dict[int, tuple[tuple[Any, ...], dict[str, Any]]]
    final: Tensor  # end of the residual stream [P, d]
    normed: Tensor  # [P, d], in at least float32
    logits: Tensor  # [P, V] before the cap
    log_z: Tensor  # [P]
    top: Tensor  # [P] most likely token


class Ablator:
    """Measures sets of neurons of one model on one text; a context manager that puts hooks on the model.

    Keeps states and logits of the unchanged model over calls where they fit `memory` bytes, else those of as many
    contexts at a time as fit (at least one). Beside them: activations of _ROWS positions of one block, and per set 1 %
    of the tokens. Never copies the model. One thread at a time.
    """

    def __init__(self, adapter: Adapter, held: HeldOut, ablation: Ablation, *, memory: int = MEMORY) -> None:
        self._adapter, self._held, self._ablation = adapter, held, ablation
        self._means = _means(adapter, ablation)
        self._blocks = _block_modules(adapter)
        self._wide = torch.promote_types(adapter.dtype, torch.float32)
        room = memory // self._token_bytes()
        self._pieces = [_piece(batch, adapter.device) for batch in _batches(adapter, held, room)]
        padded = sum(piece.batch.input_ids.size for piece in self._pieces)
        self._kept: dict[int, _Reference] | None = {} if padded <= room else None
        self._masks: dict[int, Tensor] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Ablator:
        for block in self._adapter.blocks:
            self._stack.callback(block.down.register_forward_pre_hook(self._replace(block.index)).remove)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        self._kept = None if self._kept is None else {}

    @property
    def evaluation(self) -> Evaluation:
        """What the impacts measured here are of: eval_id hashes it."""
        spec, held, dtype = self._adapter.spec, self._held, str(self._adapter.dtype).removeprefix("torch.")
        corpus = corpus_hash(held.sha256)
        return Evaluation(
            spec.name, spec.revision, dtype, corpus, held.tokens, held.context_length, self._ablation.name
        )

    def measure(self, sets: Sequence[Sequence[int]], *, progress: Progress | None = None) -> Damages:
        """Ablate each set of packed ids (layer * d_mlp + neuron) by itself; an empty set changes nothing.

        Raises InputError for an id out of range, ModelError where the model's numbers are not finite.
        """
        members = [self._by_layer(one) for one in sets]
        order = sorted(range(len(sets)), key=lambda s: (self._first(members[s]), s))
        found = _Sums(len(sets), self._held)
        total = len(sets) * self._held.tokens
        with torch.inference_mode(), (progress or Quiet()).task("ablations", total, "set-tokens") as task:
            for index, piece in enumerate(self._pieces):
                reference = self._reference(index, piece, {self._first(one) for one in members})
                for first, group in groupby(order, key=lambda s: self._first(members[s])):
                    self._group((piece, reference, first), list(group), members, (found, task))
        return found.damages()

    def _group(
        self,
        place: tuple[_Piece, _Reference, int],
        group: list[int],
        members: list[dict[int, Tensor]],
        into: tuple[_Sums, Task],
    ) -> None:
        piece, reference, first = place
        size = max(_ROWS // piece.batch.input_ids.size, 1)
        for start in range(0, len(group), size):
            some = group[start : start + size]
            final = self._final(piece, reference, first, [members[s] for s in some])
            into[0].add(some, piece, self._scores(piece, reference, final))
            into[1].advance(len(some) * len(piece.rows))

    def _final(self, piece: _Piece, reference: _Reference, first: int, sets: list[dict[int, Tensor]]) -> Tensor:
        """The end of the residual stream at the predicted positions of each set, [S, P, d]."""
        start = reference.hidden[first]
        hidden = torch.cat([start - self._removed(reference, first, one.get(first)) for one in sets])
        for layer in range(first + 1, len(self._blocks)):
            self._mask(layer, sets)
            args, kwargs = (_tiled(part, len(start), len(sets)) for part in reference.calls[layer])
            hidden = _tensor(self._blocks[layer](hidden, *args, **kwargs))
            self._masks.clear()
        return hidden.view(len(sets), -1, hidden.shape[-1])[:, piece.rows]

    def _removed(self, reference: _Reference, layer: int, neurons: Tensor | None) -> Tensor:
        """What the output of the block loses, [contexts, longest, d]."""
        start, block = reference.hidden[layer], self._adapter.blocks[layer]
        if neurons is None:
            return torch.zeros((), dtype=start.dtype, device=start.device)
        away = reference.activations[layer][:, neurons] - self._means[layer][neurons]
        lost = (away @ weight(block.down)[:, neurons].T).view_as(start)
        if block.mlp_out_norm is None:
            return lost
        written = reference.written[layer].view_as(start)
        return block.mlp_out_norm(written) - block.mlp_out_norm(written - lost)  # type: ignore[no-any-return]

    def _mask(self, layer: int, sets: list[dict[int, Tensor]]) -> None:
        """Tell the hook of a layer which neurons of each set to replace."""
        if any(layer in one for one in sets):
            mask = torch.zeros(len(sets), 1, self._adapter.spec.d_mlp, dtype=torch.bool, device=self._adapter.device)
            for row, one in enumerate(sets):
                if layer in one:
                    mask[row, 0, one[layer]] = True
            self._masks[layer] = mask

    def _replace(self, layer: int) -> Any:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor | None:
            mask = self._masks.get(layer)
            if mask is None:
                return None
            a = inputs[0]
            return torch.where(mask, self._means[layer], a.reshape(len(mask), -1, a.shape[-1])).view_as(a)

        return hook

    # -- the unchanged model --------------------------------------------------------------------------------------

    def _reference(self, index: int, piece: _Piece, layers: set[int]) -> _Reference:
        if self._kept is None:
            return self._read(piece, layers)
        if index not in self._kept:
            self._kept[index] = self._read(piece, set(range(len(self._blocks))))
        return self._kept[index]

    def _read(self, piece: _Piece, layers: set[int]) -> _Reference:
        """Run the model once, keeping what the sets that begin at `layers` need."""
        hidden: dict[int, Tensor] = {}
        activations: dict[int, Tensor] = {}
        written: dict[int, Tensor] = {}
        calls: dict[int, tuple[tuple[Any, ...], dict[str, Any]]] = {}

        def entered(layer: int) -> Any:
            def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                rest = {name: value for name, value in kwargs.items() if name != "hidden_states"}
                calls[layer] = args[1:], rest

            return hook

        def left(layer: int) -> Any:
            return lambda _, __, output: hidden.__setitem__(layer, _tensor(output))

        def seen(into: dict[int, Tensor], layer: int) -> Any:
            return lambda _, inputs: into.__setitem__(layer, inputs[0].flatten(0, -2))

        with ExitStack() as stack:
            for layer, module in enumerate(self._blocks):
                block = self._adapter.blocks[layer]
                stack.callback(module.register_forward_pre_hook(entered(layer), with_kwargs=True).remove)
                if layer in layers or layer == len(self._blocks) - 1:
                    stack.callback(module.register_forward_hook(left(layer)).remove)
                if layer in layers:
                    stack.callback(block.down.register_forward_pre_hook(seen(activations, layer)).remove)
                    if block.mlp_out_norm is not None:
                        handle = block.mlp_out_norm.register_forward_pre_hook(seen(written, layer))
                        stack.callback(handle.remove)
            ids = torch.from_numpy(piece.batch.input_ids).to(self._adapter.device)
            _body(self._adapter)(input_ids=ids, use_cache=False)
        final = hidden[len(self._blocks) - 1].flatten(0, 1)[piece.rows]
        return _Reference(hidden, activations, written, calls, final, *self._outputs(final))

    def _outputs(self, final: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Normed states [P, d], logits [P, V] without the cap, log Z [P] and top token [P]."""
        normed = self._adapter.final_norm(final).to(self._wide)
        bias = getattr(self._adapter.unembedding, "bias", None)
        matrix = weight(self._adapter.unembedding).to(self._wide)
        logits = nn.functional.linear(normed, matrix, None if bias is None else bias.to(self._wide))
        log_z = torch.cat(
            [capped(some, self._adapter.logit_cap).double().logsumexp(-1) for some in torch.split(logits, 16)]
        )
        if not bool(torch.isfinite(log_z).all()):
            raise ModelError(
                "the model's logits are not finite (NaN or infinite) on this text; check the model's weights, or "
                "measure in float32 if they are half precision"
            )
        return normed, logits, log_z, logits.argmax(-1)

    def _token_bytes(self) -> int:
        """What keeping everything of the unchanged model takes for one token."""
        spec = self._adapter.spec
        states = spec.layers * (2 * spec.d_model + spec.d_mlp) * self._adapter.dtype.itemsize
        return states + (spec.vocab + 2 * spec.d_model) * self._wide.itemsize

    # -- what changes ---------------------------------------------------------------------------------------------

    def _scores(self, piece: _Piece, reference: _Reference, final: Tensor) -> tuple[Tensor, ...]:
        """kl, nll, flips and change at each predicted position: four [S, P] in float64."""
        if not bool(torch.isfinite(final).all()):
            raise ModelError("the model without these neurons gives numbers that are not finite; measure in float32")
        away, stream = ((x.to(self._wide)).norm(dim=-1).double() for x in (final - reference.final, reference.final))
        moved = self._adapter.final_norm(final).to(self._wide) - reference.normed
        kl, nll, flips = self._distances(piece, reference, moved)
        return kl, nll, flips, away / stream

    def _distances(self, piece: _Piece, reference: _Reference, moved: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """kl, nll, flips [S, P] of the states `moved` [S, P, d] at the unembedding, piece by piece."""
        matrix, log_z = weight(self._adapter.unembedding), reference.log_z.to(self._wide)
        centre = self._shift(reference, moved, reference.top)
        bound = capped(reference.logits.gather(1, reference.top[:, None])[:, 0], self._adapter.logit_cap)
        sums = LogitSums(centre, reference.top, bound)
        step = min(max(_LOGITS // centre.numel(), 64), len(matrix))
        buffer = moved.new_empty(centre.numel() * step)
        for start in range(0, len(matrix), step):
            logits = reference.logits[:, start : start + step]
            e = buffer[: centre.numel() * logits.shape[1]].view(*centre.shape, -1)
            torch.mm(moved.flatten(0, 1), matrix[start : start + step].to(self._wide).T, out=e.flatten(0, 1))
            if self._adapter.logit_cap is not None:
                e = _capped_change(e, logits, self._adapter.logit_cap)
            base = capped(logits, self._adapter.logit_cap)
            sums.add(e, base, (base - log_z[:, None]).exp_(), start=start)
        kl, rise = sums.divergence((log_z.double() - reference.log_z).exp())
        nll = centre.double() + rise - self._shift(reference, moved, piece.targets).double()
        for some in torch.split((~torch.isfinite(kl) | (rise < -3)).nonzero(), 16):
            place = some[:, 0], some[:, 1]
            kl[place], nll[place] = self._wide_distances(piece, reference, moved, place)
        return kl, nll, sums.flips()

    def _wide_distances(
        self, piece: _Piece, reference: _Reference, moved: Tensor, place: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """kl, nll [n] from whole distributions in float64: where the new one is elsewhere, the sums above round."""
        cap, logits = self._adapter.logit_cap, reference.logits[place[1]]
        after = logits + moved[place] @ weight(self._adapter.unembedding).to(self._wide).T
        old, new = (capped(some.double(), cap).log_softmax(-1) for some in (logits, after))
        lost = old - new
        return (old.exp() * lost).sum(-1), lost.gather(1, piece.targets[place[1], None])[:, 0]

    def _shift(self, reference: _Reference, moved: Tensor, tokens: Tensor) -> Tensor:
        """Change of the logits of one token for each position: [S, P]."""
        raw = (moved * weight(self._adapter.unembedding)[tokens].to(self._wide)).sum(-1)
        logits = reference.logits.gather(1, tokens[:, None])[:, 0]
        return _capped_change(raw, logits, self._adapter.logit_cap)

    # -- sets -----------------------------------------------------------------------------------------------------

    def _by_layer(self, ids: Sequence[int]) -> dict[int, Tensor]:
        spec = self._adapter.spec
        wrong = next((i for i in ids if not 0 <= i < spec.neurons), None)
        if wrong is not None:
            raise InputError(
                f"neuron id {wrong} is out of range: {spec.name} has {spec.layers} layers of {spec.d_mlp} neurons, ids "
                f"0..{spec.neurons - 1}"
            )
        found: dict[int, Tensor] = {}
        for layer, group in groupby(sorted(set(map(int, ids))), key=lambda i: i // spec.d_mlp):
            found[layer] = torch.tensor([i % spec.d_mlp for i in group], device=self._adapter.device)
        return found

    def _first(self, members: dict[int, Tensor]) -> int:
        return min(members, default=len(self._blocks) - 1)


class _Sums:
    """Damages while they are added up."""

    def __init__(self, sets: int, held: HeldOut) -> None:
        documents = len(held.sha256)
        self._sums = torch.zeros(4, sets, documents, dtype=torch.float64)
        self._max = torch.zeros(sets, dtype=torch.float64)
        self._tokens = np.zeros(documents, np.int64)
        np.add.at(self._tokens, [c.document for c in held.contexts], [len(c.token_ids) - 1 for c in held.contexts])
        self._rank = 0.99 * (held.tokens - 1)
        # the 99th percentile needs no more than the largest 1 %
        self._largest = torch.full((sets, held.tokens - int(self._rank)), -torch.inf, dtype=torch.float64)

    def add(self, sets: list[int], piece: _Piece, scores: tuple[Tensor, ...]) -> None:
        """Add scores [S, P] of some sets."""
        owners, place = (torch.from_numpy(x) for x in np.unique(piece.documents.cpu().numpy(), return_inverse=True))
        rows, found = torch.tensor(sets), [values.cpu() for values in scores]
        for sums, values in zip(self._sums, found, strict=True):
            sums[rows[:, None], owners] += values.new_zeros(len(sets), len(owners)).index_add_(1, place, values)
        self._max[rows] = torch.maximum(self._max[rows], found[3].amax(1))
        both = torch.cat([self._largest[rows], found[0]], 1)
        self._largest[rows] = both.topk(self._largest.shape[1], 1).values

    def damages(self) -> Damages:
        """Everything as arrays."""
        kl, nll, flips, change = self._sums.numpy()
        low, high = self._largest[:, -1], self._largest[:, max(self._largest.shape[1] - 2, 0)]
        p99 = (low + (high - low) * (self._rank - int(self._rank))).numpy()
        return Damages(kl, nll, flips, change, self._tokens, self._max.numpy(), p99)


def _capped_change(raw: Tensor, logits: Tensor, cap: float | None) -> Tensor:
    """Change of capped logits from that of raw ones: tanh a - tanh b = tanh(a - b) (1 - tanh a tanh b)."""
    if cap is None:
        return raw
    both = torch.tanh((logits + raw) / cap) * torch.tanh(logits / cap)
    return cap * torch.tanh(raw / cap) * (1 - both)


def _contexts(adapter: Adapter, documents: Sequence[str], length: int) -> Iterator[Context]:
    for first in range(0, len(documents), 64):  # of a long corpus only the beginning may be asked for
        yield from contexts(documents[first : first + 64], adapter.tokenizer, first=first, length=length)


def _length(adapter: Adapter, asked: int | None) -> int:
    return context_length(adapter.spec, asked)


def _means(adapter: Adapter, ablation: Ablation) -> Tensor:
    """[layers, d_mlp] on the model's device."""
    spec = adapter.spec
    if ablation.kind == "zero":
        return torch.zeros(spec.layers, spec.d_mlp, dtype=adapter.dtype, device=adapter.device)
    if ablation.means is None or ablation.means.shape != (spec.layers, spec.d_mlp):
        shape = None if ablation.means is None else ablation.means.shape
        raise InputError(f"mean ablation needs means of shape {(spec.layers, spec.d_mlp)}, found {shape}")
    wrong = np.argwhere(~np.isfinite(ablation.means))
    if len(wrong):
        raise InputError(f"the mean of {NeuronId(*map(int, wrong[0]))} is not a number; build the atlas again")
    return torch.from_numpy(ablation.means).to(adapter.device, adapter.dtype)


def _batches(adapter: Adapter, held: HeldOut, room: int) -> Iterator[Batch]:
    reading = Reading(held.context_length, min(max(room, 1), _PIECE_TOKENS), 1, skip_bos=False)
    return batches_of(list(held.contexts), adapter.bos_token_id, reading)


def _piece(batch: Batch, device: torch.device) -> _Piece:
    width = batch.input_ids.shape[1]
    lengths = np.array([len(context.token_ids) for context in batch.contexts])
    row, inside = np.nonzero(np.arange(width)[None, :] < lengths[:, None] - 1)
    documents = np.array([context.document for context in batch.contexts])[row]
    arrays = (row * width + inside, batch.input_ids[row, inside + 1], documents)
    return _Piece(batch, *(torch.from_numpy(np.asarray(a, np.int64)).to(device) for a in arrays))


def _body(adapter: Adapter) -> nn.Module:
    found: nn.Module = getattr(adapter.model, str(adapter.model.base_model_prefix))
    return found


def _block_modules(adapter: Adapter) -> list[nn.Module]:
    """The blocks as modules, in order."""
    parts: list[Block] = list(adapter.blocks)
    for child in _body(adapter).children():
        if isinstance(child, nn.ModuleList) and len(child) == len(parts):
            return list(child)
    raise ModelError(f"{adapter.spec.architecture} has no list of {len(parts)} blocks; use a supported family")


def _tensor(output: Any) -> Tensor:
    found: Tensor = output[0] if isinstance(output, tuple) else output
    return found


def _tiled(value: Any, contexts: int, sets: int) -> Any:
    """Arguments of a block for `sets` copies of a piece: tensors by context are repeated, others are for all."""
    if isinstance(value, tuple):
        return tuple(_tiled(part, contexts, sets) for part in value)
    if isinstance(value, dict):
        return {name: _tiled(part, contexts, sets) for name, part in value.items()}
    by_context = isinstance(value, Tensor) and value.ndim > 1 and len(value) == contexts > 1
    return value.repeat(sets, *[1] * (value.ndim - 1)) if by_context else value
