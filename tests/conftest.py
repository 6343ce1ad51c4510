from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.second_names import second_names


@pytest.fixture(scope="session", autouse=True)
def _no_second_names() -> Iterator[None]:
    """Fail the session where a test, or what it tested, imported `passes` or `solvers` by these names."""
    yield
    found = second_names()
    assert not found, f"imported under a second name: {', '.join(found)}; import them from craftc"
