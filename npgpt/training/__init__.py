"""Training: derivatives by hand, AdamW, and the loop around them."""
