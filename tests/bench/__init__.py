"""The benchmark: this server beside what people would use instead. Run it with `make bench`."""
