"""What is computed: tensors and arrays in, tensors and arrays out. Imports no Ray, knows no storage layout."""
