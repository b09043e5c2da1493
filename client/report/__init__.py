"""The site report: one self-contained page, written from the site database."""
