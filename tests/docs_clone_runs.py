"""The blocks of commands that begin in a clone of this repository, with few and small images in its params.yaml."""

from tests.docs_shell import VENV, WAIT, Run

# The environment that `make env` would install for minutes; `make` finds that it is there. Its programs are copies, not
# links: whatever pip should write into it stays out of the environment that runs the tests.
_ENVIRONMENT = (
    "venv .venv; to=$PWD/.venv/bin\n"
    "(cd $PROGRAMS; cp dvc lint-imports mkdocs mypy pre-commit pytest ruff torchrun tumorboard $to); "
    "touch .venv/bin/.installed\n"
)
# Small folders with the forms and names of the data sets of docs/results.md.
_IMAGES = r"""if ! [ -d $DATA ]; then
  tumorboard practice $DATA/practice --images 160 --patients 30
  for file in $(cd $DATA/practice/labeled; ls */*); do
    name=$(basename $file) class=$(dirname $file)
    [[ $name < P18 ]] && part=Training || part=Testing
    mkdir -p $DATA/brain_mri/$part/$class $DATA/bccd_cells/$class
    cp $DATA/practice/labeled/$file $DATA/brain_mri/$part/$class/
    cp $DATA/practice/labeled/$file $DATA/bccd_cells/$class/BloodImage_${name#P}
  done
fi"""
# In this repository, as docs/data.md says; and a set of MedMNIST's form in the place of a download.
_MINE = r"""mkdir datasets && cp -r $DATA/practice/labeled datasets/mine
dvc add --quiet datasets/mine && git commit --quiet -m "Add datasets/mine"
python -c "import os, pathlib, tests.layouts; tests.layouts.bloodmnist(pathlib.Path(os.environ['DATA']))"
"""
_QUEUE = f" && dvc queue start && {WAIT}"
_COMMITTED = "git reset --quiet --hard"  # where each experiment of docs/results.md begins
_ONE_EPOCH = " -S train.epochs=1"
_OPTIONS = (
    "--store data/crop/store --manifest data/split/manifest.csv --balance data/balance/0 --recipe recipes/cnn.json "
    "--weights models/cnn/0.safetensors --held-out predictions/held_out/cnn/0.safetensors --out training/cnn/0 "
    "--metrics metrics/train/cnn/0.json"
)
# What docs/slurm/train.sh calls, on one node with two processes.
_SLURM = r"""sbatch() { SLURM_NNODES=1 SLURM_GPUS_ON_NODE=2 SLURM_JOB_NODELIST=localhost SLURM_JOB_ID=1 bash "$@"; }
scontrol() { echo 127.0.0.1; }
srun() { shift; "${@/:29400/:$PORT}"; }
export -f scontrol srun"""

# In a home without anything but git's user.
CLONE_BEGIN = (
    Run(
        "CONTRIBUTING.md",
        "git clone … && cd tumorboard",
        {"git clone …": "git clone --quiet $REPOSITORY tumorboard", "make env  ": f"{_ENVIRONMENT}make env  "},
        before=f"git config --global user.name tests; git config --global user.email tests@localhost\n{VENV}",
    ),
    Run(
        "README.md",
        "make         # creates .venv",
        {"make test ": "git add -A; git commit --quiet -m Run; PYTEST_ADDOPTS=tests/panel/test_votes.py make test "},
        before="pre-commit uninstall",
    ),
)

