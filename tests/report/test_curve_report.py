import numpy as np

from craftc.report.curve_report import curve_table
from craftc.solvers.problem import BenefitCurves


def test_all_counts_of_a_short_curve_and_the_mean():
    curves = BenefitCurves((0, 1, 2), np.array([[0.5, 0.6, 0.7], [0.7, 0.8, 0.9]]))
    head, _, first, second, mean = curve_table(curves, ("a", "b")).splitlines()
    assert head.split()[-3:] == ["+0", "+1", "+2"]
    assert first.split() == ["a", "0.500", "0.600", "0.700"]
    assert second.split() == ["b", "0.700", "0.800", "0.900"]
    assert mean.split() == ["mean", "0.600", "0.700", "0.800"]


def test_a_long_curve_is_thinned_but_keeps_its_ends():
    counts = tuple(range(65))
    head = curve_table(BenefitCurves(counts, np.ones((1, 65))), ("a",)).splitlines()[0].split()
    assert len([column for column in head if column.startswith("+")]) == 10
    assert head[-1] == "+64"
    assert "+0" in head
