"""The generator of street scenes: camera, static scenery, objects, light; see `workloads.datasets.scenes`."""
