"""The language model nodes: models, servers, prompt expansion and chat."""
