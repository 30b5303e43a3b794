"""OpenAI-compatible engines behind the gateway: pools, health, fair queues."""
