"""A whole federation on one machine: the only room that may see all sites."""
