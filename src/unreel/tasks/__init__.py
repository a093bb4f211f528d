"""What is asked of a representation."""
