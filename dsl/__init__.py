"""The mserve language: text in, a checked syntax tree (or diagnostics) out. Knows nothing of plans or workers."""
