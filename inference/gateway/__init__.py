"""The OpenAI-compatible gateway: protocol, pipeline, files and batches."""
