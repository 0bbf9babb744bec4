"""Reference Feature Guidance: recording a reference's features, and guiding by them."""
