"""Tokenizers of the pretrained models, and word-level tokenizers trained on a task's texts.

`Tokenizer` wraps a fast tokenizer of transformers behind a small interface, so that no other module depends on that
library. It loads a Hugging Face folder, T5's bare `spiece.model` or OPT's bare `vocab.json` and `merges.txt`, and
trains word-level tokenizers for tasks with a small vocabulary.

Three caveats: T5 drops line ends and repeated blanks and has no token for some characters, so decode(encode(x)) may
differ from x; a stop string may have several tokenizations; and prompt and response are tokenized separately, in
training and in sampling.

A chat is rendered by the chat template of an instruction-tuned model's tokenizer. Some templates insert the current
date; it is fixed here, so that a prompt depends on its text alone.
"""

import collections
import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from etils import epath

from scotd_jax import chat_templates
from scotd_jax.chat_templates import render_chat, turn_end
from scotd_jax.errors import InputError
from scotd_jax.local_files import local_copy, staged_folder
from scotd_jax.records import Prompt, Turn
from scotd_jax.tokenizer_files import (
    bytes_decoder,
    config_files,
    find_reader,
    model_eos_ids,
    tokenizer_files,
    wrap_backend,
)

SPECIAL_TOKENS = ("<pad>", "</s>", "<unk>", "<s>")  # of word-level tokenizers, with the ids 0 to 3
# Chat template of word-level tokenizers, of special tokens only: "<s> " before every turn, " </s>" after it.
_WORD_CHAT_TEMPLATE = "{% for turn in messages %}<s> {{ turn.content }} </s> {% endfor %}"
_WORD_CHAT_TEMPLATE += "{% if add_generation_prompt %}<s> {% endif %}"


