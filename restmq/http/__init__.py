"""HTTP: connections, parsing, requests, answers, and the repaired cyclone. Knows no queue."""
