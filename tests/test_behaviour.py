"""Logs of behaviour as windows of tokens: covered once and in order, cut where they may be, split by user."""

import hashlib
import json
from collections import Counter

import numpy as np
import pandas as pd
import pytest

from ecrec_jax import build, source
from ecrec_jax.data import leak, tokenise
from ecrec_jax.data.vocabulary import SPECIAL, learn
from ecrec_jax.section import make
from ecrec_jax.types import Facts, InputError
from tests.test_commands import TINY, call
from tests.test_data import write
from tests.world import section_of

ENGLISH = str(build.ASSETS / "bert_uncased")
KINDS = ("browse", "click", "favourite", "cart", "purchase", "review", "search")
RETAIL = build.ASSETS / "online_retail.parquet"


def behaviour(path, **changes):
    """conf/data/behaviour.yaml as an object, with some keys changed."""
    return make(section_of("data", "behaviour") | {"path": path and str(path), "root": "data"} | changes, "data", Facts())


def load(path, max_length=128, tokenizer=ENGLISH, **changes):
    return behaviour(path, **changes).load(tokenizer, max_length)


def spelled(corpus, tokenizer=ENGLISH):
    """(row of its first event, pieces) of every window, splits one after the other."""
    words = tokenise.load(tokenizer)
    return [(example.index, words.convert_ids_to_tokens(example.tokens.tolist()))
            for examples in corpus.examples.values() for example in examples]


def log(rng, rows=900, users=23):
    """Rows of a made-up log, by user in no order; many times are equal, some rows lack user or text; every text is another."""
    made, visit = [], dict.fromkeys(range(users), 0)
    for i in range(rows):
        user = int(rng.integers(users)) ** 2 // users   # some have many
        visit[user] += rng.random() < 0.3
        made.append({"user": "" if rng.random() < 0.03 else f"u{user}", "time": f"2024-05-{rng.integers(1, 9):02}",
                     "event": str(rng.choice(KINDS)), "visit": f"{user}.{visit[user]}",
                     "text": " " if rng.random() < 0.03 else " ".join(["red"] * int(rng.integers(0, 5)) + [f"{i:04}"])})
    return made


@pytest.mark.parametrize("session", [None, "visit"])
@pytest.mark.parametrize("seed", range(3))
def test_windows_cover_each_users_events_once_and_in_order(seed, session, tmp_path):
    rows = log(np.random.default_rng(seed))
    corpus = load(write(tmp_path / "a.csv", rows), 24, session_column=session)
    found, owner, room = {}, {}, 23
    for split, examples in corpus.examples.items():
        for example, text in zip(examples, corpus.texts[split], strict=True):
            assert len(example.tokens) == len(example.type) == len(example.word) <= 24 and not example.type.any()
            numbers = [int(word) for word in text.split() if word.isdigit()]
            assert example.index == numbers[0]
            user = rows[numbers[0]]["user"]
            assert owner.setdefault(user, split) == split   # nobody is in two splits
            found.setdefault(user, []).append((numbers, len(example.tokens)))
    order = sorted((i for i, row in enumerate(rows) if row["user"] and row["text"].strip()),
                   key=lambda i: (rows[i]["time"], i))
    words, cut = tokenise.load(ENGLISH), 0
    for user, windows in found.items():
        kept = [i for i in order if rows[i]["user"] == user]
        assert [i for numbers, _ in windows for i in numbers] == kept
        visits = np.cumsum([0] + [bool(session) and rows[a]["visit"] != rows[b]["visit"] for a, b in
                                  zip(kept[:-1], kept[1:], strict=True)])
        last = [kept.index(numbers[-1]) for numbers, _ in windows]
        for (_, before), (after, _), place in zip(windows[:-1], windows[1:], last[:-1], strict=True):
            members = [kept[k] for k in np.flatnonzero(visits == visits[place + 1])]
            texts = [f"{rows[i]['event']} {rows[i]['text']}" if said else rows[i]["text"] for i, said in
                     zip(members, [True, *(rows[a]["event"] != rows[b]["event"] for a, b in
                                           zip(members[:-1], members[1:], strict=True))], strict=True)]
            size = sum(len(words.tokenize(text)) + 1 for text in texts)
            if visits[place] == visits[place + 1]:   # cut inside of a session: it is too long, and no event more had room
                said = rows[after[0]]["event"] != rows[kept[place]]["event"]
                following = f"{rows[after[0]]['event']} " * said + rows[after[0]]["text"]
                assert size > room and before + len(words.tokenize(following)) + 1 > 24
                cut += 1
            else:                                    # cut between sessions: the next one had no room
                assert before + size > 24
    assert set(owner.values()) == {"train", "valid", "test"} and cut > 0
    assert sum(len(kept) for windows in found.values() for kept, _ in windows) == len(order) == corpus.report["events"]


