"""What `train.py` needs: recipes, the shared Trainer, crash-safe checkpoints, and one task module per model family."""
