"""OpenAI's wire format: what a request may hold, and how answers and streams look."""
