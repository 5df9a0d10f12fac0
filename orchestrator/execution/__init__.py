"""The order of work and what its ends mean. Nothing here knows Ray."""
