"""Pages of nights, weeks, drift and models: heads here, cards in `cards`; nothing is computed that the warehouse lacks."""
