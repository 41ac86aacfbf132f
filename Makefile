# What takes a second of those tests that a change trips first.
FAST = unit store/test_store.py wire/test_protocol.py wire/test_readme.py wire/test_original.py wire/test_settings.py
env = $$(_build/environment "$${PYTHON:-python3}" .test-env requirements-test.lock)/bin

help:  ## this list
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed 's/:.*## /\t/'

run:  ## serve on http://localhost:8888/, again after each change of a file; ARGS="--port 8899" are its options
	"$(env)/watchfiles" --filter all "$(env)/python _build/run.py -n --pidfile= restmq $(ARGS)" restmq frontend twisted

fmt:  ## format the Python files
	"$(env)/ruff" format .

lint:  ## what is amiss in the Python files and the Lua library
	"$(env)/ruff" check .
	"$(env)/ruff" format --check .
	scripts/test tests/store/test_library.py -k luacheck

types:  ## mypy, strict
	"$(env)/python" -m mypy

test-fast:  ## in less than a minute: style, types, and the tests that a change trips first
	"$(env)/ruff" check .
	"$(env)/python" -m mypy
	RESTMQ_EXAMPLES=20 scripts/test $(FAST:%=tests/%)

test:  ## what every change must pass
	scripts/test

all:  ## every test on every Python and both servers
	scripts/test --all

lock:  ## make the locks of the .in files (needs uv); UPGRADE=--upgrade takes what is newest
	for f in _build/requirements requirements requirements-test tests/clients/requirements; do uv pip compile -q $(UPGRADE) --universal --python-version 3.9 --generate-hashes --no-header --no-emit-index-url --no-annotate $$f.in -o $$f.lock || exit; done

pictures:  ## draw docs/pictures anew from their texts (needs graphviz and mscgen)
	cd docs/pictures && for f in *.dot; do dot -Tsvg $$f -o $${f%.dot}.svg || exit; done
	cd docs/pictures && for f in *.msc; do mscgen -T svg -i $$f -o $${f%.msc}.svg || exit; done

bench:  ## what one add costs, beside stock cyclone
	scripts/bench

.PHONY: help run fmt lint types test-fast test all lock pictures bench
