"""Join the members' predictions and let them vote: MEMBERS OUT METRICS COMPARED."""

from pathlib import Path

from tumorboard.door import run
from tumorboard.evaluation.comparison import compare
from tumorboard.evaluation.leftovers import remove_leftovers
from tumorboard.evaluation.vote import VOTES, join_members
from tumorboard.params import Params
from tumorboard.tables import read_predictions, write_json, write_table


def main(params: Params, members: str, out: str, metrics: str, compared: str) -> None:
    """Write `out`/<vote>.csv, the heading vote's scores to `metrics`, all votes' and members' to `compared`."""
    paths = {model: {fold: Path(members) / model / f"{fold}.csv" for fold in params.folds} for model in params.models}
    remove_leftovers(Path(members), "*/*.csv", [path for folds in paths.values() for path in folds.values()])
    tables = {model: {fold: read_predictions(path) for fold, path in folds.items()} for model, folds in paths.items()}
    joined = join_members(tables)
    votes = {name: vote(joined) for name, vote in VOTES.items()}
    for name, table in votes.items():
        write_table(table, Path(out) / f"{name}.csv")

    scores = compare(tables, joined, votes, params.evaluate, params.seed)
    write_json(scores, compared)
    write_json({"vote": params.ensemble.vote} | scores["votes"][params.ensemble.vote]["test"], metrics)


if __name__ == "__main__":
    run(main)
