"""How long a first boot takes, and what it costs: tpm2cloud against the tools by hand."""
