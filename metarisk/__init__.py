"""Risk scoring that learns across many thin segments."""

__version__ = "0.1.0"
