"""Text to tokens and back, by the tokenizers of the pretrained models or by one trained on the spot.

`Tokenizer` wraps a fast tokenizer of transformers behind the few questions that this package asks, so that nothing
else depends on that library. It loads what the models come with (a Hugging Face folder, T5's bare `spiece.model`,
OPT's bare `vocab.json` and `merges.txt`) and can train a word tokenizer for tasks that have a small vocabulary.

Three habits of real tokenizers that callers must know: T5 drops line ends and repeated blanks and has no token for
some characters, so decode(encode(x)) is not x; a stop string may be tokenised in several ways; and a prompt and its
response are tokenised apart, in training exactly as in sampling.

A chat becomes text by the template that the tokenizer of an instruction-tuned model brings along. Some templates write
the day of today; here it is always the same day, so that a prompt depends on its words alone.
"""

import collections
import dataclasses
import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from scotd_jax.errors import InputError
from scotd_jax.local_files import local_copy, staged_folder
from scotd_jax.records import Prompt, Turn

SPECIALS = ("<pad>", "</s>", "<unk>", "<s>")  # of the word tokenizer, ids 0 to 3
_WEIGHTS = (".safetensors", ".bin", ".msgpack", ".h5")
# The day that Llama's templates take where nobody tells them another one. The line end behind it vanishes.
_DAY = {
    "%Y": "2024",
    "%m": "07",
    "%d": "26",
    "%-d": "26",
    "%B": "July",
    "%b": "Jul",
    "%A": "Friday",
    "%a": "Fri",
    "%y": "24",
}
_NO_CLOCK = "{% macro strftime_now(form) %}{{ form"
_NO_CLOCK += "".join(f"|replace({sign!r}, {value!r})" for sign, value in _DAY.items()) + " }}{% endmacro %}\n"


