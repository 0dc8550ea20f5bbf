"""Join the members' predictions and let them vote: MEMBERS JOINED OUT METRICS COMPARED."""

from pathlib import Path

from tumorboard.door import run
from tumorboard.evaluation.comparison import compare, headline
from tumorboard.evaluation.leftovers import remove_leftovers
from tumorboard.evaluation.vote import VOTES, join_members, vote_by_fold
from tumorboard.params import Params
from tumorboard.tables import read_predictions, write_json, write_table


def main(params: Params, members: str, joined: str, out: str, metrics: str, compared: str) -> None:
    """Write `joined`/<model>.csv, all folds of a model, and `out`/<vote>.csv, all models; and their scores.

    The heading vote's go to `metrics`, those of all votes and members to `compared`.
    """
    paths = {model: {fold: Path(members) / model / f"{fold}.csv" for fold in params.folds} for model in params.models}
    remove_leftovers(Path(members), "*/*.csv", [path for folds in paths.values() for path in folds.values()])
    tables = {model: {fold: read_predictions(path) for fold, path in folds.items()} for model, folds in paths.items()}
    panel = join_members(tables)
    votes = {name: vote(panel) for name, vote in VOTES.items()}
    for folder, judges in ((joined, panel), (out, votes)):
        for name, table in judges.items():
            write_table(table, Path(folder) / f"{name}.csv")

    scores = compare(tables, vote_by_fold(tables), panel, votes, params.evaluate, params.seed)
    write_json(scores, compared)
    write_json(headline(scores, params.ensemble.vote), metrics)


if __name__ == "__main__":
    run(main)
