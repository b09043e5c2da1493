"""Everything that runs inside a hospital and may see a patient."""
