"""Language models: llama.cpp's server in a child process, or any OpenAI-compatible server.

Empty, so that the child loads nothing of what stands on our side of it.
"""
