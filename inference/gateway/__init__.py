"""The OpenAI-compatible gateway: protocol, pipeline, files and batches."""

# Semantic version of the gateway's own API: headers, error codes and model names (docs/api-changes.md).
API_VERSION = "1.0.0"
