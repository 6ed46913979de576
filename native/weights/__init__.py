"""Weight files: headers, parameters, and their conversion to what ggml loads."""
