"""What is committed and where it lies: keys, manifests, shards, image sets, leases, training states, verification."""