def test_tokens_and_words_are_those_of_the_texts(tmp_path):
    """What the windows hold is what the tokenizer makes of each event alone, between [CLS] and [SEP]."""
    corpus = load(write(tmp_path / "a.csv", log(np.random.default_rng(5))), 40, session_column="visit")
    texts = [text for side in corpus.texts.values() for text in side]
    examples = [example for side in corpus.examples.values() for example in side]
    alone = tokenise.tokenise(ENGLISH, texts, None, 512)
    for i, example in enumerate(examples):
        inner, (whole, _) = example.word >= 0, alone[i]
        assert example.tokens[inner].tolist() == whole[1:-1].tolist()
        assert np.diff(example.word[inner]).tolist() == np.diff(alone.example(i, 0).word[1:-1]).tolist()
        assert example.tokens[~inner].tolist() == [101] + [102] * int((~inner).sum() - 1) and example.tokens[-1] == 102
        assert (~inner).sum() - 1 == sum(word.isdigit() for word in texts[i].split())
    counted = np.bincount(np.concatenate([example.tokens for example in corpus.examples["train"]]))
    assert corpus.facts == {"token_counts": tuple(counted)}


TINY_LOG = [("b", "3", "cart", "blue hat", "v1"), ("a", "2", "click", "red dress", "v1"), ("a", "2", "click", "hat", "v1"),
            ("a", "1", "search", "dress", "v0"), ("b", "4", "cart", "shoe", "v2"), ("", "5", "click", "hat", "v1"),
            ("a", "10", "cart", "hat", "v3"), ("a", "3", "cart", "red dress", "v1"), ("b", "9", "click", "", "v2")]


def test_golden_of_a_tiny_log(tmp_path):
    """With their [SEP]s, b's visits have 4 and 3 tokens, a's have 3 (v0), 4 + 2 + 4 (v1) and 3 (v3); [CLS] is one more. So v0 and
    v1 share a window of 14 tokens, but not of 13, where v1 and v3, again 14, don't fit either; v1 alone is too long for 9."""
    pieces = str.split
    rows = [dict(zip(("user", "time", "event", "text", "visit"), row, strict=True)) for row in TINY_LOG]
    given = {"session_column": "visit", "valid_fraction": 0.0, "test_fraction": 0.0}
    path = write(tmp_path / "a.csv", rows)
    first, end = "[CLS] search dress [SEP]", (6, pieces("[CLS] cart hat [SEP]"))
    visit = "click red dress [SEP] hat [SEP] cart red dress [SEP]"
    b = (0, pieces("[CLS] cart blue hat [SEP] cart shoe [SEP]"))
    assert spelled(load(path, 14, **given)) == [b, (3, pieces(f"{first} {visit}")), end]
    assert spelled(load(path, 13, **given)) == [b, (3, pieces(first)), (1, pieces(f"[CLS] {visit}")),
                                                end]
    cut = ["[CLS] click red dress [SEP] hat [SEP]", "[CLS] cart red dress [SEP] cart hat [SEP]"]   # v1 has 10, room is 8
    corpus = load(path, 9, **given)
    assert spelled(corpus) == [b, (3, pieces(first)), (1, pieces(cut[0])), (7, pieces(cut[1]))]
    assert corpus.texts["train"] == ["cart blue hat cart shoe", "search dress", "click red dress hat", "cart red dress cart hat"]
    assert corpus.report | {"rows": 9, "dropped without user": 1, "dropped without text": 1, "users": 2, "events": 7, "sessions": 5,
                            "windows": 4, "train": 4, "valid": 0, "test": 0, "events truncated": 0} == corpus.report
    short = load(path, 4, **given)   # [CLS] kind text [SEP]: one token is left for a text
    assert all(len(window) == 4 for _, window in spelled(short)) and short.report["events truncated"] == 3
    whole = spelled(load(path, 20, **given | {"session_column": None}))   # no visits: the kind is said where it changes
    assert whole == [(0, pieces("[CLS] cart blue hat [SEP] shoe [SEP]")), (3, pieces(f"{first} {visit} hat [SEP]"))]


