"""The loops that gradient-based learners spend their time in, on the CPU and without padding."""
