"""What breaks: instances, Redis and the links between them."""