@dataclasses.dataclass(frozen=True)
class PromptEncoder:
    """Encodes batches of texts. It is small, so that it can be sent to other processes quickly.

    The ids of a prompt are `prefix_ids`, those of its text, and `suffix_ids`.

    Attributes:
      backend: a `tokenizers.Tokenizer`.
      prefix_ids: ids before the text of a prompt.
      suffix_ids: ids after it.
      end_id: id that ends a response.
      chat_tokenizer: fast tokenizer of transformers, whose chat template renders chats; None for text prompts.
    """

    backend: Any
    prefix_ids: tuple[int, ...]
    suffix_ids: tuple[int, ...]
    end_id: int
    chat_tokenizer: Any = None

    def render(self, prompt: Prompt) -> str:
        """Returns a prompt as text. Raises InputError if the template refuses a chat."""
        return prompt if isinstance(prompt, str) else render_chat(self.chat_tokenizer, prompt)

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns the ids of every text, without special tokens."""
        return [encoding.ids for encoding in self.backend.encode_batch_fast(list(texts), add_special_tokens=False)]


class Tokenizer:
    """A tokenizer. Special tokens never appear in decoded text.

    Attributes:
      eos_id: id of the end token.
      end_id: id that ends a response in training: `eos_id`, or for chats the one after an assistant turn.
      eos_ids: all ids that end a generated response; the first one is `eos_id`.
      bos_id: id that begins a decoder-only prompt; `eos_id` if the tokenizer has none, as for OPT.
      pad_id: id of masked positions; `eos_id` if the tokenizer has none.
      size: number of ids that can be generated, which may be less than the rows of a model's output matrix.
    """

    def __init__(self, fast: Any, eos_ids: Sequence[int] = (), chat: bool = False):
        """Wraps a fast tokenizer of transformers.

        Args:
          fast: a tokenizer with a `backend_tokenizer`.
          eos_ids: further ids that end a response; those outside the vocabulary are ignored.
          chat: whether prompts are chats.

        Raises:
          InputError: if the tokenizer has no end token; with `chat`, if it has no chat template.
        """
        self._fast = fast
        self._backend = fast.backend_tokenizer
        self._backend.no_truncation()  # the corpus has its own length limits
        self._backend.no_padding()
        if fast.eos_token_id is None:
            raise InputError(f"tokenizer {fast.name_or_path!r}: has no end token; a response could never end")
        self.eos_id: int = fast.eos_token_id
        self.bos_id: int = self.eos_id if fast.bos_token_id is None else fast.bos_token_id
        self.pad_id: int = self.eos_id if fast.pad_token_id is None else fast.pad_token_id
        self.size: int = max(self._backend.get_vocab(with_added_tokens=True).values()) + 1
        # Old configs have ids such as -1 for a missing end token.
        known = (i for i in eos_ids if 0 <= i < self.size)
        fast.chat_template = chat_templates.fix_date(fast.chat_template)
        self.end_id: int = self._turn_end_id() if chat else self.eos_id
        self.eos_ids: tuple[int, ...] = tuple(dict.fromkeys((self.eos_id, *known, self.end_id)))

    @classmethod
    def load(cls, path: epath.PathLike, model: epath.PathLike | None = None, chat: bool = False) -> "Tokenizer":
        """Loads a tokenizer.

        Args:
          path: a Hugging Face folder, a `tokenizer.json`, a `spiece.model` (or its folder), or a folder with
            `*vocab.json` and `*merges.txt`. Local, gs://, or a name on the Hub.
          model: path of the model's weights; by default the path of the tokenizer. Its generation_config.json or
            config.json adds end token ids: a chat model often ends its turns with another token than `eos_id`.
          chat: whether prompts are chats.

        Raises:
          InputError: if there is no tokenizer at `path`, or a file cannot be read; with `chat`, if the tokenizer has no
            chat template.
        """
        with local_copy(path, tokenizer_files) as local:
            read = find_reader(local, path)
            if model is None:
                eos_ids = model_eos_ids(local if local.is_dir() else local.parent, path)
            else:
                with local_copy(model, config_files) as folder:
                    eos_ids = model_eos_ids(folder, model)
            try:
                fast = read()
            except Exception as error:  # the libraries raise bare Exceptions for broken files
                raise InputError(f"{path}: cannot be read as a tokenizer ({error})") from error
        if not hasattr(fast, "backend_tokenizer"):
            raise InputError(f"{path}: {type(fast).__name__} has no fast form (tokenizer.json); convert it first")
        fast.name_or_path = str(path)  # for messages; a remote tokenizer was read from a copy
        return cls(fast, eos_ids, chat)

    @classmethod
    def train_word_level(cls, texts: Iterable[str], chat: bool = False) -> "Tokenizer":
        """Trains a tokenizer with one token per word (split at whitespace), the most frequent words first.

        Decoding joins words with single blanks. The tokenizer does not depend on the order of the texts. With `chat` it
        has a chat template, which adds no words.
        """
        from tokenizers import Tokenizer as Backend
        from tokenizers import models, pre_tokenizers

        counts = collections.Counter(word for text in texts for word in text.split())
        words = sorted(counts.keys() - set(SPECIAL_TOKENS), key=lambda word: (-counts[word], word))
        backend = Backend(models.WordLevel({w: i for i, w in enumerate([*SPECIAL_TOKENS, *words])}, unk_token="<unk>"))
        backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        tokens = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", "bos_token": "<s>"}
        return cls(wrap_backend(backend, **tokens, chat_template=_WORD_CHAT_TEMPLATE if chat else None), chat=chat)

    def save(self, folder: epath.PathLike, kind: str | None = None) -> None:
        """Writes files that `Tokenizer.load` and transformers' AutoTokenizer can load.

        Args:
          folder: where to write.
          kind: kind of model. If set, calling the saved tokenizer on a text gives `prompt_ids(text, kind)`, so that
            users of an exported model in PyTorch prompt it as in training.
        """
        fast = self._fast if kind is None else self._with_template(kind)
        with staged_folder(folder) as staging:
            fast.save_pretrained(staging, save_jinja_files=False)  # keeps templates in tokenizer_config.json
            file = staging / "tokenizer_config.json"
            settings = json.loads(file.read_text())
            if settings.get("tokenizer_class") == "TokenizersBackend":  # unknown to transformers before 5
                settings["tokenizer_class"] = "PreTrainedTokenizerFast"
            file.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n")

    def encode(self, text: str) -> list[int]:
        """Returns the ids of a text, without special tokens."""
        return self._backend.encode(text, add_special_tokens=False).ids

    def token_ends(self, text: str) -> list[int]:
        """Returns where every token of a text ends, in characters from its start."""
        return [end for _, end in self._backend.encode(text, add_special_tokens=False).offsets]

    def prompt_ids(self, prompt: Prompt, kind: str) -> list[int]:
        """Returns the ids of a complete prompt.

        Args:
          prompt: a text or a chat. A chat has the special tokens of its template only.
          kind: kind of model: "t5" ends a text with `eos_id`, "opt" begins it with `bos_id`, "decoder" begins it with
            the special tokens that the tokenizer itself adds (`<s>` for Llama, none for Qwen).
        """
        if not isinstance(prompt, str):
            return self.chat_ids(prompt)
        before, after = self._special_ids(kind)
        return [*before, *self.encode(prompt), *after]

    def chat_ids(self, messages: Sequence[Turn]) -> list[int]:
        """Returns the ids of a chat up to the start of the model's turn, with the special tokens of the template only.

        Raises:
          InputError: if the tokenizer has no template, or the template refuses the messages.
        """
        return self.encode(render_chat(self._fast, messages))

    @property
    def chat_template(self) -> str:
        """The chat template. Raises InputError if there is none."""
        return chat_templates.chat_template(self._fast)

    def encoder(self, kind: str, chat: bool = False) -> PromptEncoder:
        """Returns a picklable encoder of prompts for a model of `kind`; with `chat`, of chats instead of texts."""
        before, after = ([], []) if chat else self._special_ids(kind)
        return PromptEncoder(self._backend, tuple(before), tuple(after), self.end_id, self._fast if chat else None)

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of ids without special tokens. Invalid UTF-8 becomes U+FFFD."""
        return self._backend.decode([int(i) for i in ids], skip_special_tokens=True)

    def decode_with_special_tokens(self, ids: Sequence[int]) -> str:
        """Returns the text of ids with special tokens, for readers."""
        return self._backend.decode([int(i) for i in ids], skip_special_tokens=False)

    def token_bytes(self) -> list[bytes]:
        """Returns the bytes of every id below `size`; b"" for special tokens and unused ids.

        The concatenated bytes of a sequence equal its decoded text in UTF-8, except that T5 and word-level tokens
        include the blank before a word, so these bytes begin with an additional blank.
        """
        return list(self._token_bytes)

    @functools.cached_property
    def _token_bytes(self) -> list[bytes]:
        texts = [b""] * self.size
        special = {t.content for t in self._backend.get_added_tokens_decoder().values() if t.special}
        to_bytes = bytes_decoder(json.loads(self._backend.to_str())["decoder"])
        for token, i in self._backend.get_vocab(with_added_tokens=True).items():
            if token not in special:
                texts[i] = to_bytes(token)
        return texts

    def fingerprint(self) -> str:
        """Returns a hex digest of everything that determines the ids of a text and their meaning."""
        # T5's tokens have float32 scores. The JSON text contains float64 values, whose last digit may vary.
        state = json.loads(self._backend.to_str(), parse_float=lambda score: float(np.float32(score)))
        digested = {k: state[k] for k in ("normalizer", "pre_tokenizer", "model", "decoder", "added_tokens")}
        digested["ids"] = [self.bos_id, self.eos_id, self.pad_id]
        return hashlib.sha256(json.dumps(digested, sort_keys=True).encode()).hexdigest()[:16]

    def _turn_end_id(self) -> int:
        """The special token after the content of an assistant turn; `eos_id` if the template writes none."""
        ids = self.encode(turn_end(self._fast))
        tokens = self._backend.get_added_tokens_decoder()
        return ids[0] if ids and ids[0] in tokens and tokens[ids[0]].special else self.eos_id

    def _special_ids(self, kind: str) -> tuple[list[int], list[int]]:
        """The special tokens before and after the text of a prompt."""
        by_kind = {"t5": ([], [self.eos_id]), "opt": ([self.bos_id], []), "decoder": (self._leading_special_ids, [])}
        if kind not in by_kind:
            raise ValueError(f"unknown kind of model {kind!r}; expected one of {', '.join(by_kind)}")
        return by_kind[kind]

    @functools.cached_property
    def _leading_special_ids(self) -> list[int]:
        """The special tokens that the tokenizer adds before a text. Those after it would end a prompt too early."""
        plain, complete = self.encode("a"), self._backend.encode("a").ids
        begins = [i for i in range(len(complete)) if complete[i : i + len(plain)] == plain]
        return complete[: begins[0]] if begins else []

    def _with_template(self, kind: str) -> Any:
        """Returns the fast tokenizer if it adds the special tokens of `kind`, else a generic copy that does.

        The copy adds them by a `TemplateProcessing` post-processor, not by the chat template.
        """
        if self._fast("a").input_ids == self.prompt_ids("a", kind):
            return self._fast
        from tokenizers import Tokenizer as Backend
        from tokenizers import processors

        backend = Backend.from_str(self._backend.to_str())
        before, after = ([backend.id_to_token(i) for i in ids] for ids in self._special_ids(kind))
        used = [(backend.id_to_token(i), i) for ids in self._special_ids(kind) for i in ids]
        backend.post_processor = processors.TemplateProcessing(single=[*before, "$A", *after], special_tokens=used)
        names = {k: backend.id_to_token(getattr(self, f"{k}_id")) for k in ("bos", "eos", "pad")}
        settings = {"unk_token": self._fast.unk_token, "chat_template": self._fast.chat_template}
        return wrap_backend(backend, **settings, **{f"{k}_token": v for k, v in names.items()})
