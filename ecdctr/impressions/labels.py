"""Labels of a log that are none: which there are, where, and a rule that makes labels of them.

A label is 0 or 1, true or false. Other words, such as yes and f, are never guessed.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

import duckdb

from ecdctr.errors import ContractError
from ecdctr.files.duck import literal, one_row
from ecdctr.impressions.column_types import NOTHING
from ecdctr.impressions.locate import RECORD, numbered
from ecdctr.impressions.mapped_rows import DOMAINS, view_of

if TYPE_CHECKING:
    from ecdctr.impressions.mapped_rows import Staged
    from ecdctr.impressions.mapping import Mapping
    from ecdctr.impressions.tables import TableFile

TOLD = 6  # values in one sentence
LOOKED_AT = 1_000  # values, the most frequent ones
NAME = re.compile(r'[\w.]+|"[^"]+"')
CLICKED = ("t", "yes", "y", "on")  # beside 1 and true
NOT_CLICKED = ("f", "no", "n", "off")
SAYS_NOTHING = NOTHING | {""}  # as text of Parquet may be
A_TIME = re.compile(r"\d{4}-\d\d-\d\d")


class NoLabel(NamedTuple):
    """A value that is no label, and the file in which it stands first."""

    value: str | None
    rows: int
    file: TableFile


def refuse_labels(db: duckdb.DuckDBPyConnection, mapping: Mapping, staged: Staged) -> None:
    """Raise ContractError where labels of a file are none, with those of the files after it, too.

    The sentence names the values, where each stands first, and a rule for all of them.
    """
    no_labels = _no_labels(db, staged)
    if not no_labels:
        return
    told = sorted(no_labels, key=lambda one: (-one.rows, one.value or ""))[:TOLD]
    places = _places(db, mapping, staged, told)
    listed = ", ".join(
        f"{_shown(one.value)} ({one.rows:,} rows, first in {places[one.value]})" for one in told
    )
    more = " and others" if len(no_labels) > TOLD else ""
    raise ContractError(
        f"{staged.path}: click is {listed}{more}, expected 0 or 1, true or false; write a rule in "
        f"the mapping, such as click: {_rule(mapping, [one.value for one in no_labels])}."
    )


def _no_labels(db: duckdb.DuckDBPyConnection, staged: Staged) -> list[NoLabel]:
    """Return the values of a file, and where it has some of the later files, that are no labels."""
    by_value: dict[str | None, NoLabel] = {}
    for value, rows in _odd(db, staged.rows):
        by_value[value] = NoLabel(value, rows, staged.file)
    for file in staged.later if by_value else ():
        view_of(db, file)
        try:
            odd = _odd(db, staged.again())
        except duckdb.Error:  # of a file that has another sentence of its own, once this is mended
            break
        for value, rows in odd:
            before = by_value.get(value, NoLabel(value, 0, file))
            by_value[value] = before._replace(rows=before.rows + rows)
    view_of(db, staged.file)
    return list(by_value.values())


def _odd(db: duckdb.DuckDBPyConnection, rows: str) -> list[tuple[str | None, int]]:
    return db.execute(
        f"SELECT _label, count(*) FROM {rows} WHERE {DOMAINS} AND click IS NULL GROUP BY ALL "
        f"ORDER BY 2 DESC, 1 LIMIT {LOOKED_AT}"
    ).fetchall()


def _places(
    db: duckdb.DuckDBPyConnection, mapping: Mapping, staged: Staged, told: list[NoLabel]
) -> dict[str | None, str]:
    """Return the file and line in which each value stands first."""
    places = {}
    for file in dict.fromkeys(one.file for one in told):
        with numbered(db, mapping.log, file, staged.stored.with_suffix(".again")) as where:
            here = [one.value for one in told if one.file == file]
            query = f"SELECT min({RECORD}) FROM {staged.again(RECORD)} WHERE {DOMAINS} AND _label "
            firsts = [one_row(db, query + "IS NOT DISTINCT FROM ?", [one])[0] for one in here]
            lines = where(firsts)
            for value, first in zip(here, firsts, strict=True):
                places[value] = f"{file.name}, {lines[first]}"
    return places


def _shown(value: str | None) -> str:
    return "null" if value is None else f"'{value:.40}'"


def _rule(mapping: Mapping, values: list[str | None]) -> str:
    """Write a rule that makes labels of values, and what to do with rows that say nothing."""
    text = mapping.click if NAME.fullmatch(mapping.click) else f"({mapping.click})"
    words = {value.strip().lower() for value in values if value is not None}
    nothing = sorted(words & SAYS_NOTHING)
    telling = words - SAYS_NOTHING
    if telling and all(map(A_TIME.match, telling)):  # when it was clicked
        return f"TRY_CAST({text} AS TIMESTAMP) IS NOT NULL"
    rule = _telling_rule(text, telling, nothing)
    if not nothing and None not in values:
        return rule
    says = f"{text} IS NOT NULL"
    if nothing:
        says = f"lower(trim({text}::VARCHAR)) NOT IN ({', '.join(map(literal, nothing))})"
    no_click = "0" if not words else "'0'" if rule.startswith("CASE") else "false"
    return (
        f"coalesce({rule}, {no_click}) if what says nothing is no click, else leave these rows out "
        f"by domain: CASE WHEN {says} THEN {mapping.domain} END"
    )


def _telling_rule(text: str, telling: set[str], nothing: list[str]) -> str:
    """Write the rule for words; null for those that say nothing."""
    if telling and all(map(_is_number, telling)):
        return f"TRY_CAST({text} AS DOUBLE) >= 1"  # it may be text
    if telling - {*CLICKED, *NOT_CLICKED}:
        return f"{text} = 'the text of a click'"
    meant = {word: "'1'" for word in CLICKED if word in telling}
    meant |= {word: "'0'" for word in NOT_CLICKED if word in telling}
    meant |= dict.fromkeys(nothing, "NULL")
    cases = " ".join(f"WHEN {literal(word)} THEN {label}" for word, label in meant.items())
    return f"CASE lower(trim({text}::VARCHAR)) {cases} ELSE {text} END" if cases else text


def _is_number(text: str) -> bool:
    return text.isascii() and text.removeprefix("-").replace(".", "", 1).isdigit()
