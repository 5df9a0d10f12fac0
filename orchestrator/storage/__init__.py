"""Files on a path, s3:// or gs://: one small interface, its backends, retries and fault points."""
