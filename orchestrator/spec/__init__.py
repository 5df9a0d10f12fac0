"""The experiment file: its schema, loading, merging, rows and grids, references."""
