"""Metric learners: a row is scored by its likeness to the support of its segment."""
