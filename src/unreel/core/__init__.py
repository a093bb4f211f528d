"""What every other part stands on: keyed randomness, errors, registries, settings, progress, digests."""
