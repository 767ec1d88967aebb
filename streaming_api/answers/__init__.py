"""Answers: all of them, one of them, and the queue before the upstream."""
