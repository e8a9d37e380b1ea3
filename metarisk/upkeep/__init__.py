"""What people do about what was published: prune, forget, audit, doctor, override, feedback, model states."""
