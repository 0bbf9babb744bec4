"""Prompts as web UIs read them: what changes on the way, what weighs more, and what the model is told of it."""
