"""The loader nodes, one a file, and the inputs they share."""
