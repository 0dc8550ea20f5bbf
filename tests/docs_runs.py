"""The blocks of commands in README.md and docs/: which a test runs, with which replacements, and why not the others."""

from typing import NamedTuple

from tests.docs_blocks import Block

WHOLE_PAGES = ("tutorial.md", "datasets.md")  # all their blocks `sh` are run word by word, by tests of their own

# A study of two small models and few epochs instead of the reader's own.
_SMALL = (
    "sed -i -e 's/^models: .*/models: [linear, cnn]/' -e 's/^  positive: .*/  positive: blast/' params.yaml "
    "&& printf 'train:\\n  epochs: 2\\n' >> params.yaml && git commit --quiet --all -m Smaller"
)
_WAIT = (
    "while dvc queue status | grep -E 'Queued|Running'; do sleep 2; done; ! dvc queue status | grep Failed || exit 1"
)
# Until it has answered.
_SERVE = r"""serve() {
  rm -f ../served
  tumorboard serve --port 0 "$@" > ../served &
  trap "kill $!" EXIT
  until grep -s 'The panel is at' ../served; do sleep 1; kill -0 $!; done
  curl --fail --silent --show-error "$(grep -o 'http://[^ ]*' ../served)api/panel" && kill $! && wait $! && trap - EXIT
}"""
_REMOTE = (
    "git init --quiet --bare ../origin.git && git remote add origin ../origin.git && git push --quiet -u origin HEAD"
)
_NEW = {"new/": "$WORK/cells/new"}


class Run(NamedTuple):
    """A block that is run."""

    page: str
    begin: str  # beginning of its first line
    replaced: dict[str, str] = {}  # noqa: RUF012 - never changed; texts of the block and what is run instead
    before: str = ""  # commands that prepare it, whose results the page takes for granted


# The study of all the others, in a home without anything, where git does not know its user.
BEGIN = (
    Run(
        "README.md",
        'git config --global user.name "Your Name" && git config --global user.email you@example.org   # once',
        {
            "/path/to/images": "$WORK/cells/labeled",
            r"'(p\d+)_'": r"'(P\d+)_'",
            "cd ~/my-study && dvc repro": f"cd ~/my-study && {_SMALL} && dvc repro",
        },
        before="tumorboard practice cells",
    ),
    Run(
        "README.md",
        "dvc exp run --name slower -S '++recipes.cnn.lr=0.0003' -S '++evaluate.test=false'   ",
        {"evaluate.test=false": "evaluate.test=true"},  # the pages after it compare test images too
    ),
)

