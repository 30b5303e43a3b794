"""Versioned Rego bundles that decide what the gateway does with a request."""