@dataclasses.dataclass(frozen=True)
class PromptEncoder:
    """What makes ids of texts, many at a time: small, quick to send to another process, and without transformers,
    unless it has a `chat_tokenizer`, which writes chats.

    A prompt's ids are `before`, those of its text, and `after`.
    """

    backend: Any  # of the library tokenizers
    prefix_ids: tuple[int, ...]
    suffix_ids: tuple[int, ...]
    eos_id: int
    chat_tokenizer: Any = None  # the fast tokenizer of transformers, for its chat template

    def render(self, prompt: Prompt) -> str:
        """The text of a prompt. Raises InputError on a chat that the template refuses."""
        return prompt if isinstance(prompt, str) else _write(self.chat_tokenizer, prompt)

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of every text; no special token is added."""
        return [each.ids for each in self.backend.encode_batch_fast(list(texts), add_special_tokens=False)]


class Tokenizer:
    """A tokenizer as the package uses it. Special tokens never appear in decoded text.

    `eos_id` ends a response, and so does each of `eos_ids`, of which it is the first. `bos_id` begins a decoder-only
    prompt; where a tokenizer has none it is `eos_id`, which is what OPT itself does. `pad_id` fills masked places;
    where there is none it is `eos_id`. `size` is the number of ids that may be emitted, which may be less than the
    rows of a model's output matrix.
    """

    def __init__(self, fast: Any, eos_ids: Sequence[int] = ()):
        """`fast`: a fast tokenizer of transformers (one with a `backend_tokenizer`). `eos_ids`: further ends; those
        that are no ids of it are left out. InputError if it has no end."""
        self._fast = fast
        self._backend = fast.backend_tokenizer
        self._backend.no_truncation()  # whatever its file says: limits are the corpus' business
        self._backend.no_padding()
        if fast.eos_token_id is None:
            raise InputError(f"tokenizer {fast.name_or_path!r}: has no end token; a response could never end")
        self.eos_id: int = fast.eos_token_id
        self.bos_id: int = self.eos_id if fast.bos_token_id is None else fast.bos_token_id
        self.pad_id: int = self.eos_id if fast.pad_token_id is None else fast.pad_token_id
        self.size: int = max(self._backend.get_vocab(with_added_tokens=True).values()) + 1
        # Old configs give ids such as -1 for an end that there is not.
        known = (i for i in eos_ids if 0 <= i < self.size)
        self.eos_ids: tuple[int, ...] = tuple(dict.fromkeys((self.eos_id, *known)))
        fast.chat_template = _without_clock(fast.chat_template)

    @classmethod
    def load(cls, path: epath.PathLike, model: epath.PathLike | None = None) -> "Tokenizer":
        """From a Hugging Face folder, a `tokenizer.json`, a `spiece.model` (or its folder), or a folder with
        `*vocab.json` and `*merges.txt`. Local or remote.

        Its further ends are those of generation_config.json or config.json in `model`, the folder of the model's
        weights, or beside the tokenizer: a chat model ends its turns by a token that is often not the tokenizer's own
        end. Raises InputError if there is no tokenizer at `path`, or a file cannot be read.
        """
        with local_copy(path, lambda name: not name.endswith(_WEIGHTS)) as local:
            reader = _reader(local, path)
            ends = _ends(epath.Path(local if local.is_dir() else local.parent) if model is None else epath.Path(model))
            try:
                fast = reader()
            except Exception as error:  # the libraries raise bare Exceptions for broken files
                raise InputError(f"{path}: not a tokenizer that can be read ({error})") from error
        if not hasattr(fast, "backend_tokenizer"):
            raise InputError(f"{path}: {type(fast).__name__} has no fast form (tokenizer.json); convert it first")
        fast.name_or_path = str(path)  # which it is called by, also where a copy was read
        return cls(fast, ends)

    @classmethod
    def train_word_level(cls, texts: Iterable[str]) -> "Tokenizer":
        """One token per word of `texts` (split at white space), the most frequent first, after the four SPECIALS.

        Decoding joins with single blanks. Equal texts in any order give an equal tokenizer.
        """
        from tokenizers import Tokenizer as Backend
        from tokenizers import models, pre_tokenizers

        counts = collections.Counter(word for text in texts for word in text.split())
        words = sorted(counts.keys() - set(SPECIALS), key=lambda word: (-counts[word], word))
        backend = Backend(models.WordLevel({w: i for i, w in enumerate([*SPECIALS, *words])}, unk_token="<unk>"))
        backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        return cls(_wrap(backend, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", bos_token="<s>"))

    def save(self, folder: epath.PathLike, kind: str | None = None) -> None:
        """Writes files that `Tokenizer.load` and transformers' AutoTokenizer read.

        With `kind`, the saved tokenizer called on a text gives `prompt_ids(text, kind)`, so that whoever uses an
        exported model in PyTorch asks it as it was trained.
        """
        fast = self._fast if kind is None else self._with_template(kind)
        with staged_folder(folder) as staging:
            fast.save_pretrained(staging, save_jinja_files=False)  # templates stand in tokenizer_config.json
            file = staging / "tokenizer_config.json"
            settings = json.loads(file.read_text())
            if settings.get("tokenizer_class") == "TokenizersBackend":  # unknown to transformers before 5
                settings["tokenizer_class"] = "PreTrainedTokenizerFast"
            file.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n")

    def encode(self, text: str) -> list[int]:
        """Ids of `text`; no special token is added."""
        return self._backend.encode(text, add_special_tokens=False).ids

    def prompt_ids(self, prompt: Prompt, kind: str) -> list[int]:
        """Ids of a whole prompt for a model of `kind`: "t5" ends it with `eos_id`, "opt" begins it with `bos_id`,
        "decoder" begins it as the tokenizer itself does (Llama with its `<s>`, Qwen with nothing). A chat is for every
        kind as its template writes it."""
        if not isinstance(prompt, str):
            return self.chat_ids(prompt)
        before, after = self._frame(kind)
        return [*before, *self.encode(prompt), *after]

    def chat_ids(self, messages: Sequence[Turn]) -> list[int]:
        """Ids of a chat up to where the model is to speak. Special tokens are those that the template writes, no more.

        Raises InputError if the tokenizer has no template, or one that refuses the messages.
        """
        return self.encode(_write(self._fast, messages))

    @property
    def chat_template(self) -> str:
        """The chat template. Raises InputError if there is none."""
        return _template(self._fast)

    def encoder(self, kind: str, chat: bool = False) -> PromptEncoder:
        """The part of it that makes ids, for a model of `kind` whose prompts are texts, or chats."""
        before, after = ([], []) if chat else self._frame(kind)
        return PromptEncoder(self._backend, tuple(before), tuple(after), self.eos_id, self._fast if chat else None)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`, special tokens left out. Broken UTF-8 becomes U+FFFD."""
        return self._backend.decode([int(i) for i in ids], skip_special_tokens=True)

    def token_bytes(self) -> list[bytes]:
        """For every id below `size` the bytes that it adds to the text; b"" for special tokens and unused ids.

        Joined, they are the UTF-8 of `decode`, except that T5 and word tokens write the blank before a word, so
        that there is one more at the very beginning.
        """
        return list(self._token_bytes)

    @functools.cached_property
    def _token_bytes(self) -> list[bytes]:
        texts = [b""] * self.size
        special = {t.content for t in self._backend.get_added_tokens_decoder().values() if t.special}
        to_bytes = _bytes_of(json.loads(self._backend.to_str())["decoder"])
        for token, i in self._backend.get_vocab(with_added_tokens=True).items():
            if token not in special:
                texts[i] = to_bytes(token)
        return texts

    def fingerprint(self) -> str:
        """Hex digest of everything that decides which ids a text gets and what they mean."""
        # Scores are float32, but their way through JSON may change the last digit of their float64 form.
        state = json.loads(self._backend.to_str(), parse_float=lambda score: float(np.float32(score)))
        kept = {k: state[k] for k in ("normalizer", "pre_tokenizer", "model", "decoder", "added_tokens")}
        kept["ids"] = [self.bos_id, self.eos_id, self.pad_id]
        return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]

    def _frame(self, kind: str) -> tuple[list[int], list[int]]:
        frames = {"t5": ([], [self.eos_id]), "opt": ([self.bos_id], []), "decoder": (self._own_start, [])}
        if kind not in frames:
            raise ValueError(f"unknown kind of model {kind!r}; expected one of {', '.join(frames)}")
        return frames[kind]

    @functools.cached_property
    def _own_start(self) -> list[int]:
        """Special tokens that the tokenizer puts before every text. What it puts behind would end a response."""
        plain, framed = self.encode("a"), self._backend.encode("a").ids
        begins = [i for i in range(len(framed)) if framed[i : i + len(plain)] == plain]
        return framed[: begins[0]] if begins else []

    def _with_template(self, kind: str) -> Any:
        """The fast tokenizer if it frames prompts as `kind` wants, else a general one that does."""
        if self._fast("a").input_ids == self.prompt_ids("a", kind):
            return self._fast
        from tokenizers import Tokenizer as Backend
        from tokenizers import processors

        backend = Backend.from_str(self._backend.to_str())
        before, after = ([backend.id_to_token(i) for i in ids] for ids in self._frame(kind))
        used = [(backend.id_to_token(i), i) for ids in self._frame(kind) for i in ids]
        backend.post_processor = processors.TemplateProcessing(single=[*before, "$A", *after], special_tokens=used)
        names = {k: backend.id_to_token(getattr(self, f"{k}_id")) for k in ("bos", "eos", "pad")}
        given = {"unk_token": self._fast.unk_token, "chat_template": self._fast.chat_template}
        return _wrap(backend, **given, **{f"{k}_token": v for k, v in names.items()})


