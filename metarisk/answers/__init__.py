"""Questions about what was published: explain, why, score, replay."""
