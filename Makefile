# make test       sets up .venv and runs the tests
# make demo       sets up .venv and runs the main job on a corpus made on the spot; opens nothing, prints where
# make baseline   sets up .venv, trains the default VAE on pictures of digits, measures it, and prints where its page is
# make lint       the checks a change must pass besides the tests

PYTHON ?= python3
BIN := .venv/bin
BASELINE := runs/baseline

.PHONY: test demo baseline lint clean
test: .venv/.test
	$(BIN)/python -m pytest -n 2

demo: .venv/.demo
	@$(BIN)/python recipes/demo/demo.py demo

baseline: .venv/.core
	@$(BIN)/audiovae train $(if $(wildcard $(BASELINE)/checkpoint-*),--resume $(BASELINE),\
		recipes/image_vae/baseline.toml -o $(BASELINE))
	@$(BIN)/audiovae evaluate --model $(BASELINE) -o $(BASELINE)
	@echo "Open $(CURDIR)/$(BASELINE)/evaluation.html in a browser."

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/pyright

.venv/.%: pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.$(if $(filter core,$*),,[$*])'
	@touch $@

clean:
	rm -rf .venv demo $(BASELINE)
