# make demo   create .venv, install, and run the main job on the bundled example
# make test   run the tests
# make lint   ruff and mypy
# make faults faults at random moments of the commands (a quarter of an hour); see docs/reliability.md
# make docs   write docs/cli.md from the commands, and docs/terminal.svg from a run
# make bench  benchmarks, on the real data beside the checkout where it is there, and on a simulated
#             chromosome: SIZE=small, or SIZE=full of 2,504 samples x 150,000 sites
# make corpus every damaged and hostile file of tests/corpus.py, about an hour; EVERY=3 takes a third
# make audit  look up the versions of constraints.txt in the databases of known vulnerabilities; needs
#             a network that reaches PyPI's

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
DEMO   := demo
SIZE   := small
EVERY  := 1

.PHONY: demo test lint docs faults bench corpus audit clean

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,workflow]'
	touch $@

# --force: an earlier ./demo may hold the panel and indexes of another release's example.
demo: $(READY)
	mkdir -p $(DEMO)
	$(BIN)/snvrag convert snvrag/example_data/panel.vcf.gz -o $(DEMO)/panel.h5 --force \
	    --populations snvrag/example_data/populations.panel
	$(BIN)/snvrag windows $(DEMO)/panel.h5
	$(BIN)/snvrag build-index $(DEMO)/panel.h5 --windows 0-2 --force
	$(BIN)/snvrag train $(DEMO)/panel.h5 -o $(DEMO)/run --preset light --epochs 4 \
	    --map snvrag/example_data/genetic_map.plink.map --force
	$(BIN)/snvrag verify $(DEMO)/panel.h5.index/ --deep
	$(BIN)/snvrag impute snvrag/example_data/target.vcf.gz -r $(DEMO)/panel.h5 \
	    --map snvrag/example_data/genetic_map.plink.map -o $(DEMO)/imputed.vcf.gz --force
	$(BIN)/snvrag impute snvrag/example_data/target.vcf.gz -r $(DEMO)/panel.h5 -m $(DEMO)/run \
	    --map snvrag/example_data/genetic_map.plink.map -o $(DEMO)/refined.vcf.gz --force
	$(BIN)/snvrag evaluate $(DEMO)/imputed.vcf.gz $(DEMO)/refined.vcf.gz \
	    snvrag/example_data/truth.vcf.gz --label "copying model" --label "with network" \
	    -r $(DEMO)/panel.h5 --plot $(DEMO)/accuracy.png -o $(DEMO)/evaluation.json --force
	$(BIN)/snvrag report $(DEMO)/run $(DEMO)/evaluation.json -o $(DEMO)/report.html --force

test: $(READY)
	$(BIN)/python -m pytest -n auto --maxprocesses 4

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

faults: $(READY)
	$(BIN)/python tests/faults

docs: $(READY)
	$(BIN)/python docs/make_cli.py
	$(BIN)/python docs/make_terminal.py

bench: $(READY)
	$(BIN)/python benchmarks/convert.py
	$(BIN)/python benchmarks/retrieval.py
	$(BIN)/python benchmarks/train_start.py
	$(BIN)/python benchmarks/train_step.py
	$(BIN)/python benchmarks/accuracy.py --runs .bench-runs
	$(BIN)/python benchmarks/peers.py --model .bench-runs/run-42
	$(BIN)/python benchmarks/chromosome.py --size $(SIZE) --data .bench-runs/chromosome-$(SIZE) \
	    --plot .bench-runs/growth-$(SIZE).png

corpus: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python tests/corpus.py --every $(EVERY)

# --strict: a version that cannot be looked up is no version without a vulnerability.
audit:
	$(PYTHON) -m venv .audit
	.audit/bin/pip install --quiet --disable-pip-version-check pip-audit
	.audit/bin/pip-audit --strict --no-deps --disable-pip -r constraints.txt

clean:
	rm -rf $(VENV) .audit $(DEMO) .bench-runs build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
