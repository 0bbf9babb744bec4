"""What the bundled demo model is made of: drawings, tokenizer, training, and a reader of attributes."""
