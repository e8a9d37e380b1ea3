"""Cards of a night alone."""
