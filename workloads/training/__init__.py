"""Contrastive pre-training, its baselines, and fine-tuning."""
