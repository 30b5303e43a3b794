"""Engines run models. ``base`` has the interface; ``torch_engine`` runs on this machine, ``openai_engine``
over HTTP."""
