"""From files to beats."""
