"""Requests over time: traces and generators of them, and what became of each."""
