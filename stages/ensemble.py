"""Joins the members' predictions, lets them vote, and compares the scores."""

from pathlib import Path

from tumorboard.base.files import remove_leftovers, write_json, write_table
from tumorboard.base.params import Params
from tumorboard.base.stage import Output, run_stage
from tumorboard.base.tables import read_predictions
from tumorboard.panel.comparison import compare_votes, headline


def main(params: Params, *, members: Path, joined: Output, votes: Output, metrics: Output, comparison: Output) -> None:
    """Joins the members' predictions, lets them vote, and writes tables and scores.

    The tables go to `joined`/<model>.csv and `votes`/<vote>.csv, the scores of all votes and members to `comparison`,
    and those of the vote that heads the report to `metrics`. Deletes from `members` the tables of models and folds that
    params.yaml no longer lists.
    """
    paths = _member_files(params, members)
    remove_leftovers(members, "*/*.csv", list(paths.values()))
    tables = {model: {fold: read_predictions(paths[model, fold]) for fold in params.folds} for model in params.models}
    compared = compare_votes(tables, params.evaluate, params.seed)
    for model, table in compared.members.items():
        write_table(table, joined / f"{model}.csv")
    for vote, table in compared.votes.items():
        write_table(table, votes / f"{vote}.csv")
    write_json(compared.scores, comparison)
    write_json(headline(compared.scores, params.ensemble.vote), metrics)


def _member_files(params: Params, members: Path) -> dict[tuple[str, int], Path]:
    return {(model, fold): members / model / f"{fold}.csv" for model in params.models for fold in params.folds}


if __name__ == "__main__":
    run_stage(main, lambda params, options: list(_member_files(params, options["members"]).values()))
