"""Report pages of nights and weeks: heads, and cards that order themselves. Nothing is computed that was not kept."""
