# make test       sets up .venv and runs the tests
# make demo       sets up .venv and runs the main job on a corpus made on the spot; opens nothing, prints where
# make music      sets up .venv, learns music composed on the spot and makes new songs of it; prints where its page is
# make baseline   sets up .venv, trains the default VAE on pictures of digits, measures it, and prints where its page is
# make lint       the checks a change must pass besides the tests

PYTHON ?= python3
BIN := .venv/bin
BASELINE := runs/baseline

.PHONY: test demo music baseline lint clean
test: .venv/.test
	$(BIN)/python -m pytest -n 2 --dist worksteal

demo: .venv/.demo
	@$(BIN)/python recipes/demo/demo.py demo

music: .venv/.music
	@$(BIN)/python recipes/music/music.py music

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
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -e '.$(if $(filter core,$*),,[$*])'
	@touch $@

clean:
	rm -rf .venv demo music $(BASELINE)
