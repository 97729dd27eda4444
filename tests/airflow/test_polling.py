"""Looking again and again: until it is there, the time is up, or waiting is useless."""

from __future__ import annotations

import pytest

from ecdctr.airflow.polling import poll
from ecdctr.errors import EcdctrError


def test_what_is_seen_is_returned_and_life_is_asked_for_before_each_pause():
    order, sights = [], iter([None, None, "there", "never asked"])

    def look():
        order.append("look")
        return next(sights)

    assert poll(look, 60, 0, lambda: order.append("alive")) == "there"
    assert order == ["look", "alive", "look", "alive", "look"]


def test_a_no_is_an_answer_and_ends_the_wait():
    sights = iter([False, True])
    assert poll(lambda: next(sights), 60, 0) is False


def test_when_the_time_is_up_nothing_was_seen():
    looks = []
    assert poll(lambda: looks.append(1), 0, 0) is None
    assert looks == [1]


def test_who_has_ended_is_not_waited_for():
    def dead() -> None:
        raise EcdctrError("Airflow's scheduler has ended")

    with pytest.raises(EcdctrError, match="scheduler has ended"):
        poll(lambda: None, 60, 0, dead)
