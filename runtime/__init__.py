"""Executes plans: router, workers, engine, cluster, transport. Knows plans, not the language."""
