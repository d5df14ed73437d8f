"""Token texts as a person sees them, for every family of tokenizers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from atlas.errors import InputError
from atlas.models.tokens import token_id, token_texts

SHARED = Path(os.environ.get("ATLAS_SHARED", Path(__file__).parents[2].parent / "shared"))


def wrapped(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def byte_level() -> PreTrainedTokenizerFast:
    pieces = ["Ġthe", "the", "Ċ", "Ã©", "Ã", "Ġâĸģ", "Ā", "a"]
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<|end|>")])
    return wrapped(tokenizer)


def metaspace() -> PreTrainedTokenizerFast:
    pieces = ["<unk>", "▁the", "the", "<0x0A>", "<0xE2>", "▁", "Ġ"]
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, [], byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken("<unk>")])
    return wrapped(tokenizer)


def words() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordLevel({"dog": 0, "▁": 1, "Ġ": 2, "<s>": 3}, unk_token="dog"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return wrapped(tokenizer)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (byte_level, [" the", "the", "\n", "é", "\\xc3", " ▁", "\\x00", "a", "<|end|>"]),
        (metaspace, ["<unk>", " the", "the", "\n", "\\xe2", " ", "Ġ"]),
        (words, [" dog", " ▁", " Ġ", " <s>"]),
    ],
)
def test_texts(make, expected: list[str]) -> None:  # type: ignore[no-untyped-def]
    assert token_texts(make(), len(expected)) == expected


@pytest.mark.parametrize("make", [byte_level, metaspace, words])
def test_joined_texts_read_as_the_tokenizer_decodes(make) -> None:  # type: ignore[no-untyped-def]
    tokenizer, ids = make(), [0, 1, 0, 2]
    joined = "".join(token_texts(tokenizer, 3)[i] for i in ids)
    special = "<unk>"  # shown by name either way
    assert joined.strip().replace(special, "") == tokenizer.decode(ids).strip().replace(special, "")


def test_ids_beyond_the_tokenizer_are_named() -> None:
    assert token_texts(words(), 6)[4:] == ["<token 4>", "<token 5>"]
    assert token_texts(words(), 2) == [" dog", " ▁"]
    assert token_texts(None, 2) == ["<token 0>", "<token 1>"]


def test_trained_tokenizer() -> None:
    from transformers import AutoTokenizer

    folder = SHARED / "data" / "models" / "stories260K-hf"
    if not folder.is_dir():
        pytest.skip("needs stories260K-hf; set ATLAS_SHARED to the folder of shared data")
    texts = token_texts(AutoTokenizer.from_pretrained(folder), 512)
    assert texts[1] == "<s>" and texts[13] == "\n" and " the" in texts and len(texts) == 512
    assert not any("▁" in text or "Ġ" in text or "<0x" in text for text in texts)


def test_a_target_is_one_token() -> None:
    tokenizer = Tokenizer(models.WordLevel({"the": 0, "cat": 1, "<unk>": 2}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    one = wrapped(tokenizer)
    assert token_id(one, " the") == 0 and token_id(one, "cat") == 1
    with pytest.raises(InputError, match=r"' the cat' is 2 tokens \('the', 'cat'\), a target is one; name its first"):
        token_id(one, " the cat")
    with pytest.raises(InputError, match=r"'the cat' is 2 tokens .* begin it with a space"):
        token_id(one, "the cat")
    with pytest.raises(InputError, match="is 0 tokens"):
        token_id(one, "")
    one.unk_token = "<unk>"
    with pytest.raises(InputError, match=r"' dog' is not in the vocabulary \(<unk>\)"):
        token_id(one, " dog")
    assert token_id(one, "<unk>") == 2
    with pytest.raises(InputError, match="no tokenizer"):
        token_id(None, "x")
