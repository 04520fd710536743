"""Every shipped table: its rows compose, fit together, name a baseline, and say where published numbers come from."""

import pytest

from experiments import rows, wiring
from tests import world


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
