"""The same over one's own folder in a local page: search, label, train a head, see predictions."""
