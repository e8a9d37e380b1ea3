"""Heads on a base score, in closed form or by Newton: hierarchical, ridge, and generalised linear on a body."""
