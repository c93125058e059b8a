"""One thin module for each outside system."""
