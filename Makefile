# make test   sets up .venv and runs the tests
# make demo   sets up .venv and runs the main job on a corpus made on the spot; opens nothing, prints where
# make lint   the checks a change must pass besides the tests

PYTHON ?= python3
BIN := .venv/bin

.PHONY: test demo lint clean
test: .venv/.test
	$(BIN)/python -m pytest -n 2

demo: .venv/.demo
	@$(BIN)/python recipes/demo/demo.py demo

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/pyright

.venv/.%: pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$*]'
	@touch $@

clean:
	rm -rf .venv demo
