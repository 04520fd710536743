"""Transforms of texts: the law of each, what copies carry and where they never go, and one sentence for what is wrong."""

import json
import shutil
import sys
from collections import Counter

import numpy as np
import pytest

from ecrec_jax import build, pretrained, section
from ecrec_jax.augment.masked_lm import fill
from ecrec_jax.data import copies, lexicon, tokenise, words
from ecrec_jax.section import make
from ecrec_jax.types import Facts, InputError
from experiments import saved
from tests import world
from tests.conftest import GOLDEN
from tests.test_commands import call
from tests.test_data import TOKENIZER, many, text, write
from tests.test_resume import command, everything, run, same

TEXTS = ["Great dress, I LOVE the fit! Runs small.", "ok", "the color is nice but (sadly) the fabric's too thin for winter wear",
         "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen "
         "nineteen twenty twenty-one", "连衣裙很好看，iPhone 手机 too", "?!"]
MINE = "great\tlovely\tfine\nColor\tshade\nnice\tgood-looking\n一\t二\n"


@pytest.fixture
def node(tmp_path, monkeypatch):
    """The yaml of a transform with what it needs: a small lexicon, a small model, a function."""
    (tmp_path / "mine.tsv").write_text(MINE, encoding="utf-8")
    (tmp_path / "turning.py").write_text("def turn(text):\n    return ' '.join(reversed(text.split()))\n")
    (tmp_path / "ppdb_synonyms/mwa_ppdb").mkdir(parents=True)
    (tmp_path / "cilin_chinese_synonyms").mkdir()
    shutil.copy(tmp_path / "mine.tsv", tmp_path / world.section_of("augment", "ppdb")["lexicon"])
    (tmp_path / world.section_of("augment", "cilin")["lexicon"]).write_text("Aa01A01= 连衣裙 裙子\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    given = {"lexicon": lambda old: "mine.tsv" if old == "???" else old, "function": lambda _: "turning:turn",
             "checkpoint": lambda _: f"{GOLDEN}/bert/masked_lm"}

    def of(name, **changes):
        raw = world.section_of("augment", name)
        return {k: given[k](x) if k in given else x for k, x in raw.items()} | changes

    return of


def made(node, tmp_path):
    """The object, as `copies.transforms` makes it."""
    known = section.arguments(section.target(node, "x"))
    given = {k: x for k, x in (("root", str(tmp_path)), ("segmenter", None)) if k in known}
    return make(node, "data.augment.x", Facts(), **given)


def changed(transform, seed=0, texts=TEXTS):
    """The changed texts."""
    return transform(texts, [np.random.default_rng((seed, i)) for i in range(len(texts))])


def pieces(text):
    """Its words."""
    return words.split(text).words


# ---- laws
@pytest.mark.parametrize("name", world.names("augment"))
def test_same_seed_same_text_and_never_an_empty_one(name, node, tmp_path):
    transform = made(node(name), tmp_path)
    found = [changed(transform, seed) for seed in range(8)]
    again = made(node(name), tmp_path)
    assert found == [changed(again, seed) for seed in range(8)]
    assert changed(transform, 3, TEXTS[:3]) == found[3][:3]             # the others of a list don't matter
    assert all(isinstance(text, str) and text.strip() == text and text for texts in found for text in texts)
    draws = "alpha" in node(name)
    assert (len({tuple(texts) for texts in found}) > 1) == (draws and name not in ("ppdb", "cilin"))
    if draws:
        assert changed(made(node(name, alpha=0.0), tmp_path)) == TEXTS
        with pytest.raises(InputError, match="alpha 1.5 must be a share"):
            made(node(name, alpha=1.5), tmp_path)
        assert all(changed(made(node(name, alpha=1.0), tmp_path)))


