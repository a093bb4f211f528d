"""Complete settings, each with its source."""
