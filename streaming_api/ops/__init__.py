"""What operators see: the context, the scrape, the monitor, the dump."""
