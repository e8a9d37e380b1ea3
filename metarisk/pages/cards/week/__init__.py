"""Cards of a week alone."""
