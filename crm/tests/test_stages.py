"""The CRM's stages and ours: the default table, the forecast type above all names."""

from __future__ import annotations

import pytest

from crm import stages
from crm.stages import (
    LOST,
    OPEN,
    WON,
    StageMeaning,
    StageRow,
    StageTable,
    default_meaning,
    default_table,
)

# RULES 3: CRM stage, ours, default percent.
TABLE = [
    ("Qualification", "qualification", 10),
    ("Needs Analysis", "discovery", 20),
    ("Value Proposition", "discovery", 40),
    ("Identify Decision Makers", "discovery", 60),
    ("Proposal/Price Quote", "proposal", 75),
    ("Negotiation/Review", "negotiation", 90),
    ("Closed Won", "closed_won", 100),
    ("Closed Lost", "closed_lost", 0),
]


@pytest.mark.parametrize(("name", "ours", "percent"), TABLE)
def test_the_default_table_is_that_of_the_specification(name: str, ours: str, percent: int) -> None:
    meaning = default_table().meaning(name)
    assert (meaning.ours, meaning.probability, meaning.is_known) == (ours, percent, True)
    expected = {"closed_won": WON, "closed_lost": LOST}.get(ours, OPEN)
    assert meaning.type == expected


@pytest.mark.parametrize(
    ("name", "forecast", "percent", "expected"),
    [
        # by the forecast type, never by name or probability
        ("Qualification", "Closed Won", 10, StageMeaning("closed_won", WON, 100, True)),
        ("Closed Won", "Open", 100, StageMeaning("other", OPEN, 100, True)),
        ("Closed Lost", "Open", 0, StageMeaning("other", OPEN, 0, True)),
        ("Gewonnen", "Closed Won", 40, StageMeaning("closed_won", WON, 100, True)),
        ("Abgesagt", "closed lost", 90, StageMeaning("closed_lost", LOST, 0, True)),
        ("Almost there", "Open", 100, StageMeaning("other", OPEN, 100, True)),
        ("Proposal/Price Quote", "Open", 70, StageMeaning("proposal", OPEN, 70, True)),
        ("Proposal/Price Quote", None, None, StageMeaning("proposal", OPEN, 75, True)),
        ("Closed Won", None, None, StageMeaning("closed_won", WON, 100, True)),
        ("New idea", None, None, StageMeaning("other", OPEN, None, True)),
        ("New idea", "", 0, StageMeaning("other", OPEN, 0, True)),
    ],
)
def test_metadata_decides_before_the_table(
    name: str, forecast: str | None, percent: int | None, expected: StageMeaning
) -> None:
    assert default_meaning(name, name, forecast, percent) == expected


def test_row_62_a_renamed_stage_is_found_by_its_shown_and_its_actual_name() -> None:
    meaning = default_meaning("Qualification", "First talk", "Open", 10)
    table = StageTable([StageRow("Qualification", "First talk", meaning)])
    assert table.meaning("First talk").ours == "qualification"
    assert table.meaning("Qualification").ours == "qualification"


def test_a_shown_name_wins_over_the_actual_name_of_another_stage() -> None:
    swapped = [
        StageRow("A", "B", StageMeaning("proposal", OPEN, 1, True)),
        StageRow("B", "C", StageMeaning("negotiation", OPEN, 2, True)),
    ]
    for rows in (swapped, swapped[::-1]):
        assert StageTable(rows).meaning("B").ours == "proposal"
        assert StageTable(rows).meaning("C").ours == "negotiation"


def test_row_62_a_stage_is_found_by_the_names_it_was_shown_by_before() -> None:
    lost = StageMeaning("closed_lost", LOST, 0, True)
    table = StageTable([StageRow("Lost 1", "Lost 3", lost, former=("Lost 1", "Lost 2"))])
    assert {table.meaning(f"Lost {n}") for n in (1, 2, 3)} == {lost}


def test_a_stage_in_use_wins_over_one_that_no_longer_is() -> None:
    old = StageRow("A", "Talks", StageMeaning("discovery", OPEN, 20, True), in_use=False)
    new = StageRow("B", "Talks", StageMeaning("negotiation", OPEN, 90, True))
    renamed = StageRow("C", "Now", StageMeaning("proposal", OPEN, 75, True), former=("Talks",))
    for rows in ([old, new], [new, old], [renamed, new], [new, renamed]):
        assert StageTable(rows).meaning("Talks").ours == "negotiation"
    for rows in ([old, renamed], [renamed, old]):
        assert StageTable(rows).meaning("Talks").ours == "proposal"


@pytest.mark.parametrize("name", ["Verbal Agreement", "", None, "qualification"])
def test_row_62_an_unknown_stage_is_other_and_open(name: str | None) -> None:
    meaning = default_table().meaning(name)
    assert meaning == StageMeaning("other", OPEN, None, False)
    assert meaning.ours in stages.OPEN_STAGES


def test_every_stage_of_ours_has_a_label() -> None:
    assert set(stages.LABELS) == set(stages.STAGES)
    assert len(stages.STAGES) == 7
