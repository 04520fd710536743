"""Every shipped table: its rows compose, fit together, name a baseline, and say where published numbers come from."""

import random
import subprocess
import sys

import pytest

from experiments import rows, wiring
from tests import world
from tests.test_commands import call, rows_word
from tests.test_resume import ROOT, command, environment


@pytest.mark.parametrize("name", world.names("table"))
def test_rows(name):
    table = world.composed(f"table={name}", name="table")["table"]
    made = rows.rows_of(table)
    assert len(table["seeds"]) >= 2 and table["title"]
    assert any(row["command"] == "baseline" for row in made), "no honest baseline"
    for row in made:
        config = world.composed(*row["overrides"], name=row["command"])
        wiring.plan_of(config)
        if row["command"] == "train":
            wiring.check(config)
        for about in (row.get("published") or {}).values():
            assert about["source"].split()[-1] and 0 < about["value"] < 1


def test_the_text_tables_are_there():
    """One of each data set with published numbers, and those of this project's own questions."""
    assert set(world.names("table")) >= {"quickstart", "heads", "adaptation", "augmentation", "sst2", "sst5", "trec", "clothing",
                                         "financial_sentiment", "chinese_sentiment", "banking77"}


def test_processes_side_by_side(tmp_path, capfd):
    """Hydra's joblib launcher makes the rows in two workers; an error stays with its row."""
    made = [{"name": name, "command": "baseline", "seeds": [0], "overrides": ["experiment=sentiment", f"baseline={name}", more]}
            for name, more in (("majority", "data.limit=200"), ("tfidf", "data.test_fraction=2"))]
    words = ["table=quickstart", rows_word(made), f"out={tmp_path / 'table'}", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    assert call("table", *words) == 1
    text = (tmp_path / "table" / "table.md").read_text()
    assert "| majority | 1 | [0.8" in text and "| tfidf | 0 | data.valid_fraction and data.test_fraction must" in text
    assert "[2/2] tfidf, seed 0: data.valid_fraction and data.test_fraction" in capfd.readouterr().out


def numbers(folder):
    """A table's numbers, without the folders of its runs."""
    return [line.rsplit(",", 1)[0] for line in (folder / "table.csv").read_text().splitlines()]


@pytest.mark.slow
def test_killed_and_started_again(tmp_path):
    """Two rows of three seeds, one from the other, killed at random moments until done: the numbers of one go."""
    small = [word for word in command(tmp_path, "")[:-1] if not word.startswith("last")]
    made = [{"name": "first", "overrides": [*small, "seed=0"]}, {"name": "from it", "from": "first", "overrides": [*small]}]
    words = lambda out: [sys.executable, "-m", "experiments.table", "table=quickstart", "seeds=3", rows_word(made),  # noqa: E731
                         f"out={tmp_path / out}"]
    subprocess.run(words("whole"), cwd=ROOT, env=environment(), check=True, capture_output=True)
    rng, kills = random.Random(3), 0
    while True:
        child = subprocess.Popen(words("killed"), cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            assert child.wait(rng.uniform(8, 40)) == 0
            break
        except subprocess.TimeoutExpired:
            (child.kill if rng.random() < 0.5 else child.terminate)()
            child.wait()
            kills += 1
    print(f"killed {kills} times")
    assert kills >= 2 and numbers(tmp_path / "killed") == numbers(tmp_path / "whole")
    assert sum('from it' in line for line in numbers(tmp_path / "whole")) == 2
