"""How RestMQ is installed, started, served through proxies, and ended."""