def test_order_of_times(tmp_path):
    """Numbers by size, dates of any zone by instant, a format of one's own; equal ones by row."""
    given = {"valid_fraction": 0.0, "test_fraction": 0.0, "event_column": None}
    for cells, wanted, form in (
            (["10", "9", "9", "-1.5"], "3 1 2 0", None),
            (["2024-01-02", "2024-01-01T23:30:00+01:00", "2024-01-01 22:45", "2024-01-01T22:30:00Z"], "1 3 2 0", None),
            (["01.02.2024", "02.01.2024", "31.12.2023", "02.01.2024"], "2 1 3 0", "%d.%m.%Y")):
        rows = [{"user": "a", "time": cell, "text": str(i)} for i, cell in enumerate(cells)]
        corpus = load(write(tmp_path / "a.csv", rows), time_format=form, **given)
        assert corpus.texts["train"] == [f"purchase {wanted}"]


def test_items_keep_their_most_frequent_text(tmp_path):
    texts = ["Mug", "mug, white", "mug, white", "damaged", "lamp", "Lamp", "", "what a mug"]
    rows = [{"user": "a", "time": str(i), "item": item, "text": text, "query": query} for i, (item, text, query) in enumerate(
        zip(["1", "1", "1", "1", "2", "2", "1", ""], texts, ["", "", "", "", "", "good", "my query", ""], strict=True))]
    rows[3]["item"] = "x1"
    corpus = load(write(tmp_path / "a.csv", rows), event_column=None, item_column="item", text_column=["text", "query"],
                  valid_fraction=0.0, test_fraction=0.0, drop={"item": "x.*"})
    white = "mug, white"
    assert corpus.texts["train"] == [f"purchase {white} {white} {white} lamp lamp good my query what a mug"]
    assert corpus.report["dropped by item"] == 1


