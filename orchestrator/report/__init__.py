"""The report: what a storage knows of an experiment, as one HTML file, a CSV and a Markdown file.

The model: reading (results, manifests, histories) -> comparing (repeats become a mean, the paper's figure stands beside
it) -> tables, plots, pictures, costs and provenance as plain data -> page and exports, which only write them down.
Everything comes from the storage, so a report can be made years after the cluster is gone.
"""