def _transformers() -> Any:
    """The library, without its advice to install PyTorch, which only parity checks need."""
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    import transformers

    return transformers


def _wrap(backend: Any, **given: str | Mapping[str, str] | None) -> Any:
    known = {k: v for k, v in given.items() if v is not None}
    kind = _transformers().PreTrainedTokenizerFast
    return kind(tokenizer_object=backend, clean_up_tokenization_spaces=False, **known)


def _template(fast: Any) -> str:
    try:
        return fast.get_chat_template()
    except ValueError:  # none at all, or several and none of them the usual one
        raise InputError(
            f"tokenizer {fast.name_or_path!r}: has no chat template, so there is no chat with its model; give the "
            "tokenizer of an instruction-tuned model (tokenizer=FOLDER), or leave chat=False"
        ) from None


def _write(fast: Any, messages: Sequence[Turn]) -> str:
    """The chat as text, by the tokenizer's template, with the beginning of the model's turn."""
    from jinja2 import TemplateError

    template, turns = _template(fast), [dict(turn) for turn in messages]
    try:
        return fast.apply_chat_template(turns, chat_template=template, add_generation_prompt=True, tokenize=False)
    except (TemplateError, TypeError) as error:
        raise InputError(
            f"tokenizer {fast.name_or_path!r}: its chat template refuses {len(turns)} turns of "
            f"{' and '.join(dict.fromkeys(turn['role'] for turn in turns))} ({error})"
        ) from None


