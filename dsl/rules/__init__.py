"""The rules of `mserve check`: one function per rule, which words its diagnostic and documents it.

Where a rule is broken is found elsewhere (names.py, types.py, ranges.py, ...); these functions know
only how to say it. A rule's id is its function's name with hyphens, its page the docstring.
"""
