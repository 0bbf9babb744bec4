"""What RefDrop is inside a web UI (or the playground): the panel, and one run for every processing object."""
