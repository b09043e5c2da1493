"""From beats to models and numbers."""
