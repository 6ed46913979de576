"""Language models: llama.cpp's server in a child process, or any OpenAI-compatible server.

Nothing is imported here: the child must not load the parent's modules.
"""