# Those of a page in their order, each page in a copy of that clone.
CLONE_RUNS = (
    Run(
        "CONTRIBUTING.md",
        "pytest tests/panel/test_votes.py",
        {
            "make test  ": "PYTEST_ADDOPTS=tests/panel/test_votes.py make test  ",
            "make test-slow": "PYTEST_ADDOPTS=tests/data/test_split.py make test-slow",
            "make docs-test": "PYTEST_ADDOPTS='-k site_builds' make docs-test",
        },
    ),
    Run(
        "cluster.md",
        "export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1",
    ),
    Run(
        "cluster.md",
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 torchrun --nnodes 2",
        {
            "torchrun --nnodes 2 --nproc-per-node 4": "both torchrun --local-addr 127.0.0.1 --nnodes 2",
            "first.host:29400": "127.0.0.1:$PORT",
            "...": _OPTIONS,
        },
        before='both() { "$@" & "$@"; wait $!; }',  # two that meet on this machine, in place of one on each of two
    ),
    Run("control.md", "dvc exp run --name noise-0.001"),
    Run(
        "data.md",
        "dvc exp run -S preset=xray",
        {
            r"(p\d+)_": r"(P\d+)_",
            "0.001,0.01 && dvc queue start": f"0.01{_QUEUE}",
            "-S 'medmnist=[bloodmnist_224]' -S data.raw=medmnist:bloodmnist_224": "-S data.raw=$DATA/bloodmnist.npz",
        },
        before=f"{_IMAGES}\n{_MINE}",
    ),
    Run("gpus.md", "dvc repro recipe && dvc repro balance@0", {"resnet18": "cnn"}, before=_SLURM),
    Run("presets.md", "dvc exp run -S preset=xray"),
    Run(
        "presets.md",
        "python -m benchmarks.presets",
        {
            "datasets/mine": "$DATA/bccd_cells",
            r"'(p\d+)_'": r"'(BloodImage_\d+)_'",
            "--side 64 --epochs 8 --seeds 3": "--side 32 --epochs 1 --seeds 1 --folds 2 --presets none general xray",
        },
        before=_IMAGES,
    ),
    Run(
        "results.md",
        "python -m benchmarks.accuracy --preset mri --side 64",
        {"--side 64": "--side 32 --epochs 1 --models cnn", "--fastai PYTHON": ""},
        before=_IMAGES,
    ),
    Run(
        "results.md",
        "python -m benchmarks.accuracy --preset mri --epochs 8 --side 160",
        {"--side 160": "--side 48 --epochs 1 --models linear"},
    ),
    Run(
        "results.md",
        "dvc exp run -S data.raw=$DATA/bccd_cells",
        {"[linear,cnn,resnet18]'": f"[linear,cnn]'{_ONE_EPOCH}"},
        before=_COMMITTED,
    ),
    Run(
        "results.md",
        "python -m benchmarks.accuracy --group-pattern",
        {"--side 64": "--side 32 --epochs 1", "cnn,resnet18": "linear,cnn", "--fastai PYTHON": ""},
    ),
    Run(
        "results.md",
        "python -m benchmarks.accuracy --preset cells",
        {"--side 64": "--side 32 --epochs 1", "cnn,resnet18": "linear,cnn", "--fastai PYTHON": ""},
    ),
    Run(
        "results.md",
        "dvc exp run --queue -S 'models=[cnn]'",
        {"[0,1]": "[0]", "none,augment,weights,sampler,focal": f"focal{_ONE_EPOCH}{_QUEUE}"},
        before=_COMMITTED,
    ),
    Run(
        "results.md",
        "dvc exp run --queue -S balance.strategy=none,augment,generate",
        {
            "none,augment,generate": "generate -S balance.generate.steps=3 -S balance.generate.min_images=20",
            "seed=0,1": "seed=1",
            "folds=[0,1]'": f"folds=[0]'{_ONE_EPOCH}{_QUEUE}",
        },
        before=_COMMITTED,
    ),
    Run(
        "results.md",
        "dvc exp run -S crop.side=32 \\",
        {
            "deep_linear_sgd,deep_linear_adam,deep_resnet18_sgd,deep_resnet18_adam,"
            "deep_resnet34_sgd,deep_resnet34_adam,deep_lstm_resnet18_sgd,deep_lstm_resnet18_adam]'": (
                f"deep_linear_sgd,deep_resnet18_adam]'{_ONE_EPOCH}"
            )
        },
        before=_COMMITTED,
    ),
    Run(
        "results.md",
        "dvc exp run -S data.raw=$DATA/brain_mri",
        {
            "crop.side=64 -S train.epochs=6": "crop.side=32 -S train.epochs=1",
            "lite0_scratch,lite0_head_only,lite0_whole,lite0_unfreeze,lite0_discriminative,"
            "lite0_layer_decay,lite0_head_512_128_32,lite0_head_512_64": "lite0_scratch,lite0_head_512_64",
        },
        before=_COMMITTED,
    ),
    Run(
        "results.md",
        "dvc exp run -S crop.side=32 -S balance.strategy=none",
        {"train.epochs=10": "train.epochs=1", "googlenet_bn_cosine,vgg16_cosine": "googlenet_bn_cosine"},
        before=_COMMITTED,
    ),
    Run(
        "results.md",
        "dvc exp run --queue -S crop.side=32",
        {"[resnet18,resnet50,resnet152]": "[resnet18]", "16,64": f"16{_ONE_EPOCH}{_QUEUE}"},
        before=_COMMITTED,
    ),
    Run(
        "results.md",
        "dvc exp run -S crop.side=48",
        {"plateau_cnn3,plateau_lite0,plateau_lite0_longer]'": f"plateau_cnn3,plateau_lite0]'{_ONE_EPOCH}"},
        before=_COMMITTED,
    ),
)
