"""What work costs: counted in operations, measured in seconds."""
