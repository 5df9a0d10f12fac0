"""Everything that imports Ray: the session, the workers and the runner that hands jobs to them."""
