"""Servers that speak a real protocol and can misbehave on demand; for tests and benches."""
