"""Planning with expert groups: all copies of a group's experts stay on one node.

Claimed by H9 (work in progress).
"""
