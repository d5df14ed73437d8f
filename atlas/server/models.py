"""Folders given with --model -> models by name, read without torch: what they are, and which one new jobs use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from atlas.errors import AtlasError, InputError, ModelError
from atlas.server.errors import Refusal

if TYPE_CHECKING:
    from atlas.query.atlas import Atlas

HASHED = 4 << 30  # bytes of weights that are read to know a model by its content: some seconds, once
NO_MODEL = "this server has no model: start the server with --model FOLDER"
_SIZES = ((250_000_000, "small"), (550_000_000, "medium"), (1_200_000_000, "large"))  # GPT-2's names; above: xl
_KEYS = {  # names of the sizes in config.json, by family
    "layers": ("num_hidden_layers", "n_layer", "num_layers"),
    "hidden_size": ("hidden_size", "n_embd", "d_model"),
    "num_attention_heads": ("num_attention_heads", "n_head"),
    "neurons_per_layer": ("intermediate_size", "n_inner", "ffn_dim"),
    "vocab_size": ("vocab_size",),
    "context_length": ("max_position_embeddings", "n_positions", "n_ctx"),
}


@dataclass(frozen=True)
class Model:
    """One folder; what is read of its files is read again when they have changed."""

    name: str
    folder: Path
    _read: dict[object, Any] = field(default_factory=dict, compare=False)

    @property
    def parameters(self) -> int:
        """Numbers in its weights, tied ones once, by the files' headers. ModelError for damaged ones."""
        return int(self._once("parameters", self._count))

    @property
    def size(self) -> int:
        """Bytes of its weights."""
        return sum(size for name, _, size in self._files() if name.endswith(".safetensors"))

    @property
    def revision(self) -> str | None:
        """Fingerprint of its content, as in an atlas; None for more than HASHED bytes, which would take too long."""
        from atlas.models.folder import revision

        found: str | None = self._once("revision", lambda: revision(self.folder) if self.size <= HASHED else None)
        return found

    @property
    def sizes(self) -> dict[str, int | None]:
        """What config.json says of _KEYS; None where it says nothing. ModelError for a bad one."""
        config = self._config() | (self._config().get("text_config") or {})
        found = {name: next((config[k] for k in keys if config.get(k)), None) for name, keys in _KEYS.items()}
        if found["neurons_per_layer"] is None and found["hidden_size"]:
            found["neurons_per_layer"] = 4 * found["hidden_size"]  # GPT-2, where n_inner is null
        return found

    def document(self, atlas: Atlas) -> dict[str, Any]:
        """The seed's fields and more; with a `problem`, and nulls, where its files are damaged."""
        try:
            family, sizes, count = str(self._config().get("model_type", "unknown")), self.sizes, self.parameters
        except AtlasError as error:
            unknown = dict.fromkeys((*_KEYS, "parameters", "revision", "size_category"))
            told = {"family": "unknown", "description": "its files cannot be read", "recommended": False}
            return {"name": self.name, **told, **unknown, "size_bytes": self.size, "problem": str(error)}
        return {
            "name": self.name,
            "family": family,
            **sizes,
            "description": f"{family} of {sizes['layers']} layers ({_short(count)} parameters)",
            "recommended": self.is_of(atlas),
            "size_category": next((name for limit, name in _SIZES if count < limit), "xl"),
            "parameters": count,
            "size_bytes": self.size,
            "revision": self.revision,
            "problem": None,
        }

    def is_of(self, atlas: Atlas) -> bool:
        """Whether the atlas is of this model: its content, or its sizes where one of the two has no revision."""
        if (self.sizes["layers"], self.sizes["neurons_per_layer"]) != (atlas.layers, atlas.d_mlp):
            return False
        known = atlas.metadata.get("revision")
        return not known or self.revision in (known, None)

    def check(self) -> None:
        """Raise InputError or ModelError, with the reason, unless config and weights are there and whole."""
        from atlas.models.folder import read_config

        read_config(self.folder)
        self._count()

    def _config(self) -> dict[str, Any]:
        from atlas.models.folder import read_config

        found: dict[str, Any] = self._once("config", lambda: read_config(self.folder))
        return found

    def _count(self) -> int:
        from atlas.models.stored import stored_tensors

        return sum(tensor.size for tensor in stored_tensors(self.folder).tensors)

    def _once(self, what: str, read: Callable[[], Any]) -> Any:
        key = (what, self._files())
        if key not in self._read:
            try:
                self._read[key] = read()
            except InputError as error:  # no file where one was when the server started: not what was asked is wrong
                raise ModelError(str(error)) from error
        return self._read[key]

    def _files(self) -> tuple[tuple[str, int, int], ...]:
        """(name, date, bytes) of config.json and the weights."""
        paths = sorted([*self.folder.glob("*.safetensors"), *self.folder.glob("config.json")])
        found = [(path.name, path.stat()) for path in paths]
        return tuple((name, stat.st_mtime_ns, stat.st_size) for name, stat in found)


@dataclass
class Models:
    """The models of one server; `current` is changed by one request at a time."""

    known: dict[str, Model]
    current: str | None
    _lock: Lock = field(default_factory=Lock)

    @classmethod
    def of(cls, folders: Sequence[Path]) -> Models:
        """Check every folder; a repeated name gets _2, _3 ... Raises InputError and ModelError, so no server starts."""
        known: dict[str, Model] = {}
        for one in folders:
            from atlas.models.folder import find_folder

            folder = find_folder(one).resolve()
            base, number = folder.name, 2
            while (name := base if number == 2 and base not in known else f"{base}_{number}") in known:
                number += 1
            known[name] = Model(name, folder)
            known[name].check()
        return cls(known, next(iter(known), None))

    def get(self, name: str, *, status: int = 404) -> Model:
        """A model by name; Refusal with `status` for an unknown one, 409 when there is none at all."""
        if not self.known:
            raise Refusal(409, NO_MODEL)
        if name not in self.known:
            raise Refusal(status, f"no model {name!r}; this server has {', '.join(self.known)}")
        return self.known[name]

    def switch(self, name: str) -> Model:
        """Make a model the current one, after its files were checked; jobs that wait or run keep theirs."""
        model = self.get(name, status=400)
        with self._lock:
            try:
                model.check()
            except InputError as error:
                raise ModelError(str(error)) from error
            self.current = name
        return model

    def now(self) -> Model:
        """The current model; Refusal (409) without any."""
        if self.current is None:
            raise Refusal(409, NO_MODEL)
        return self.known[self.current]

    def of_atlas(self, atlas: Atlas) -> Model:
        """The current model, which must be the atlas's; Refusal (409) otherwise."""
        model = self.now()
        if model.is_of(atlas):
            return model
        fitting = [one.name for one in self.known.values() if one.is_of(atlas)]
        then = f"switch to {fitting[0]}" if fitting else "start the server with --model FOLDER of the atlas's model"
        raise Refusal(
            409, f"the current model is {model.name}, {atlas.name} is of {atlas.metadata.get('model')}; {then}"
        )


def _short(numbers: int) -> str:
    """124439808 -> 124M."""
    for unit, name in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if numbers >= unit:
            return f"{numbers / unit:.3g}{name}"
    return str(numbers)
