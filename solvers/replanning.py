"""Replanning under a budget of weights moved: the best plan on new loads that is near enough to the old one.

Claimed by H9 (work in progress).
"""
