"""Report pages of nights and weeks; nothing is computed here that the warehouse does not have."""
