"""Switches that make a release hard to copy: watermark, receipts, canaries, extraction detection."""
