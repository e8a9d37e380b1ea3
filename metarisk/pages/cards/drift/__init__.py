"""Cards of the drift of a night alone."""
