"""Learn a WordPiece vocabulary: `python -m experiments.vocabulary data.path=FILE data.text_column=NAME size=8000 out=DIR`."""

if __name__ == "__main__":
    from experiments.launch import settle

    settle()

from pathlib import Path
from typing import Any

from ecrec_jax import build, evaluate, section
from ecrec_jax.data import vocabulary
from ecrec_jax.types import Facts, InputError
from ecrec_jax.writing import fresh
from experiments import record

KEYS = {"size": int, "lowercase": bool, "out": str}


def main(config: dict[str, Any]) -> None:
    """Clean and split the texts as training does, learn from the training split, write a tokenizer's folder."""
    config = section.typed(config, KEYS)
    size, lowercase, out = (config[key] for key in KEYS)
    texts = training(config["data"])
    with fresh(Path(out)) as folder:
        pieces = vocabulary.learn(texts, size, lowercase)
        record.write_text("\n".join(pieces) + "\n", folder / "vocab.txt")
        names = {f"{token.strip('[]').lower()}_token": token for token in vocabulary.SPECIAL}
        settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": lowercase, **names}
        evaluate.write_json(settings, folder / "tokenizer_config.json")
        evaluate.write_json({"model_type": "bert", "vocab_size": len(pieces)}, folder / "config.json")
    print(f"{len(pieces)} tokens from {len(texts)} texts written to {out}; use them with data.tokenizer={out}")


def training(node: dict[str, Any]) -> list[str]:
    """The training texts of a run that reads the labels too, by which a drawn split is balanced; where they can't be read, those of
    one that doesn't, and a line that says so."""
    load = lambda node: section.make(node, "data", Facts()).load(str(build.ASSETS / "bert_uncased"), node["max_length"])  # noqa: E731
    unread = node | {key: x for key, x in (("target", "none"), ("label_column", None)) if key in node}
    try:
        return load(node).texts["train"]
    except InputError as error:
        if node == unread:
            raise
        texts = load(unread).texts["train"]
        print(f"split without labels, so a run that reads them may test texts that the vocabulary has seen ({error})")
        return texts


if __name__ == "__main__":
    from experiments.launch import main as launch

    launch(main, "vocabulary")