def _without_clock(template: str | dict[str, str] | None) -> str | dict[str, str] | None:
    """The same template, or templates by name, in which it is always one day."""
    if isinstance(template, dict):
        return {name: _without_clock(text) for name, text in template.items()}
    if template is None or "strftime_now" not in template or template.startswith(_NO_CLOCK):
        return template
    return _NO_CLOCK + template


def _ends(folder: epath.Path) -> list[int]:
    """The ends that a model's files name. Raises InputError where they are no ids."""
    for file in (folder / "generation_config.json", folder / "config.json"):
        if not file.exists():
            continue
        try:
            values = json.loads(file.read_text())
        except ValueError as error:
            raise InputError(f"{file}: not JSON ({error})") from None
        found = values.get("eos_token_id") if isinstance(values, dict) else None
        if found is not None:
            ends = found if isinstance(found, list) else [found]
            if not all(type(end) is int for end in ends):
                raise InputError(f"{file}: eos_token_id is {found!r}; expected the id of a token, or a list of them")
            return ends
    return []


def _reader(local: pathlib.Path, shown: epath.PathLike) -> Any:
    """A function that reads the tokenizer at `local`. Raises InputError, with the path `shown`, if there is none."""
    library = _transformers()
    if local.is_file():
        if local.suffix == ".model":
            return lambda: _sentencepiece(local)
        if local.name.endswith("tokenizer.json"):
            return lambda: library.AutoTokenizer.from_pretrained(str(local.parent), local_files_only=True)
        raise InputError(f"{shown}: expected a folder, a tokenizer.json or a sentencepiece .model file")
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
            **dict.fromkeys(("bos_token", "eos_token", "unk_token"), "</s>"),  # as OPT's own folders say
        )
    raise InputError(
        f"{shown}: no tokenizer found; expected tokenizer.json, tokenizer_config.json, spiece.model, "
        f"or one *vocab.json with one *merges.txt"
    )


def _sentencepiece(file: pathlib.Path) -> Any:
    """T5's tokenizer; the 100 sentinels that its models have beyond the file's pieces are added by the class."""
    return _transformers().T5Tokenizer.from_pretrained(str(file))


def _bytes_of(decoder: dict[str, Any] | None) -> Any:
    """How a token's name becomes bytes, by the decoder in the tokenizer's own description."""
    if decoder is None:  # decoding joins with blanks
        return lambda token: b" " + token.encode()
    steps = {step["type"]: step for step in decoder.get("decoders", [decoder])}
    if "ByteLevel" in steps:
        table = {shown: byte for byte, shown in enumerate(_byte_characters())}
        return lambda token: bytes(table[c] for c in token) if set(token) <= table.keys() else token.encode()
    if "Metaspace" not in steps and "Replace" not in steps:
        raise InputError(f"tokenizer with a decoder of type {', '.join(steps)}: what its tokens add is not known")
    hexadecimal = {f"<0x{byte:02X}>": bytes([byte]) for byte in range(256)} if "ByteFallback" in steps else {}
    return lambda token: hexadecimal.get(token) or token.replace("▁", " ").encode()


def _byte_characters() -> list[str]:
    """The character by which byte-level BPE (GPT-2) writes each of the 256 bytes.

    Printable Latin-1 characters stand for themselves; the others are numbered from 256 on.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) if byte in printable else chr(256 + hidden.index(byte)) for byte in range(256)]
