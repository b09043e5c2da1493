"""Is the synthetic ECG physiology? Measured on the written files and held against published studies."""
