from craftc.report.text_table import text_table


def test_text_left_numbers_right_and_no_trailing_blanks():
    table = text_table(("plan", "balancedness", ""), [("EPLB", "0.788", ""), ("craftc", "1", "")])
    assert table == "plan    balancedness\n------  ------------\nEPLB           0.788\ncraftc             1"


def test_without_rows():
    assert text_table(("a", "b"), []) == "a  b\n-  -"
