"""Tokenizer files of pretrained models: loads them with transformers, and returns the bytes that a token stands for."""

import os
import pathlib
from collections.abc import Callable, Collection, Mapping
from typing import Any

from etils import epath

from scotd_jax.errors import InputError
from scotd_jax.strict_json import loads

_FAST = "tokenizer.json"
_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja")
_EXPECTED = "tokenizer.json, tokenizer_config.json, spiece.model, or one *vocab.json with one *merges.txt"
_SLOW = ("spiece.model", "tokenizer.model", "vocab.json", "merges.txt")  # endings of file names


def config_files(names: Collection[str]) -> list[str]:
    """Selects the config files of a model, which define its architecture and its end tokens, from all file names."""
    return [name for name in ("config.json", "generation_config.json") if name in names]


def tokenizer_files(names: Collection[str]) -> list[str]:
    """Selects the files that `find_reader` reads, and the config files of the model, from all file names.

    Raises:
      InputError: if there is no tokenizer.
    """
    found = [_FAST] if _FAST in names else sorted(name for name in names if name.endswith(_SLOW) and "/" not in name)
    if not found:
        raise InputError(f"no tokenizer found; expected {_EXPECTED}")
    return [*config_files(names), *(name for name in _SETTINGS if name in names), *found]


def find_reader(local: pathlib.Path, path: epath.PathLike) -> Callable[[], Any]:
    """Returns a function that loads the tokenizer of a file or folder, depending on the files that are present.

    Args:
      local: local copy of `path`.
      path: path for messages.

    Raises:
      InputError: if there is no tokenizer.
    """
    library = import_transformers()
    if local.is_file():
        if local.suffix == ".model":
            return lambda: _sentencepiece(local)
        if local.name.endswith("tokenizer.json"):
            return lambda: library.AutoTokenizer.from_pretrained(str(local.parent), local_files_only=True)
        raise InputError(f"{path}: expected a folder, a tokenizer.json or a sentencepiece .model file")
    names = {item.name for item in local.iterdir()}
    if names & {"tokenizer.json", "tokenizer_config.json"}:
        return lambda: library.AutoTokenizer.from_pretrained(str(local), local_files_only=True)
    if "spiece.model" in names:
        return lambda: _sentencepiece(local / "spiece.model")
    vocab = sorted(n for n in names if n.endswith("vocab.json"))
    merges = sorted(n for n in names if n.endswith("merges.txt"))
    if len(vocab) == len(merges) == 1:
        return lambda: library.GPT2Tokenizer(
            vocab=str(local / vocab[0]),
            merges=str(local / merges[0]),
            add_bos_token=True,
            pad_token="<pad>",
            **dict.fromkeys(("bos_token", "eos_token", "unk_token"), "</s>"),  # as in the folders of the OPT models
        )
    raise InputError(f"{path}: no tokenizer found; expected {_EXPECTED}")


def _sentencepiece(file: pathlib.Path) -> Any:
    """Reads T5's tokenizer; the class adds the 100 sentinel tokens, which the file lacks."""
    return import_transformers().T5Tokenizer.from_pretrained(str(file))


def model_eos_ids(folder: pathlib.Path, path: epath.PathLike) -> list[int]:
    """Returns the end token ids in a model's config files.

    Args:
      folder: local copy of `path`.
      path: path for messages.

    Raises:
      InputError: if a file is not a JSON object, or the ids are not integers.
    """
    for name in ("generation_config.json", "config.json"):
        file = epath.Path(path) / name
        if not (folder / name).exists():
            continue
        try:
            values = loads((folder / name).read_bytes())
        except ValueError as error:
            raise InputError(f"{file}: not JSON ({error})") from None
        if not isinstance(values, dict):
            raise InputError(f"{file}: expected a JSON object, found {values!r:.60}")
        found = values.get("eos_token_id")
        if found is not None:
            ids = found if isinstance(found, list) else [found]
            if not all(type(id_) is int for id_ in ids):
                raise InputError(f"{file}: eos_token_id is {found!r}; expected the id of a token, or a list of them")
            return ids
    return []


def import_transformers() -> Any:
    """Imports transformers without its warning that PyTorch is missing, which only parity checks need."""
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    import transformers

    return transformers


def wrap_backend(backend: Any, **settings: str | Mapping[str, str] | None) -> Any:
    """Wraps a `tokenizers.Tokenizer` in a fast tokenizer of transformers with these settings. None omits a setting."""
    defined = {name: value for name, value in settings.items() if value is not None}
    fast_class = import_transformers().PreTrainedTokenizerFast
    return fast_class(tokenizer_object=backend, clean_up_tokenization_spaces=False, **defined)


def bytes_decoder(decoder: dict[str, Any] | None) -> Callable[[str], bytes]:
    """Returns a function from a token's string to its bytes, for the `decoder` of a tokenizer.json."""
    if decoder is None:  # a word-level tokenizer, which joins words with blanks
        return lambda token: b" " + token.encode()
    steps = {step["type"]: step for step in decoder.get("decoders", [decoder])}
    if "ByteLevel" in steps:
        table = {character: byte for byte, character in enumerate(_byte_characters())}
        return lambda token: bytes(table[c] for c in token) if set(token) <= table.keys() else token.encode()
    if "Metaspace" not in steps and "Replace" not in steps:
        raise InputError(f"tokenizer with a decoder of type {', '.join(steps)}: the bytes of its tokens are unknown")
    hexadecimal = {f"<0x{byte:02X}>": bytes([byte]) for byte in range(256)} if "ByteFallback" in steps else {}
    return lambda token: hexadecimal.get(token) or token.replace("▁", " ").encode()


def _byte_characters() -> list[str]:
    """Returns the character that byte-level BPE (GPT-2) uses for each of the 256 bytes.

    Printable Latin-1 characters represent themselves; the others are numbered from 256.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) if byte in printable else chr(256 + hidden.index(byte)) for byte in range(256)]
