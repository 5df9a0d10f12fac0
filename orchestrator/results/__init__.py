"""What came out of an experiment: cells, console tables, figures, TensorBoard, exports."""
