"""Where topics come from: sources yield typed values and know nothing of streams or the web."""