# Those of a page in their order, each page in a copy of that study.
RUNS = (
    Run(
        "README.md",
        "tumorboard predict new/ --out ../new.csv --explain ../maps",
        {"tumorboard serve": "serve", **_NEW},
        before=_SERVE,
    ),
    Run(
        "README.md",
        "tumorboard doctor   ",
    ),
    Run(
        "comparing.md",
        "tumorboard compare main workspace   ",
        {
            "compare main workspace": "compare master workspace",
            "exp-1 exp-2": "master slower",
            "a.csv b.csv": "predictions/test/joined/linear.csv predictions/test/joined/cnn.csv",
        },
    ),
    Run(
        "comparing.md",
        "dvc exp run -n seed-1 -S '++recipes.cnn.seed=1' -S '++recipes.resnet18.seed=1'",
        {"resnet18": "linear"},
    ),
    Run(
        "control.md",
        "tumorboard control   ",
        {"--runs 20": "--runs 2"},
    ),
    Run(
        "data.md",
        r"tumorboard check /path/to/images --group-pattern '(p\d+)_'",
        {"/path/to/images": "$WORK/cells/labeled", r"'(p\d+)_'": r"'(P\d+)_'"},
    ),
    Run(
        "data.md",
        "mkdir -p datasets && cp -r /path/to/images datasets/mine",
        {"/path/to/images": "$WORK/cells/labeled"},
    ),
    Run(
        "experiments.md",
        "dvc repro   ",
    ),
    Run(
        "experiments.md",
        "dvc exp run -S train.lr=0.01   ",
        {
            "-S train.lr": "-S ++train.lr",  # as the page says for a study of `tumorboard new`
            "resnet18": "linear",
            "'++recipes.cnn.lr=0.01,0.05,0.1'": "'++recipes.cnn.lr=0.01'",
            "dvc queue start --jobs 1 ": f"dvc queue start --jobs 1; {_WAIT} ",
            "dvc exp apply NAME": "dvc exp apply slower",
            "compare HEAD NAME": "compare HEAD slower",
            "-S evaluate.test": "-S ++evaluate.test",
        },
    ),
    Run(
        "experiments.md",
        "dvc exp run --queue -S balance.strategy=none,augment,weights,sampler,focal",
        {
            "-S balance.strategy=none,augment,weights,sampler,focal": "-S ++balance.strategy=none,weights",
            "dvc queue start --jobs 1": f"dvc queue start --jobs 1; {_WAIT}",
        },
    ),
    Run(
        "experiments.md",
        "dvc plots diff   ",
        {"main my-branch": "master slower"},
    ),
    Run("explain.md", "dvc repro   ", _NEW),
    Run(
        "export.md",
        "tumorboard export panel.zip --onnx   ",
    ),
    Run(
        "export.md",
        "python -m venv panel && . panel/bin/activate",
        {
            "python -m venv panel && . panel/bin/activate": "mkdir ../recipient && mv panel.zip ../recipient",
            "pip install 'tumorboard[predict]'  ": "cd ../recipient",
            **_NEW,
        },
    ),
    Run(
        "export.md",
        'git tag -a panel@v1.0.0 -m "The panel of the first paper"',
        {"https://example.org/study.git": "$WORK/export/origin.git", "--out models": "--out $WORK/export/got"},
        before=(
            "cd $WORK/export/study && dvc remote add --quiet --default storage $WORK/export/storage "
            f"&& git add -A && git commit --quiet -m 'A run' && {_REMOTE}"
        ),
    ),
    Run("offline.md", "git init --bare /drive/my-study.git", {"/drive": "$WORK/offline"}),
    Run(
        "predict.md",
        "tumorboard predict new/ --out ../new.csv   ",
        _NEW,
    ),
    Run(
        "predict.md",
        "tumorboard predict test/ --submission 'id,label' --out labels.csv   ",
        {"test/": "$WORK/cells/new"},
        before="(echo id,label; ls $WORK/cells/new | sed 's/[.].*/,/') > sample_submission.csv",
    ),
    Run(
        "search.md",
        "dvc repro   ",
        {
            "search cnn   ": "search cnn --trials 2",
            "--trials 40": "--trials 3",
            "--minutes 60": "--minutes 60 --trials 3",
        },
    ),
    Run(
        "search.md",
        "dvc exp apply cnn-search-8a8b-004 && dvc repro",
        {"cnn-search-8a8b-004": "$(dvc exp list --name-only | grep search | head -n 1)"},
    ),
    Run(
        "serve.md",
        "tumorboard serve   ",
        {"tumorboard serve": "serve", "--port 8765": ""},
        before=f"tumorboard export panel.zip\n{_SERVE}",
    ),
    Run(
        "sharing.md",
        "dvc remote add --default storage s3://bucket/tumorboard   ",
        {"s3://bucket/tumorboard": "$WORK/sharing/storage", "NAME": "slower"},
        before=_REMOTE,
    ),
    Run("sharing.md", "dvc push train evaluate ensemble   "),
    Run("sharing.md", "dvc config cache.dir /data/dvc-cache", {"/data/dvc-cache": "$WORK/sharing/cache"}),
    Run(
        "stuck.md",
        "tumorboard doctor   ",
    ),
)

_MACHINES = "needs GPUs or several machines"
_HOURS = "trains for tens of minutes to hours"
_NET = "downloads from a registry or a data set's host"
_OUTPUT = "an output of other data, or no command"
_OTHER = "the tutorial or README.md runs the same"

