"""Synthetic ICU sites in the MIMIC-III file layout.

Patient, potassium course, draws, ECG, monitor and files are one module each. The numbers are in
``parameters``, with their sources.
"""
