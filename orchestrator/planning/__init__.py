"""What an experiment needs: plan, estimate, explanation, check, selection of cells, capacity."""
