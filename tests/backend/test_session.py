from __future__ import annotations

import gc
import logging
from typing import Any

import pytest

from craftc.backend.session import session_for
from craftc.errors import BadInput, Unsupported
from craftc.passes.compilation import NearMiss

OPTIONS: dict[str, Any] = {"gpus": 2, "budget": "25%"}


def test_the_same_options_object_is_the_same_session():
    options = dict(OPTIONS)
    session = session_for(options, None)
    assert session_for(options, None) is session
    assert session_for(dict(OPTIONS), None) is not session


def test_a_session_ends_with_its_last_graph():
    options = dict(OPTIONS)
    said = NearMiss("a", "reason")
    session_for(options, None).leave_unchanged([said])
    gc.collect()
    assert session_for(options, None)._said == set()


def test_wrong_options_make_no_session():
    with pytest.raises(BadInput, match="knows no option gpu"):
        session_for({"gpu": 2}, None)


def test_a_reason_is_said_once_with_the_number_of_layers(caplog):
    session = session_for(dict(OPTIONS), None)
    layers = [NearMiss("a", "one reason"), NearMiss("b", "one reason"), NearMiss("c", "another")]
    with caplog.at_level(logging.WARNING, "craftc.backend"):
        session.leave_unchanged(layers)
        session.leave_unchanged(layers)
    assert [record.getMessage() for record in caplog.records] == [
        "craftc: layer a (and 1 more) is left unchanged: one reason",
        "craftc: layer c is left unchanged: another",
    ]


def test_strict_raises_for_the_first():
    session = session_for(OPTIONS | {"strict": True}, None)
    with pytest.raises(Unsupported, match="layer a: one reason"):
        session.leave_unchanged([NearMiss("a", "one reason")])
    session.leave_unchanged([])
