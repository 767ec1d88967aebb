"""Other people's test suites against the real server: ``python -m tests.conformance``."""
