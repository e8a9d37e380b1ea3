"""Pages of nights, weeks, drift and models: heads here, cards in `cards`; what they show, files or the warehouse have."""
