"""The works that are measured, one file each."""
