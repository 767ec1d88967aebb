"""Long runs and faults: cheap clients that count every message, and what is done to them."""
