"""The field's protocol for consistent subjects, for whoever has the weights it asks for."""
