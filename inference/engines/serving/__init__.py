"""Continuous batching on this machine, and its HTTP server.

``llama`` computes, ``loop`` batches, ``sampling`` and ``text`` turn numbers into tokens and tokens into text,
``registry`` loads models, ``protocol`` and ``server`` speak OpenAI's HTTP. See docs/design/serving.md.
"""
