"""The site database: tables, sessions, runs, queries and migrations."""
