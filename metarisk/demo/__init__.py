"""The demo's loan book, generated: the same seed and scale give the same rows anywhere."""

from metarisk.demo.book import DEMO_AS_OF, DEMO_LOANS, generate

__all__ = ["DEMO_AS_OF", "DEMO_LOANS", "generate"]
