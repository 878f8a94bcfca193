from __future__ import annotations

import csv
import io

import pytest

from maskrcnn.viz.tables import WIDEST, Table, aligned, in_markdown

HOSTILE = '<script>alert("1")</script> | \n Ä'


def test_columns_are_set_by_what_they_hold() -> None:
    table = Table(("class", "kind", "n"), [("disc", "round", "3"), ("a", "b", "12")], "Counts", left=(0, 1))
    assert table.text().splitlines() == [
        "Counts",
        "class  kind    n",
        "disc   round   3",
        "a      b      12",
    ]
    assert table.markdown().splitlines() == [
        "**Counts**",
        "",
        "| class | kind | n |",
        "|---|---|---:|",
        "| disc | round | 3 |",
        "| a | b | 12 |",
    ]
    assert table.comma_separated() == "class,kind,n\ndisc,round,3\na,b,12\n"


def test_groups_stand_over_their_columns_and_empty_rows_are_gaps() -> None:
    table = Table(
        ("op", "px", "IoU", "px", "IoU"), [("a", "1", "2", "3", "4"), (), ("b", "5", "6", "7", "8")]
    )
    plain = table.text().splitlines()
    assert plain[2] == ""
    grouped = Table(table.head, table.rows, groups=[("", 1), ("all", 2), ("small", 2)]).text().splitlines()
    assert grouped[1:] == plain
    for name in ("all", "small"):
        end = grouped[0].index(name) + len(name)
        assert grouped[1][:end].endswith("IoU")
    assert len(table.markdown().splitlines()) == 4 and len(table.comma_separated().splitlines()) == 3


def test_names_of_any_kind_stay_in_their_cell() -> None:
    names = [HOSTILE, "x" * 300, "漢字", "e\u0301a", "\x1b[31mred"]
    table = Table(("name", "n"), [(name, "1") for name in names], HOSTILE)
    lines = table.text().splitlines()
    assert len(lines) == 2 + len(names) and "\x1b" not in table.text()
    assert len(lines[3]) <= WIDEST + 10 and " ... " in lines[3]
    # The figures stand below each other on a terminal: wide characters take two places, accents none.
    wide, accented, plain = lines[4], lines[5], lines[1]
    assert len(plain) == len(wide) + 2 == len(accented) - 1
    for row in table.markdown().splitlines()[2:]:
        assert row.replace("\\|", "").count("|") == 3
        assert "<" not in row
    assert [r[0] for r in csv.reader(io.StringIO(table.comma_separated()))][1:] == names


def test_lines_of_columns_keep_what_they_are_given() -> None:
    assert aligned([("a", "1"), ("long", "22"), ("b",)]) == ["a      1", "long  22", "b"]
    assert aligned([]) == []


@pytest.mark.parametrize(
    ("text", "set_as"), [("a|b", "a\\|b"), ("<b>", "&lt;b>"), ("a\nb", "a b"), ("ä", "ä")]
)
def test_text_in_markdown(text: str, set_as: str) -> None:
    assert in_markdown(text) == set_as