def test_chinese_with_seven_kinds(tmp_path):
    """Kinds and texts in Chinese, a vocabulary of their own, words by white space and character."""
    chinese = dict(zip(KINDS, ("浏览", "点击", "收藏", "加购", "购买", "评价", "搜索"), strict=True))
    items = ["红色连衣裙", "白色衬衫", "运动鞋", "很喜欢", "连衣裙 夏"]
    rows = [{"user": f"用户{i % 6}", "time": f"2024-06-{1 + i // 6:02}", "event": KINDS[i % 7], "text": items[i % 5]}
            for i in range(84)]
    path = write(tmp_path / "日志.csv", rows)
    pieces = learn(load(path, kinds=chinese).texts["train"], 60, True)
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    (tmp_path / "words" / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    found = spelled(load(path, kinds=chinese, tokenizer=str(tmp_path / "words")), str(tmp_path / "words"))
    assert pieces[:5] == list(SPECIAL) and sorted(index for index, _ in found) == list(range(6))
    for index, window in found:
        mine = rows[index::6]
        events = "".join(f"{chinese[row['event']]}{row['text'].replace(' ', '')}[SEP]" for row in mine)
        assert "".join(window) == f"[CLS]{events}" and window[1:3] == list(chinese[mine[0]["event"]])


def test_a_vocabulary_has_at_most_so_many_pieces():
    """Characters that stand inside of words only are pieces of their own too."""
    with pytest.raises(InputError, match="special tokens are 20: choose more"):
        learn(["abcdefgh"] * 3, 13, True)
    assert [len(learn(["abcdefgh"] * 3, size, True)) for size in (20, 24)] == [20, 24]


def test_two_codes_of_one_word_are_one_kind(tmp_path):
    """It is said where it changes."""
    rows = [{"user": "u", "time": f"2024-06-0{1 + i}", "event": ("pv", "view", "buy")[i % 3], "text": "hat"} for i in range(6)]
    path = write(tmp_path / "a.csv", [row | {"user": f"u{u}"} for u in range(9) for row in rows])
    found = spelled(load(path, kinds={"pv": "browse", "view": "browse", "buy": "purchase"}))
    assert found and all(window.count("brows") == window.count("purchase") == 2 for _, window in found)


def test_shares_and_limits(tmp_path):
    path = write(tmp_path / "a.csv", log(np.random.default_rng(1)))
    whole = load(path, 24)
    part = load(path, 24, train_fraction=0.5, limit=9)
    assert {name: len(part.examples[name]) for name in part.examples} == dict.fromkeys(part.examples, 9)
    for name in part.examples:
        assert {e.index for e in part.examples[name]} < {e.index for e in whole.examples[name]}
    half = load(path, 24, train_fraction=0.5)
    assert len(half.examples["train"]) == round(len(whole.examples["train"]) / 2)
    assert spelled(load(path, 24)) == spelled(whole) != spelled(load(path, 24, split_seed=1))


def retail():
    """UCI Online Retail by pandas alone: (rows that should be left, how many each rule takes, in its order)."""
    table = pd.read_parquet(RETAIL)
    counts = {}
    for name, bad in (("without user", lambda t: t.CustomerID.isna()), ("without text", lambda t: t.Description.isna()),
                      ("by InvoiceNo", lambda t: t.InvoiceNo.str.startswith("C")), ("by Quantity", lambda t: t.Quantity <= 0),
                      ("by StockCode", lambda t: ~t.StockCode.str.contains(r"^\d{5}|^PADS$|^DCGS"))):
        mask = bad(table)
        counts[name], table = int(mask.sum()), table[~mask]
    return table, counts


def test_online_retail():
    assert hashlib.sha256(RETAIL.read_bytes()).hexdigest() == "0a3bc1acf50608cb76604364a49626e1a9b9b8bb7f7bdb95b05ce72427b2187f"
    table, counts = retail()
    corpus = make(section_of("data", "online_retail") | {"root": "data"}, "data", Facts()).load(ENGLISH, 128)
    report = corpus.report
    assert {name: report[f"dropped {name}"] for name in counts} == counts and counts["without user"] == 135080
    assert report["rows"] == 541909 and report["events"] == len(table) == 541909 - sum(counts.values())
    assert report["users"] == table.CustomerID.nunique() and report["sessions"] == table.InvoiceNo.nunique()
    assert report["windows"] == sum(map(len, corpus.examples.values())) and report["events truncated"] == 0
    table = table.assign(text=table.Description.str.split().str.join(" "))
    most = table.groupby("StockCode").text.agg(lambda texts: Counter(texts).most_common(1)[0][0])
    assert report["distinct texts"] == most.nunique() < table.text.nunique()
    owner = {}
    rows, events = pd.read_parquet(RETAIL, columns=["CustomerID"]).CustomerID, 0
    for name, examples in corpus.examples.items():
        assert all(owner.setdefault(rows[example.index], name) == name for example in examples)
        events += sum(int((example.tokens == 102).sum()) for example in examples)
    assert events == len(table) and len(owner) == report["users"]
    assert report["users by split"] == dict(Counter(owner.values())) == {"train": 3034, "valid": 434, "test": 867}
    customer = table[table.CustomerID == rows[0]].sort_values("InvoiceDate", kind="stable")
    assert corpus.texts["train"][0].startswith(f"purchase {' '.join(most[code] for code in customer.StockCode[:7])} purchase ")


@pytest.mark.parametrize("changes,said", [
    ({"user_column": "who"}, "data.user_column: PATH has no column 'who'"), ({"drop": {"who": "x"}}, "data.drop.who: PATH has no"),
    ({"kinds": {"click": "click"}}, "PATH, line 4: event 'cart' is none of click (data.kinds)"),
    ({"time_column": "text"}, "PATH, line 2: time 'hat' is not a date of ISO 8601"),
    ({"time_format": "%d.%m"}, "PATH, line 2: time '1' is not a date like %d.%m"),
    ({"time_column": "late"}, "PATH, line 3: time 'soon' is not a number"),
    ({"time_column": "none"}, "PATH, line 3: time '' is not a number"),
    ({"event_column": "none"}, "PATH, line 3: no event in column 'none'"),
    ({"drop": {"text": "("}}, "data.drop.text: '(' is not a regular expression"),
    ({"drop": {"text": 3}}, "data.drop"), ({"drop": {"user": ".*"}}, "PATH: no usable row (3 by user)"),
    ({"path": None}, "data.path is not set"), ({"limit": 0}, "data.limit 0 is too small"),
    ({"event_column": None, "event": "a gift card"}, "data.max_length 5 leaves no room for a text beside its kind"),
    ({"valid_fraction": 0.4, "test_fraction": 0.5}, "PATH: no user is left to train on (1 in all)"),
])
def test_bad_input(changes, said, tmp_path):
    rows = [{"user": "a", "time": "1", "event": "click", "text": "hat", "late": "1", "none": "1"},
            {"user": "a", "time": "2", "event": "click", "text": "hat", "late": "soon", "none": ""},
            {"user": "a", "time": "3", "event": "cart", "text": "hat", "late": "2", "none": "3"}]
    path = write(tmp_path / "a.csv", rows)
    with pytest.raises(InputError) as error:
        load(**{"path": path, "max_length": 5} | changes)
    assert said.replace("PATH", str(path)) in str(error.value) and "\n" not in str(error.value)


def test_commands_on_a_log(tmp_path, capsys):
    """Trained masked and causal, evaluated again, exported, and trained further with no user of test seen."""
    path = write(tmp_path / "a.csv", log(np.random.default_rng(2)))
    own = ["data=behaviour", f"data.path={path}", "data.session_column=visit", "tracker=[jsonl]", "steps=3", *TINY]
    run = tmp_path / "run"
    assert call("train", "experiment=pretrain_behaviour", *own, "task.unit=word", f"run_dir={run}") == 0
    summary, facts = json.loads((run / "summary.json").read_text()), source.load_facts(run)
    assert summary["steps"] == 3 and facts.vocabulary == 30522 and json.loads((run / "data.json").read_text())["rows"] == 900
    capsys.readouterr()
    assert call("evaluate", f"run_dir={run}", "split=test") == 0
    again = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert again["test/loss"] == pytest.approx(summary["test/loss"], abs=1e-5) and 0 <= again["test/accuracy"] <= 1
    assert call("export", f"run_dir={run}", "format=hf", f"out={tmp_path / 'out'}") == 0
    assert call("predict", f"run_dir={run}", f"input={path}", f"output={tmp_path / 'new.csv'}") == 2
    assert "a run of MaskedLM has nothing to predict" in capsys.readouterr().err
    kinds = ", ".join(f'{kind}: "{word}"' for kind, word in zip(KINDS, "览点藏加购评搜", strict=True))
    causal = ["task=causal_lm", "model.causal=true", f"data.kinds={{{kinds}}}", f"run_dir={tmp_path / 'causal'}"]
    assert call("train", "experiment=pretrain_behaviour", *own, *causal) == 0
    tuned = ["model=bert", f"model.checkpoint={run}", "data.max_length=32", "tracker=[jsonl]", "steps=1", *own[:3]]
    for seed, leaked in ((0, False), (1, True)):
        folder = tmp_path / f"tuned{seed}"
        assert call("train", "experiment=pretrain_behaviour", *tuned, f"data.split_seed={seed}", f"run_dir={folder}") == 0
        assert bool(json.loads((folder / "summary.json").read_text()).get("leaked")) is leaked
    assert len(leak.known(tmp_path / "tuned0")) and call("vocabulary", *own[:2], "size=99", f"out={tmp_path / 'words'}") == 0
    assert {"purchase", "red"} <= set((tmp_path / "words" / "vocab.txt").read_text().split())
    assert call("baseline", "experiment=pretrain_behaviour", *own[:2], f"run_dir={tmp_path / 'base'}") == 2
    assert "a baseline needs labels" in capsys.readouterr().err
