"""Signal functions on arrays: filter, R peaks, beats, quality, rhythm. No files, no database.

Start at `client.data.ecg.strip`; the order within is `filtering`, `rpeaks`, `beats`, `quality`, `rhythm`.
"""
