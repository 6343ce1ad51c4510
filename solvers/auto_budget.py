"""`--budget auto`: how many replicas pay for themselves, and the curve behind the choice.

Claimed by H9 (work in progress).
"""
