"""What a workflow takes of every device, known before any of it runs."""
