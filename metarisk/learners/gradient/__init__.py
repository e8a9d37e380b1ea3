"""Learners by gradient steps from a learned start: MAML and its variants, Reptile."""