@pytest.mark.parametrize("alpha", [0.1, 0.5, 1.0])
def test_deletion_removes_only(alpha, node, tmp_path):
    transform = made(node("deletion", alpha=alpha), tmp_path)
    for seed in range(20):
        for old, new in zip(TEXTS, changed(transform, seed), strict=True):
            rest = iter(pieces(old))
            assert all(word in rest for word in pieces(new))            # a subsequence
    if alpha == 1.0:
        assert all(len(pieces(new)) == 1 for new in changed(transform))


def test_deletion_takes_a_share_of_alpha(node, tmp_path):
    long = [" ".join(map(str, range(100)))] * 200
    left = np.mean([len(pieces(new)) for new in changed(made(node("deletion"), tmp_path), texts=long)])
    assert abs(left - 90) < 4 * np.sqrt(100 * 0.1 * 0.9 / 200)          # four standard errors of a mean of binomials


@pytest.mark.parametrize("alpha,most", [(0.1, 2), (0.25, 5)])
def test_swap_is_a_permutation(alpha, most, node, tmp_path):
    transform = made(node("swap", alpha=alpha), tmp_path)
    for seed in range(20):
        for old, new in zip(TEXTS, changed(transform, seed), strict=True):
            assert Counter(pieces(new)) == Counter(pieces(old)) and len(new) == len(old)
            assert (new != old) or len(pieces(old)) < 2 or len(pieces(old)) >= 20
        moved = sum(a != b for a, b in zip(pieces(TEXTS[3]), pieces(changed(transform, seed)[3]), strict=True))
        assert 0 <= moved <= 2 * most                                    # ⌊alpha · 21⌋ swaps of two words


