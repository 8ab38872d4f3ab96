"""What attention does in a trained embedder, and the paper's tables and figures redone; uses `evaluation`."""
