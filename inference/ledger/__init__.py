"""One row per request of the gateway: what was asked, decided, served and charged."""