# Beginnings of first lines.
NOT_RUN = {
    ("CONTRIBUTING.md", "git clone … && cd tumorboard"): _NET,
    ("CONTRIBUTING.md", "pytest tests/panel/test_votes.py"): "runs the tests that run this",
    ("README.md", "make         # creates .venv"): _NET,
    ("README.md", "HEAD against slower: "): _OUTPUT,
    ("architecture.md", "phantom ─► crop"): _OUTPUT,
    ("cluster.md", "export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"): _MACHINES,
    ("cluster.md", "torchrun --nnodes 2"): _MACHINES,
    ("cluster.md", "uninterrupted: 1.3 s of training"): _OUTPUT,
    ("cluster.md", "dvc exp run --queue -S '++recipes.resnet18.seed=0,1,2,3,4'"): _HOURS,
    (
        "control.md",
        "dvc exp run --name noise-0.001",
    ): "of this repository's own data set, whose params.yaml has every key",
    ("data.md", "tumorboard new ~/my-study"): _OTHER,
    ("data.md", "dvc exp run -S preset=xray"): _NET,
    ("experiments.md", "$ tumorboard compare predictions/joined/cnn.csv"): _OUTPUT,
    ("gpus.md", "tumorboard run   "): _MACHINES,
    ("gpus.md", "dvc repro recipe && dvc repro balance@0"): _MACHINES,
    ("gpus.md", "dask scheduler --port 8786"): _MACHINES,
    ("gpus.md", "running  train@linear-0  on first"): _OUTPUT,
    ("gpus.md", "dask scheduler     "): _MACHINES,
    ("offline.md", "git clone … && cd tumorboard"): _NET,
    ("offline.md", "python3 -m venv tumorboard-env"): _NET,
    ("presets.md", "dvc exp run -S preset=xray"): _HOURS,
    ("presets.md", "python -m benchmarks.presets"): _HOURS,
    ("results.md", "python -m benchmarks.accuracy --preset mri --side 64"): _HOURS,
    ("results.md", "python -m benchmarks.accuracy --preset mri --side 160"): _HOURS,
    ("results.md", "dvc exp run -S data.raw=$DATA/bccd_cells"): _HOURS,
    ("results.md", "python -m benchmarks.accuracy --group-pattern"): _HOURS,
    ("results.md", "python -m benchmarks.accuracy --preset cells"): _HOURS,
    ("results.md", "dvc exp run --queue -S 'models=[cnn]'"): _HOURS,
    ("results.md", "dvc exp run --queue -S balance.strategy=none,augment,generate"): _HOURS,
    ("results.md", "dvc exp run -S crop.side=32 \\"): _HOURS,
    ("results.md", "dvc exp run -S data.raw=$DATA/brain_mri"): _HOURS,
    ("results.md", "dvc exp run -S crop.side=32 -S balance.strategy=none"): _HOURS,
    ("results.md", "dvc exp run --queue -S crop.side=32"): _HOURS,
    ("results.md", "dvc exp run -S crop.side=48"): _HOURS,
    ("results.md", "4 classes "): _OUTPUT,
    ("search.md", "$ tumorboard search linear --trials 4"): _OUTPUT,
    ("serve.md", "curl --data-binary"): "needs a running server; tests/commands/test_server.py sends these requests",
    ("sharing.md", "dvc remote add --default storage s3://panels/my-study"): "needs S3",
    ("sharing.md", "python -m venv s3"): _NET,
    ("tutorial.md", "tumorboard serve --panel panel.zip"): "does not end; the test of serve.md runs it",
}


def first_line(block: Block) -> str:
    """Returns what names a block in these lists."""
    return block.text.partition("\n")[0]


def reasons_of(block: Block) -> list[str]:
    """Returns why a block is not run; more than one where several entries of NOT_RUN fit."""
    return [why for (page, begin), why in NOT_RUN.items() if page == block.page and first_line(block).startswith(begin)]


def runs_of(block: Block) -> list[Run]:
    """Returns how a block is run; more than one where it is listed several times."""
    return [run for run in (*BEGIN, *RUNS) if run.page == block.page and first_line(block).startswith(run.begin)]
