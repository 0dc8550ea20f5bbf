"""The blocks of commands in README.md, CONTRIBUTING.md and docs/, and the replacements with which a test runs them."""

from tests.docs_blocks import Block
from tests.docs_clone_runs import CLONE_BEGIN, CLONE_RUNS
from tests.docs_shell import CLEAN_UP, SERVE, VENV, WAIT, Run

WHOLE_PAGES = ("tutorial.md", "datasets.md")  # all their blocks `sh` are run word by word, by tests of their own

# A study of two small models and few epochs instead of the reader's own.
_SMALL = (
    "sed -i -e 's/^models: .*/models: [linear, cnn]/' -e 's/^  positive: .*/  positive: blast/' "
    "-e 's/^  epochs: .*/  epochs: 2/' params.yaml && git commit --quiet --all -m Smaller"
)
# Some packages of the lock file, with their hashes.
_FEW = "awk '/^[a-z]/ { few = /^(colorama|iniconfig|idna)==/ } few' requirements.lock > few.lock"
# Pushes to S3, and pulls in a clone without a cache, where the models and the report are then the same.
_S3 = (
    "../s3/bin/dvc push && git add -A && git commit --quiet -m 'A run' && git clone --quiet . ../clone && cd ../clone "
    "&& ../s3/bin/dvc pull && diff -r models ../study/models && diff -r report ../study/report"
)
_REMOTE = (
    "git init --quiet --bare ../origin.git && git remote add origin ../origin.git && git push --quiet -u origin HEAD"
)
_NEW = {"new/": "$WORK/cells/new"}
# Another length of the trainings, so that there is something to train.
_EPOCHS = 'epochs() { sed -i "s/^  epochs: .*/  epochs: $1/" params.yaml; }'
_WORKERS = """workers() {
  python -c "from distributed import Client; Client('tcp://127.0.0.1:$PORT').wait_for_workers($1, 90)"
}"""
_SCHEDULER = "dask scheduler --port $PORT > ../scheduler.log 2>&1 &"
_WORKER = "dask worker tcp://127.0.0.1:$PORT --nthreads 1 --local-directory ../"


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
        before=SERVE,
    ),
    Run(
        "README.md",
        "tumorboard doctor   ",
    ),
    Run(
        "cluster.md",
        "dvc exp run --queue -S '++recipes.resnet18.seed=0,1,2,3,4'",
        {"resnet18.seed=0,1,2,3,4": "cnn.seed=0,1", "dvc queue start": f"dvc queue start; {WAIT}"},
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
        "tumorboard new ~/my-study",
        {
            "~/my-study": "$WORK/data/again",
            "/path/to/images": "$WORK/cells/labeled",
            r"'(p\d+)_'": r"'(P\d+)_'",
            "--preset skin": "--preset cells",
            "dvc repro ": f"{_SMALL} && dvc repro ",
        },
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
            "dvc queue start --jobs 1 ": f"dvc queue start --jobs 1; {WAIT} ",
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
            "dvc queue start --jobs 1": f"dvc queue start --jobs 1; {WAIT}",
        },
    ),
    Run(
        "experiments.md",
        "dvc plots diff   ",
        {"main my-branch": "master slower"},
    ),
    Run("experiments.md", "tumorboard compare predictions/joined/cnn.csv"),
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
    Run(
        "gpus.md",
        "tumorboard run   ",
        {
            "run --gpus 0,1": "run --jobs 1",
            "tumorboard run --jobs 2": "epochs 3; tumorboard run --jobs 2",
            "tumorboard run --scheduler tcp://first:8786": "workers 1; tumorboard run --scheduler tcp://127.0.0.1:$PORT",
        },
        before=f"{CLEAN_UP}\n{_EPOCHS}\n{_WORKERS}\n{_SCHEDULER}\n{_WORKER}first > ../first.log 2>&1 &\nepochs 1",
    ),
    Run(
        "gpus.md",
        "dask scheduler --port 8786",
        {
            "dask scheduler --port 8786": _SCHEDULER,
            "--local-directory /scratch": f"--local-directory ../first > ../first.log 2>&1 &\n"
            f"{_WORKER}second --resources GPU=1 > ../second.log 2>&1 &",
            "tumorboard run": "epochs 4; workers 2; tumorboard run",
            "tcp://first:8786": "tcp://127.0.0.1:$PORT",
        },
        before=f"{CLEAN_UP}\n{_EPOCHS}\n{_WORKERS}",
    ),
    Run(
        "gpus.md",
        "dask scheduler     ",
        {
            "dask scheduler ": f"{_SCHEDULER} ",
            "--nthreads 4": "--nthreads 2 --local-directory ../first > ../first.log 2>&1 &",
            "tumorboard predict": "workers 1; tumorboard predict",
            "tcp://host:8786": "tcp://127.0.0.1:$PORT",
            **_NEW,
        },
        before=f"{CLEAN_UP}\n{_WORKERS}",
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
    Run("search.md", "tumorboard search linear", {"--trials 4": "--trials 2"}),
    Run(
        "search.md",
        "dvc exp apply cnn-search-8a8b-004 && dvc repro",
        {"cnn-search-8a8b-004": "$(dvc exp list --name-only | grep cnn-search | head -n 1)"},
    ),
    Run(
        "serve.md",
        "tumorboard serve   ",
        {"tumorboard serve": "serve", "--port 8765": ""},
        before=f"tumorboard export panel.zip\n{SERVE}",
    ),
    Run(
        "serve.md",
        "curl --data-binary",
        {
            "'http://127.0.0.1:8000/": '"$SERVED"\'',
            "http://127.0.0.1:8000/": "${SERVED}",
            "curl ": "curl --fail --silent --show-error ",
        },
        before=f"{SERVE}\ncp $(ls $WORK/cells/new/* | head -n 1) cell.png\nkeep_serving",
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
    Run(
        "tutorial.md",
        "tumorboard serve --panel panel.zip",
        {"tumorboard serve": "serve"},
        before=f"tumorboard export panel.zip\n{SERVE}",
    ),
)

# With packages from a registry, each page in a copy of that study.
PACKAGE_RUNS = (
    Run(
        "offline.md",
        "git clone … && cd tumorboard",
        {
            "git clone …": "git clone --quiet $REPOSITORY tumorboard",
            "pip download --require-hashes -r requirements.lock": f"{_FEW}\npip download --require-hashes -r few.lock",
        },
        before="cd ..",
    ),
    Run(
        "offline.md",
        "python3 -m venv tumorboard-env",
        {
            "python3 -m venv": "venv",
            "-r requirements.lock": "--ignore-installed -r few.lock",
            "--no-deps tumorboard": "--no-deps --ignore-installed tumorboard",
        },
        before=f"{VENV}\nmkdir ../inside && mv wheels few.lock ../inside && cd ../inside",
    ),
    Run(
        "sharing.md",
        "python -m venv s3",
        {
            "s3/bin/pip install": "uv pip install --quiet --python s3/bin/python",  # pip may look for minutes what fits
            "5055 &": "$PORT > moto.log 2>&1 &",
            "127.0.0.1:5055": "127.0.0.1:$PORT",
        },
        before=f"{CLEAN_UP}\ncd ..",
        goes_on=True,
    ),
    Run(
        "sharing.md",
        "dvc remote add --default storage s3://panels/my-study",
        {"https://s3.hospital.example": "http://127.0.0.1:$PORT", "dvc push": _S3},
        before="cd study",
    ),
)
ALL_RUNS = (*BEGIN, *RUNS, *CLONE_BEGIN, *CLONE_RUNS, *PACKAGE_RUNS)


def runs_of(block: Block) -> list[Run]:
    """Returns how a block is run; more than one where it is listed several times."""
    first_line = block.text.partition("\n")[0]
    return [run for run in ALL_RUNS if run.page == block.page and first_line.startswith(run.begin)]
