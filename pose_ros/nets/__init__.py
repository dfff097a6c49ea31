"""PyTorch networks, one file per paper, and what loads and runs them."""
