"""Profiles of redaction and guards, and the guards themselves."""
