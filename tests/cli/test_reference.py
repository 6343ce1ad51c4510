import os

from craftc.cli.reference import cli_reference
from tests.places import ROOT

PAGE = ROOT / "docs" / "cli.md"


def test_the_page_is_current_and_leaves_the_environment_alone():
    before = dict(os.environ)
    assert PAGE.read_text() == cli_reference(), "renew it: python -m craftc.cli.reference > docs/cli.md"
    assert dict(os.environ) == before
