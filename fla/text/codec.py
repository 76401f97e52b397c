"""Codec: sentences to token ids and back, with the tokenizer of mBART or of T5.

The only module that knows the tokenizers of transformers. Their mBART tokenizer has no normalizer
since version 5, so sentences are normalized here: Unicode NFKC, one space between words. T5's
normalizer, which its files hold, finds nothing left to do.
"""

import io
import string
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

import sentencepiece
from torch import Tensor
from transformers import MBartTokenizer, T5Tokenizer

from fla.errors import CheckpointError, ConfigError, DataError
from fla.text.tokenizer_files import find_kind

LANGUAGES = (
    "ar_AR",
    "cs_CZ",
    "de_DE",
    "en_XX",
    "es_XX",
    "et_EE",
    "fi_FI",
    "fr_XX",
    "gu_IN",
    "hi_IN",
    "it_IT",
    "ja_XX",
    "kk_KZ",
    "ko_KR",
    "lt_LT",
    "lv_LV",
    "my_MM",
    "ne_NP",
    "nl_XX",
    "ro_RO",
    "ru_RU",
    "si_LK",
    "tr_TR",
    "vi_VN",
    "zh_CN",
)
"""mBART's 25 language codes, in the order of their ids."""

_FIRST_TOKENS = ("<s>", "<pad>", "</s>", "<unk>")
# Printable and not a space, so that no English word is ever unknown.
_REQUIRED_CHARACTERS = string.ascii_letters + string.digits + string.punctuation


class TextCodec:
    """Sentences to token ids and back.

    Args:
        tokenizer: mBART's, set to the language on both sides, or T5's.
        start_id: Id that every translation starts with: mBART's language, T5's padding.
        end_ids: What every sentence's ids end with.
    """

    def __init__(
        self,
        tokenizer: MBartTokenizer | T5Tokenizer,
        *,
        start_id: int,
        end_ids: tuple[int, ...],
    ) -> None:
        self._tokenizer = tokenizer
        self.vocab_size: int = len(tokenizer)
        """V: rows that a model's embedding must have; that of a T5 may have more."""
        self.pad_id: int = tokenizer.pad_token_id
        self.eos_id: int = tokenizer.eos_token_id
        self.start_id = start_id
        self.end_ids = end_ids
        self._control_ids = frozenset(tokenizer.all_special_ids) - {tokenizer.unk_token_id}

    @property
    def mask_id(self) -> int:
        """Id of `<mask>`.

        Raises:
            ValueError: The tokenizer is T5's, which has none.
        """
        mask_id = self._tokenizer.mask_token_id
        if mask_id is None:
            raise ValueError("T5's tokenizer has no <mask>.")
        return int(mask_id)

    def encode(self, sentences: Sequence[str], *, max_tokens: int) -> list[list[int]]:
        """Turn sentences into ids: `tokens </s> language` for mBART, `tokens </s>` for T5.

        Args:
            sentences: Any text; it is normalized here.
            max_tokens: Most ids of a sentence, those at its end included.

        Raises:
            DataError: A sentence has more ids, or spells out a control token such as `</s>`.
        """
        if not sentences:
            return []
        normal = [normalize_sentence(sentence) for sentence in sentences]
        # The ids at the end are added here: a change of the tokenizer's template in another
        # version of transformers cannot reach the labels.
        pieces = self._tokenizer(
            normal, add_special_tokens=False, return_attention_mask=False, verbose=False
        )["input_ids"]
        encoded = []
        for sentence, ids in zip(normal, pieces, strict=True):
            if not self._control_ids.isdisjoint(ids):
                raise DataError(
                    f'The sentence "{_shorten(sentence)}" spells out a control token of the '
                    "tokenizer, such as </s> or en_XX. Take it out of the text."
                )
            num_tokens = len(ids) + len(self.end_ids)
            if num_tokens > max_tokens:
                raise DataError(
                    f'The sentence "{_shorten(sentence)}" has {num_tokens} tokens, but '
                    f"max_tokens is {max_tokens}. Raise text.max_tokens, or shorten the sentence."
                )
            encoded.append([*ids, *self.end_ids])
        return encoded

    def decode(self, ids: Tensor) -> list[str]:
        """Turn ids, `(B, L)`, into sentences; control tokens and padding are left out."""
        sentences: list[str] = self._tokenizer.batch_decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        # An <unk> between two words leaves both of its spaces.
        return [" ".join(sentence.split()) for sentence in sentences]

    def has_same_tokens(self, other: "TextCodec") -> bool:
        """Whether every id means the same token in both."""
        return bool(self._tokenizer.get_vocab() == other._tokenizer.get_vocab())

    def save(self, folder: Path) -> None:
        """Write the tokenizer in Hugging Face format into `folder`, which is made."""
        self._tokenizer.save_pretrained(folder)


def normalize_sentence(sentence: str) -> str:
    """Unicode NFKC, words separated by one space."""
    return " ".join(unicodedata.normalize("NFKC", sentence).split())


def read_codec(folder: Path, *, language: str) -> TextCodec:
    """Read a tokenizer of mBART or T5 in Hugging Face format from a local folder.

    Args:
        folder: tokenizer.json, or the sentencepiece.bpe.model or spiece.model of older releases.
        language: mBART's code of the language, such as `en_XX`. T5 has no languages: there it is
            any word.

    Raises:
        ConfigError: mBART has no such language.
        CheckpointError: Neither tokenizer is in the folder, or it lacks control tokens.
    """
    kind = find_kind(folder)
    try:
        return _read_mbart(folder, language) if kind == "mbart" else _read_t5(folder)
    except (OSError, TypeError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{folder}: the tokenizer does not load ({str(error)[:100]}). Give a folder with an "
            "mBART or T5 tokenizer in Hugging Face format."
        ) from error


