"""What may be said: secrets are masked, addresses, names and companies become keyed hashes."""
