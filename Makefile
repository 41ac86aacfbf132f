help:  ## this list
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed 's/:.*## /\t/'

check:  ## what every change must pass
	scripts/test

all:  ## every test on every Python and both servers
	scripts/test --all

lock:  ## make the locks of the .in files (needs uv); UPGRADE=--upgrade takes what is newest
	for f in _build/requirements requirements requirements-test tests/clients/requirements; do uv pip compile -q $(UPGRADE) --universal --python-version 3.9 --generate-hashes --no-header --no-emit-index-url --no-annotate $$f.in -o $$f.lock || exit; done

bench:  ## what one add costs, beside stock cyclone
	scripts/bench

.PHONY: help check all lock bench
