"""Language model nodes: models, servers, prompt expansion and chat."""
