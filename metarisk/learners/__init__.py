"""Learners: everything that learns across segments, on numpy, scipy and torch alone.

Each learner is one file and follows `domain.Learner`; all of them train by the one loop in `loop`.
"""
