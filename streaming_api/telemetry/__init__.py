"""What is counted, and what the process uses."""
