"""Ways of taking part in a generation: each answers some of the events that a host's adapter publishes."""
