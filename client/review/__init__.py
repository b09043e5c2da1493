"""Looking at strips by eye: a random sample as a contact sheet, and a reviewer's verdicts read back in.

The source paper removed noisy excerpts by manual inspection. Here software decides, and people check it.
"""
