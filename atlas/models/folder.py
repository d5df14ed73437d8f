"""A model folder or hub name -> a checked folder and the fingerprint of its content.

Everything that can be wrong with the files is found here, before torch spends time on them.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from atlas.errors import InputError, ModelError

INDEX = "model.safetensors.index.json"
_HUB_NAME = re.compile(r"^[\w.-]+(/[\w.-]+)?$")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json")
_CHUNK = 1 << 20


def find_folder(source: str | Path) -> Path:
    """Find the local folder of a model; a hub name ("owner/name") is downloaded by huggingface_hub.

    Raises InputError when the folder is missing and when the hub has no such model or cannot be reached.
    """
    path = Path(source)
    if path.is_dir():
        return path
    if path.exists():
        raise InputError(f"{path} is a file, expected a model folder; give the folder that holds config.json")
    if isinstance(source, Path) or not _HUB_NAME.match(source) or source.startswith("."):
        raise InputError(f"no model folder {path}; check the path, or give a hub name such as owner/name")
    return _download(source)


def check_folder(folder: Path) -> list[Path]:
    """List the safetensors files of a folder, sorted by name, after checking config, weights, index and tokenizer.

    Raises InputError for missing files and ModelError for damaged ones.
    """
    files = check_weights(folder)
    if not any((folder / name).exists() for name in _TOKENIZER_FILES):
        raise InputError(f"no tokenizer in {folder} (tokenizer.json); save the model's tokenizer into the folder")
    return files


def check_weights(folder: Path) -> list[Path]:
    """List the safetensors files of a folder, sorted by name, after checking config, index and headers."""
    read_config(folder)
    files = sorted(folder.glob("*.safetensors"))
    _check_index(folder / INDEX)
    if not files:
        raise InputError(f"no *.safetensors in {folder}; convert the weights with save_pretrained(...) and try again")
    for path in files:
        _check_weights(path)
    return files


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a folder."""
    path = folder / "config.json"
    if not path.exists():
        raise InputError(f"no config.json in {folder}; give a folder in Hugging Face format")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{path} is not valid JSON ({error}); download it again") from error
    if not isinstance(config, dict):
        raise ModelError(f"{path} holds no JSON object; download it again")
    return config


def revision(folder: Path) -> str:
    """First 16 hex digits of sha256 over the bytes of config.json and of all safetensors files, sorted by name."""
    digest = hashlib.sha256()
    for path in [folder / "config.json", *sorted(folder.glob("*.safetensors"))]:
        with path.open("rb") as handle:
            while chunk := handle.read(_CHUNK):
                digest.update(chunk)
    return digest.hexdigest()[:16]


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*.model", "*.txt"]))
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"no folder {name!r}, and the hub gave none ({reason}); give a local model folder") from error


def _check_index(index: Path) -> None:
    if not index.exists():
        return
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError) as error:
        raise ModelError(f"{index} is not a valid weight index ({error!r}); download it again") from error
    missing = [name for name in names if not (index.parent / name).exists()]
    if missing:
        raise ModelError(f"{index.name} names {', '.join(missing)}, not in {index.parent}; download the missing files")


def _check_weights(path: Path) -> None:
    try:
        with safe_open(path, framework="pt"):  # reads the header and compares it with the file's length
            pass
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is truncated or damaged ({error}); download it again") from error
