"""A WordPiece vocabulary learnt from texts."""

from collections import Counter
from collections.abc import Sequence

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from ecrec_jax.types import InputError

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")   # padding must be 0


def learn(texts: Sequence[str], size: int, lowercase: bool) -> list[str]:
    """At most `size` pieces: all characters, then the most frequent pair is merged again and again, if it occurs twice.
    Texts are cut into words as BERT does, CJK characters one by one.

    Source: Sennrich et al. 2016, alg. 1, with ## on what continues a word, which is how the library trains a WordPiece
    tokenizer. It numbers characters in the order of a hash table that differs from run to run, and breaks ties by number:
    handing them over as special tokens, most frequent first, fixes the result.

    Raises:
        InputError: the characters alone are more than `size`.
    """
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    words = Counter(word for text in texts
                    for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(tokenizer.normalizer.normalize_str(text)))
    counts: Counter[str] = Counter()
    for word, times in words.items():
        for i, character in enumerate(word):
            counts[f"##{character}" if i else character] += times
    for character in sorted({character for word in words for character in word}):   # the trainer has each of them alone too
        counts.setdefault(character, 0)
    characters = sorted(counts, key=lambda piece: (-counts[piece], piece))
    if len(SPECIAL) + len(characters) > size:
        raise InputError(f"size is {size}, but the characters of the texts, first and inside of words, and {len(SPECIAL)} special "
                         f"tokens are {len(SPECIAL) + len(characters)}: choose more")
    trainer = trainers.WordPieceTrainer(vocab_size=size, min_frequency=2, special_tokens=[*SPECIAL, *characters],
                                        limit_alphabet=len(characters), show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    ids = tokenizer.get_vocab()
    return sorted(ids, key=ids.__getitem__)
