"""Unequal shares: how much of an expert's tokens each of its copies takes, by linear programming.

Claimed by H9 (work in progress).
"""
