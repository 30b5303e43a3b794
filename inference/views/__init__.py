"""Pages of inference, one module per concept. Each fetches with access, calls one service, answers."""
