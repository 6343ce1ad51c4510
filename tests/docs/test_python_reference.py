"""Every public name is on the page, with what its docstring says; and the page needs nothing else."""

from __future__ import annotations

import inspect
import re

import pytest

import craftc
from docs.python_reference import PAGE, page_with_reference
from tests.docs.test_pages import PAGES

PUBLIC = [name for name in craftc.__all__ if not name.startswith("_")]
USERS_PAGES = [page for page in PAGES if not page.name.startswith("adding-")]
_CODE = re.compile(r"```.*?```|^(?: {4,}\S.*\n?)+", re.DOTALL | re.MULTILINE)
_INSIDE = re.compile(r"(?:from|import) craftc\.\w+")


def test_the_page_is_current():
    page = PAGE.read_text()
    assert page == page_with_reference(page), "renew it: python docs/python_reference.py"


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_explained(name: str):
    assert len((inspect.getdoc(getattr(craftc, name)) or "").split()) > 3
    assert f"\n#### craftc.{name}\n" in PAGE.read_text()


@pytest.mark.parametrize("name", [name for name in PUBLIC if inspect.isfunction(getattr(craftc, name))])
def test_every_argument_is_explained(name: str):
    function = getattr(craftc, name)
    text = inspect.getdoc(function) or ""
    if len(inspect.signature(function).parameters) < 2:
        return
    assert [argument for argument in inspect.signature(function).parameters if f"\n{argument}: " not in text] == []


@pytest.mark.parametrize("page", USERS_PAGES, ids=lambda page: page.name)
def test_code_imports_public_names_only(page):
    inside = [found for code in _CODE.findall(page.read_text()) for found in _INSIDE.findall(code)]
    assert inside == [], "users need no module of craftc's: give it a public name, or write it without"
