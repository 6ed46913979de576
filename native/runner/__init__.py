"""The process that owns ggml, the devices and the weights; started by native.client, reached through pipes."""
