"""Exact and semantic answers of a release, partitioned before any lookup."""