def test_crop_is_a_contiguous_part(node, tmp_path):
    transform, starts = made(node("crop", alpha=0.25), tmp_path), set()
    for seed in range(40):
        for old, new in zip(TEXTS, changed(transform, seed), strict=True):
            assert new in old and len(pieces(new)) == max(1, len(pieces(old)) - max(1, len(pieces(old)) // 4))
        starts.add(TEXTS[3].index(changed(transform, seed)[3]))
    assert len(starts) == 6                                              # 5 of 21 words go, from either end


def test_synonym_changes_words_of_the_lexicon_and_never_the_rest(node, tmp_path):
    transform, seen = made(node("synonym", alpha=1.0), tmp_path), set()
    assert transform.table["color"] == ["shade"] and transform.table["shade"] == ["Color"]
    for seed in range(10):
        found = changed(transform, seed)
        assert found[1] == TEXTS[1] and found[3:] == TEXTS[3:]
        assert found[0] in ("Lovely dress, I LOVE the fit! Runs small.", "Fine dress, I LOVE the fit! Runs small.")
        assert found[2] == "the shade is good-looking but (sadly) the fabric's too thin for winter wear"
        seen.add(found[0])
    assert len(seen) == 2
    one = changed(made(node("synonym", alpha=0.1), tmp_path))[2]         # max(1, ⌊0.1 · 12⌋) of its two known words
    assert sum(a != b for a, b in zip(pieces(one), pieces(TEXTS[2]), strict=True)) == 1
    assert changed(transform, 0, ["“GREAT!!”, he said"])[0] in ("“LOVELY!!”, he said", "“FINE!!”, he said")


def test_words_left_out_join_no_others():
    """What stood between them and the next word stands there still."""
    assert words.split("dress， great fit").part([0, 2, 3]).text() == "dress great fit"
    assert words.split("连衣裙很好看").part([0, 2]).text() == "连裙" and words.split("a b c").part([0, 2]).text() == "a c"


def test_masked_lm_leaves_a_word_that_is_cut(node, tmp_path):
    """Its end lies beyond the positions of the model, so it can't be hidden whole."""
    transform = made(node("masked_lm", alpha=1.0), tmp_path)
    loose, long = "a " * 61, "zzzqqembroideryish"
    for seed in range(8):
        (found,) = changed(transform, seed, [loose + long + " tail"])
        assert found.endswith(f"{long} tail")


def test_masked_lm_changes_as_many_words_as_asked(node, tmp_path):
    transform = made(node("masked_lm", alpha=0.25), tmp_path)
    loaded = pretrained.load(f"{GOLDEN}/bert/masked_lm", "masked_lm")
    plain = tokenise.load(str(loaded.folder))
    latin = [TEXTS[i] for i in (0, 1, 2, 3, 5)]
    known = {word for word in plain.get_vocab() if not word.startswith(("##", "["))}
    seen = 0
    for seed in range(5):
        for old, new in zip(latin, changed(transform, seed, latin), strict=True):
            a, b = (plain.backend_tokenizer.pre_tokenizer.pre_tokenize_str(text) for text in (old, new))
            assert len(a) == len(b)                                      # word for word
            swapped = [(x.lower(), y.lower()) for (x, _), (y, _) in zip(a, b, strict=True) if x != y]
            count = sum(any(map(str.isalnum, word)) for word, _ in a)
            assert len(swapped) <= max(1, count // 4) and all(word in known for _, word in swapped)
            seen += len(swapped)
    assert seen > 30


def test_copies_are_of_a_tokenizer_too(node, tmp_path):
    """Texts that were changed under other word pieces are not found in the cache."""
    found = []
    for lower in ("true", "false"):
        shutil.copytree(GOLDEN / "bert" / "masked_lm", tmp_path / lower)
        path = tmp_path / lower / "tokenizer_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"do_lower_case": lower == "true"}))
        found.append(made(node("masked_lm", checkpoint=str(tmp_path / lower)), tmp_path).mark)
    same = made(node("masked_lm", checkpoint=str(tmp_path / "true")), tmp_path).mark
    assert found[0] != found[1] and found[0] == same


def test_masked_lm_draws_what_the_model_says(node, tmp_path):
    """One hidden word of two: how often each comes, beside the softmax over whole words in float64."""
    loaded = pretrained.load(f"{GOLDEN}/bert/masked_lm", "masked_lm")
    tokenizer = tokenise.load(str(loaded.folder))
    ids = np.array([tokenizer(f"{tokenizer.mask_token}")["input_ids"]], "i4")
    batch = {"tokens": ids, "segment": 0 * ids + 1, "position": np.arange(ids.shape[1])[None], "type": 0 * ids}
    logits = np.asarray(loaded(batch | {"slot": np.array([[1]])}), "f8")[0, 0]
    names = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    logits[[name.startswith(("##", "[")) or not any(map(str.isalnum, name)) for name in names]] = -np.inf
    share = np.exp((logits - logits.max()) / 0.2)
    share /= share.sum()
    likely = names[int(logits.argmax())]
    found = changed(made(node("masked_lm", temperature=0.2), tmp_path), 0, ["ok"] * 2000)
    got = found.count(likely) / 2000
    print(f"{likely}: {got:.3f} of the draws, {share.max():.3f} of the softmax")
    assert abs(got - share.max()) < 4 * np.sqrt(share.max() * (1 - share.max()) / 2000)
    assert changed(made(node("masked_lm", temperature=0.0), tmp_path), 0, ["ok"]) == [likely]


def test_fill_keeps_capitals_and_the_rest():
    assert fill("Great, ÉTÉ!", [(0, 5), (7, 10)], ["fine", "sun"]) == "Fine, SUN!"
    assert fill("Great dress", [(0, 5)], ["great"]) == "Great dress"


def test_back_translation_is_the_function(node, tmp_path):
    assert changed(made(node("back_translation"), tmp_path))[:2] == ["small. Runs fit! the LOVE I dress, Great", "ok"]
    (tmp_path / "odd.py").write_text("def odd(text):\n    return '' if text == 'ok' else '<b>a</b>\\n b'\n")
    assert changed(made(node("back_translation", function="odd:odd"), tmp_path))[:2] == ["a b", "ok"]


# ---- words
def test_words_and_gaps_are_the_text():
    for one in TEXTS:
        assert words.split(one).text() == one and words.split(one, lambda t: [*t]).text() == one
    assert pieces("连衣裙，iPhone 很好") == ["连", "衣", "裙", "，", "iPhone", "很", "好"]
    assert words.split("我 喜欢", lambda t: ["我", " ", "喜欢"]) == (["我", "喜欢"], [" ", ""])
    assert [words.changes(0.1, n) for n in (0, 1, 9, 10, 29)] == [0, 1, 1, 1, 2] and words.changes(0.0, 9) == 0


# ---- lexicons
def test_cilin_lines(tmp_path):
    path = tmp_path / "cilin.txt"
    path.write_text("Aa01A01= 人 士 人物 人士\r\nAa01A02# 人类 生人\nAa01A03@ 食指\n", encoding="utf-8")
    assert lexicon.load(path) == {"人物": ["人士"], "人士": ["人物"]}


@pytest.mark.parametrize("kept,pair", [
    (True, "shirt blouse"), (False, "walk walked"), (False, "unhappy happy"), (False, "colour color"), (False, "walking run"),
    (False, "not never"), (False, "two three"), (False, "ab xyz"), (False, "10kg tenkg"), (False, "shirt qqqqq")])
def test_what_of_a_noisy_list_stays(kept, pair):
    one, other = pair.split()
    table = {one: [other, "garment"], other: [one, "garment"], "garment": [one, other]}
    found = lexicon.english(table, {"garment", *pair.replace("qqqqq", "").split()})
    assert (other in found.get(one, [])) == kept
    alone = lexicon.english({one: [other], other: [one]}, {one, other})
    assert not alone                                                     # no third word is a synonym of both


BROKEN = {"one word alone": (b"great\tfine\nalone\n", "line 2: expected two or more words parted by tabs"),
          "an empty word": (b"\ngreat\t \n", "line 2: expected two or more words"),
          "not UTF-8": ("很\t非常\n".encode("gbk"), "line 1: not UTF-8"), "nothing": (b"\n", "no synonyms in it")}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_lexicons_are_named_with_their_line(case, tmp_path):
    content, sentence = BROKEN[case]
    (tmp_path / "mine.tsv").write_bytes(content)
    with pytest.raises(InputError) as error:
        lexicon.load(tmp_path / "mine.tsv")
    assert str(tmp_path / "mine.tsv") in str(error.value) and sentence in str(error.value) and "\n" not in str(error.value)


# ---- copies
def corpora(tmp_path, augment, count=3, seed=0, **changes):
    """(the corpus as it is read, with its copies)."""
    path = write(tmp_path / "a.csv", many("abc" * 40))
    data = text(path, augment=augment, copies=count, root=str(tmp_path), **changes)
    corpus = data.load(TOKENIZER, 32)
    return corpus, copies.add(corpus, data, TOKENIZER, 32, seed)


def test_copies_join_training_rows_with_label_and_row(tmp_path, node):
    plain, grown = corpora(tmp_path, {"swap": node("swap"), "synonym": node("synonym", alpha=1.0)})
    for split in ("valid", "test"):
        assert grown.examples[split] is plain.examples[split] and grown.texts[split] is plain.texts[split]
    n = len(plain.examples["train"])
    assert len(grown.examples["train"]) == len(grown.texts["train"]) == 4 * n
    assert grown.examples["train"][:n] == plain.examples["train"] and grown.facts == plain.facts and grown.digest == plain.digest
    for i, (example, new) in enumerate(zip(grown.examples["train"][n:], grown.texts["train"][n:], strict=True)):
        original, old = plain.examples["train"][i % n], plain.texts["train"][i % n]
        assert (example.label, example.index) == (original.label, original.index)
        assert Counter(new.split()) == Counter(old.replace("nice", "good-looking").split()) and new != old
        assert (example.tokens == tokenise.tokenise(TOKENIZER, [new], None, 32)[0][0]).all()
    assert any(len(set(grown.texts["train"][n + i :: n])) == 3 for i in range(n))   # copies of one row are drawn apart
    assert grown.report["copies"]["changed by"] == {"swap": 3 * n, "synonym": 3 * n}


def test_a_copy_depends_on_seed_row_and_number_alone(tmp_path, node):
    _, whole = corpora(tmp_path, {"deletion": node("deletion", alpha=0.5)})
    plain, part = corpora(tmp_path, {"deletion": node("deletion", alpha=0.5)}, 2, train_fraction=0.5)
    of = lambda corpus, n: {(e.index, i // n): t for i, (e, t) in   # noqa: E731
                            enumerate(zip(corpus.examples["train"], corpus.texts["train"], strict=True))}
    every, some = of(whole, len(whole.texts["train"]) // 4), of(part, len(plain.texts["train"]))
    assert len(plain.texts["train"]) == len(whole.texts["train"]) // 8
    assert some.items() <= every.items()
    assert corpora(tmp_path, {"deletion": node("deletion", alpha=0.5)}, seed=1)[1].texts["train"] != whole.texts["train"]


def test_slow_transforms_are_kept_on_disk(tmp_path, node, monkeypatch):
    monkeypatch.setenv("ECREC_CACHE", str(tmp_path / "cache"))
    (tmp_path / "counting.py").write_text("calls = []\ndef turn(text):\n    calls.append(text)\n    return text[::-1]\n")
    chain = {"deletion": node("deletion"), "back": node("back_translation", function="counting:turn"), "swap": node("swap")}
    _, first = corpora(tmp_path, chain, 2)
    module = sys.modules["counting"]
    assert len(module.calls) == len(first.texts["train"]) * 2 // 3
    module.calls.clear()
    assert corpora(tmp_path, chain, 2)[1].texts == first.texts and not module.calls
    kept = sorted((tmp_path / "cache" / "augment").iterdir())
    assert len(kept) == -(-(len(first.texts["train"]) * 2 // 3) // copies.CHUNK) and all(p.suffix == ".json" for p in kept)
    kept[0].write_text("[")                                              # damaged: made again
    assert corpora(tmp_path, chain, 2)[1].texts == first.texts and 0 < len(module.calls) <= copies.CHUNK
    module.calls.clear()
    (tmp_path / "counting.py").write_text("# other code\n" + (tmp_path / "counting.py").read_text())
    corpora(tmp_path, chain, 2)
    assert module.calls


# ---- runs
@pytest.mark.slow   # the copies' digest is what differs from other runs, which are killed in test_resume
def test_a_killed_run_ends_as_the_whole_one(tmp_path, node):
    words = lambda name: command(tmp_path, tmp_path / name, "augment=[swap,deletion]", "data.copies=1", "epochs=1")  # noqa: E731
    run("experiments.train", *words("whole"))
    out = run("tests.killer", json.dumps(["step 5", None]), *words("killed")).stdout
    assert "signal 9" in out
    same(everything(tmp_path / "whole"), everything(tmp_path / "killed"))
    kept = json.loads((tmp_path / "whole" / "data.json").read_text())
    assert kept["copies"]["rows"] == kept["train"] and kept["copies"]["changed by"]["swap"] > 0.5 * kept["train"]
    (tmp_path / "whole" / "summary.json").unlink()
    kept["copies"]["sha256"] = "0"
    (tmp_path / "whole" / "data.json").write_text(json.dumps(kept))
    refused = run("experiments.train", *words("whole"), check=False)
    assert refused.returncode == 2 and "was begun with other copies of its texts" in refused.stderr


def test_a_run_folder_never_brings_code(tmp_path, node, monkeypatch):
    """Training imports the function its own config names; evaluating and predicting from the folder don't."""
    marker = tmp_path / "imported"
    (tmp_path / "theirs.py").write_text(f"open({str(marker)!r}, 'a').close()\ndef turn(text):\n    return text + ' again'\n")
    monkeypatch.syspath_prepend(tmp_path)
    words = command(tmp_path, tmp_path / "run", "augment=[back_translation]", "data.copies=1", "steps=2",
                    "data.augment.back_translation.function=theirs:turn")
    assert call("train", *words) == 0 and marker.exists()
    marker.unlink()
    monkeypatch.delitem(sys.modules, "theirs")
    assert call("evaluate", f"run_dir={tmp_path / 'run'}", "split=test") == 0
    assert call("predict", f"run_dir={tmp_path / 'run'}", f"input={tmp_path / 'reviews.csv'}", f"output={tmp_path / 'o.csv'}") == 0
    build.rebuild(*saved.opened(str(tmp_path / "run")))
    assert not marker.exists()


# ---- bad input
WRONG = {
    "synonym": ({"lexicon": "no.tsv"}, "data.augment.synonym: lexicon: no file at no.tsv or {root}/no.tsv"),
    "ppdb": ({"common": "no.txt"}, "data.augment.ppdb: common: no file at no.txt"),
    "deletion": ({"alpha": "x"}, "data.augment.deletion.alpha is 'x', expected a number"),
    "swap": ({"rate": 0.1}, "data.augment.swap.rate is not a key of Swap"),
    "masked_lm": ({"checkpoint": "no/where/at/all"}, "data.augment.masked_lm: checkpoint: no/where/at/all is no folder"),
    "masked_lm 1": ({"checkpoint": f"{GOLDEN}/bert/sequence_classification"}, "has no masked-LM head"),
    "masked_lm 2": ({"checkpoint": None}, "data.augment.masked_lm: checkpoint is not set"),
    "masked_lm 3": ({"temperature": -1.0}, "data.augment.masked_lm: temperature -1.0 must be at least 0"),
    "back_translation": ({"function": "no_such_module:turn"}, "function: 'no_such_module:turn' can't be imported"),
    "back_translation 1": ({"function": "turning:no"}, "function: 'turning:no' can't be imported"),
    "back_translation 2": ({"function": "turning"}, "function: 'turning' can't be imported as package.module:name"),
    "back_translation 3": ({"function": "sys:path"}, "function: sys:path is no function"),
    "back_translation 4": ({"function": "builtins:len"}, "function: builtins:len gave int for 'a nice"),
}


@pytest.mark.parametrize("case", WRONG)
def test_bad_input_in_one_sentence(case, tmp_path, node):
    name = case.split()[0]
    with pytest.raises(InputError) as error:
        corpora(tmp_path, {name: node(name) | WRONG[case][0]})
    assert WRONG[case][1].format(root=tmp_path) in str(error.value) and "\n" not in str(error.value), error.value


def test_pairs_are_refused(tmp_path, node):
    with pytest.raises(InputError, match="data.augment changes single texts, not pairs"):
        text("a.csv", augment={"swap": node("swap")}, text_pair_column="other")
    with pytest.raises(InputError, match="data.copies 0 is too small"):
        text("a.csv", copies=0)


@pytest.mark.parametrize("words,sentence", [
    (["experiment=pretrain_contrastive", "task=simcse", "data=reviews_text", "augment=[swap]"], "tells the texts of a batch apart"),
    (["augment=[synonym]"], "data.augment.synonym.lexicon is not set"),
    (["augment=[swap]", "data.augment.swap.alpha=much"], "data.augment.swap.alpha is 'much', expected a number"),
    (["data.augment=swap"], "data.augment is 'swap', expected sections of the config")])
def test_commands_refuse(words, sentence, tmp_path, capsys):
    assert call("train", *words, f"run_dir={tmp_path / 'run'}") == 2
    said = capsys.readouterr().err
    assert sentence in said and said.count("\n") == 1, said


def test_order_is_that_of_the_command_line():
    assert [*world.composed("augment=[swap,deletion,crop]")["data"]["augment"]] == ["swap", "deletion", "crop"]
    assert [*world.composed("augment=[crop,swap]", "experiment=department")["data"]["augment"]] == ["crop", "swap"]
    assert world.composed()["data"]["augment"] == {}
    found = world.composed("augment=[masked_lm]", "model.checkpoint=a/b")["data"]["augment"]["masked_lm"]
    assert found["checkpoint"] == "a/b"
