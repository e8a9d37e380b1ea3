"""Prefect flows: thin wrappers of metarisk.pipeline."""
