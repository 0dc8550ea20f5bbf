"""The project's own networks, each a function of the image size in pixels."""
