"""The whole loop on real recordings: `make demo`."""
