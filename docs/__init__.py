"""Manual pages, the journal's catalog, completions: made from the code that they are about."""
