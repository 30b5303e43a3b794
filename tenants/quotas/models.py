"""Limits in a tree, and the counters that hold them."""
