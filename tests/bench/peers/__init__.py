"""The servers that are measured, one file each: how each is started, asked and published to."""
