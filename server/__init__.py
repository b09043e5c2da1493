"""The coordinator: sends, waits, folds. It never sees a patient."""