def train_codec(sentences: Iterable[str], *, max_pieces: int, language: str) -> TextCodec:
    """Learn a SentencePiece unigram vocabulary and lay it out as mBART's.

    The same sentences in the same order give the same codec. All printable ASCII is in it.

    Args:
        sentences: Text to learn from; it is normalized here.
        max_pieces: Most pieces to learn; fewer where the text has fewer. The codec has 27 tokens
            more: `<pad>`, 25 languages and `<mask>`.
        language: mBART's code of the text's language.

    Raises:
        ConfigError: mBART has no such language, or `max_pieces` is less than the characters.
        DataError: There is no text.
    """
    if language not in LANGUAGES:
        raise ConfigError(_unknown_language(language))
    text = [normal for sentence in sentences if (normal := normalize_sentence(sentence))]
    if not text:
        raise DataError("There is no sentence to learn a vocabulary from. Give some text.")
    # The characters, and <unk>, <s> and </s>.
    least = len(set("".join(text)) - {" "} | set(_REQUIRED_CHARACTERS)) + 1 + 3
    if max_pieces < least:
        raise ConfigError(
            f"data.max_pieces ({max_pieces}) is less than the text's characters need. Set it to "
            f"{least} or more."
        )
    rows = [
        *((token, 0.0) for token in _FIRST_TOKENS),
        *_learn_pieces(text, max_pieces),
        *((code, 0.0) for code in LANGUAGES),
        ("<mask>", 0.0),
    ]
    tokenizer = MBartTokenizer(vocab=rows, src_lang=language, tgt_lang=language)
    return _mbart_codec(tokenizer, language)


def _read_mbart(folder: Path, language: str) -> TextCodec:
    if language not in LANGUAGES:
        raise ConfigError(_unknown_language(language))
    tokenizer = MBartTokenizer.from_pretrained(
        folder, local_files_only=True, src_lang=language, tgt_lang=language
    )
    _forget_code(tokenizer)
    _keep_spaces(tokenizer)
    # mBART's class adds what a vocabulary lacks behind its end, where the weights have no rows.
    num_pieces = tokenizer.backend_tokenizer.get_vocab_size(with_added_tokens=False)
    if num_pieces != len(tokenizer):
        raise CheckpointError(
            f"{folder}: the vocabulary has {num_pieces} tokens and lacks "
            f"{len(tokenizer) - num_pieces} of mBART's control tokens. Keep <s>, <pad>, </s>, "
            "<unk>, all 25 language codes and <mask> when trimming it."
        )
    return _mbart_codec(tokenizer, language)


def _mbart_codec(tokenizer: MBartTokenizer, language: str) -> TextCodec:
    language_id = int(tokenizer.lang_code_to_id[language])  # type: ignore[arg-type]
    # Labels end with the language because mBART's pretraining has it there.
    return TextCodec(tokenizer, start_id=language_id, end_ids=(tokenizer.eos_token_id, language_id))


def _read_t5(folder: Path) -> TextCodec:
    tokenizer = T5Tokenizer.from_pretrained(folder, local_files_only=True)
    _forget_code(tokenizer)
    _keep_spaces(tokenizer)
    vocabulary = tokenizer.backend_tokenizer.get_vocab(with_added_tokens=False)
    lacking = [token for token in ("<pad>", "</s>", "<unk>") if token not in vocabulary]
    if lacking:
        raise CheckpointError(
            f"{folder}: the vocabulary lacks {', '.join(lacking)} of T5's control tokens. Keep "
            "<pad>, </s> and <unk> when trimming it."
        )
    return TextCodec(tokenizer, start_id=tokenizer.pad_token_id, end_ids=(tokenizer.eos_token_id,))


def _forget_code(tokenizer: MBartTokenizer | T5Tokenizer) -> None:
    """Leave out what an export would hand on: where a tokenizer has code, and templates of chats.

    Those who load an export with `trust_remote_code` mean the code that this toolkit writes.
    """
    tokenizer.chat_template = None
    for name in ("auto_map", "chat_template"):
        tokenizer.init_kwargs.pop(name, None)


def _keep_spaces(tokenizer: MBartTokenizer | T5Tokenizer) -> None:
    """Leave the spaces before full stops, as `decode` does, to who decodes with an export, too."""
    tokenizer.clean_up_tokenization_spaces = False
    tokenizer.init_kwargs["clean_up_tokenization_spaces"] = False


def _learn_pieces(text: list[str], max_pieces: int) -> list[tuple[str, float]]:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text),
        model_writer=model,
        model_type="unigram",
        vocab_size=max_pieces,
        hard_vocab_limit=False,
        character_coverage=1.0,
        required_chars=_REQUIRED_CHARACTERS,
        # Normalized before it comes here.
        normalization_rule_name="identity",
        # Sums over several threads depend on their order, and the codec with them.
        num_threads=1,
        minloglevel=2,
    )
    learned = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    # The first three are <unk>, <s> and </s>, which mBART has in places of its own.
    return [
        (learned.id_to_piece(i), learned.get_score(i)) for i in range(3, learned.get_piece_size())
    ]


def _unknown_language(language: str) -> str:
    return (
        f"text.language ({language}) is no language code of mBART. Use one of "
        f"{', '.join(LANGUAGES)}."
    )


def _shorten(sentence: str) -> str:
    return sentence if len(sentence) <= 60 else f"{sentence[:57]}..."
