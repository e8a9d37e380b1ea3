"""Pages of nights, weeks, drift and models: heads here, cards in `cards`; nothing is computed that is not known."""
