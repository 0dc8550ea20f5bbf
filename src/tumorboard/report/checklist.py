"""Fills in two reporting checklists from the files of a run: CLAIM 2024 and TRIPOD+AI.

The items are in our own short words; the numbers are the papers'. What the files do not contain is marked for the
author: a checklist that a program fills in must not claim what nobody wrote down.

Source:
    Tejani et al. 2024, Checklist for Artificial Intelligence in Medical Imaging (CLAIM): 2024 Update, 44 items.
    Collins et al. 2024, TRIPOD+AI statement, 27 items, here without their sub-items.
"""

from collections.abc import Callable
from typing import Any, TypedDict

from tumorboard.report import checklist_answers as answers
from tumorboard.report import checklist_data as data
from tumorboard.report.conclusions import Conclusions
from tumorboard.report.results import Results


class Item(TypedDict):
    """One item of a checklist."""

    number: int  # number of the item in the paper
    item: str  # the item in our words
    answer: Callable[[Results, Conclusions], str]  # returns sentences


CLAIM: list[Item] = [
    {"number": 1, "item": "title names the kind of AI", "answer": answers.for_author},
    {"number": 2, "item": "summary of design, methods, results", "answer": answers.for_author},
    {"number": 3, "item": "background and intended role", "answer": answers.for_author},
    {"number": 4, "item": "aims and hypotheses", "answer": answers.for_author},
    {"number": 5, "item": "prospective or retrospective", "answer": answers.for_author},
    {"number": 6, "item": "goal of the study", "answer": answers.for_author},
    {"number": 7, "item": "sources of the data", "answer": data.sources},
    {"number": 8, "item": "inclusion and exclusion", "answer": data.exclusions},
    {"number": 9, "item": "preprocessing", "answer": data.preprocessing},
    {"number": 10, "item": "selection of subsets", "answer": data.subsets},
    {"number": 11, "item": "de-identification", "answer": answers.for_author},
    {"number": 12, "item": "missing data", "answer": data.missing},
    {"number": 13, "item": "acquisition of the images", "answer": answers.for_author},
    {"number": 14, "item": "how the reference standard was obtained", "answer": answers.for_author},
    {"number": 15, "item": "why this reference standard", "answer": answers.for_author},
    {"number": 16, "item": "who annotated", "answer": answers.for_author},
    {"number": 17, "item": "how the test part was annotated", "answer": answers.for_author},
    {"number": 18, "item": "agreement within and between annotators", "answer": answers.for_author},
    {"number": 19, "item": "assignment to parts", "answer": data.partitions},
    {"number": 20, "item": "level at which parts are disjoint", "answer": data.disjointness},
    {"number": 21, "item": "intended sample size", "answer": data.sample_size},
    {"number": 22, "item": "the model", "answer": answers.models},
    {"number": 23, "item": "software and versions", "answer": answers.software},
    {"number": 24, "item": "initial weights", "answer": answers.initialization},
    {"number": 25, "item": "training", "answer": answers.training},
    {"number": 26, "item": "choice of the final model", "answer": answers.selection},
    {"number": 27, "item": "ensemble", "answer": answers.ensembling},
    {"number": 28, "item": "measures of performance", "answer": answers.measures},
    {"number": 29, "item": "significance and uncertainty", "answer": answers.uncertainty},
    {"number": 30, "item": "robustness or sensitivity analysis", "answer": answers.robustness},
    {"number": 31, "item": "explanations and their validation", "answer": answers.explanations},
    {"number": 32, "item": "evaluation on internal data", "answer": answers.internal},
    {"number": 33, "item": "test on external data", "answer": data.external},
    {"number": 34, "item": "registration as a trial", "answer": answers.for_author},
    {"number": 35, "item": "numbers included and excluded", "answer": data.included},
    {"number": 36, "item": "characteristics of each part", "answer": data.characteristics},
    {"number": 37, "item": "performance with uncertainty", "answer": answers.performance},
    {"number": 38, "item": "diagnostic accuracy with precision", "answer": answers.diagnostic_accuracy},
    {"number": 39, "item": "analysis of mistakes", "answer": answers.failures},
    {"number": 40, "item": "limitations", "answer": answers.limitations},
    {"number": 41, "item": "implications for practice", "answer": answers.use},
    {"number": 42, "item": "protocol and technical details", "answer": answers.technical_details},
    {"number": 43, "item": "availability of software, model, data", "answer": answers.availability},
    {"number": 44, "item": "funding", "answer": answers.for_author},
]

TRIPOD_AI: list[Item] = [
    {"number": 1, "item": "title", "answer": answers.for_author},
    {"number": 2, "item": "abstract", "answer": answers.for_author},
    {"number": 3, "item": "context, target population, inequalities", "answer": answers.for_author},
    {"number": 4, "item": "objectives", "answer": answers.for_author},
    {"number": 5, "item": "sources and dates of the data", "answer": data.sources},
    {"number": 6, "item": "setting, eligibility, treatments", "answer": data.participants},
    {"number": 7, "item": "preparation of the data", "answer": data.preprocessing},
    {"number": 8, "item": "outcome and its assessment", "answer": data.outcome},
    {"number": 9, "item": "predictors", "answer": data.predictors},
    {"number": 10, "item": "sample size", "answer": data.sample_size},
    {"number": 11, "item": "missing data", "answer": data.missing},
    {"number": 12, "item": "analytical methods", "answer": answers.analysis},
    {"number": 13, "item": "class imbalance", "answer": data.imbalance},
    {"number": 14, "item": "fairness", "answer": answers.fairness},
    {"number": 15, "item": "output of the model", "answer": answers.output},
    {"number": 16, "item": "differences of training and evaluation data", "answer": data.differences_of_parts},
    {"number": 17, "item": "ethical approval", "answer": answers.for_author},
    {"number": 18, "item": "open science: funding, protocol, data, code", "answer": answers.open_science},
    {"number": 19, "item": "involvement of patients and the public", "answer": answers.for_author},
    {"number": 20, "item": "participants: flow and characteristics", "answer": data.flow},
    {"number": 21, "item": "numbers in the model's development", "answer": data.development},
    {"number": 22, "item": "specification of the model", "answer": answers.specification},
    {"number": 23, "item": "performance and its heterogeneity", "answer": answers.performance_and_spread},
    {"number": 24, "item": "updating of the model", "answer": answers.updating},
    {"number": 25, "item": "interpretation", "answer": answers.for_author},
    {"number": 26, "item": "limitations", "answer": answers.limitations},
    {"number": 27, "item": "usability in current care", "answer": answers.usability},
]

CHECKLISTS = {"CLAIM 2024": CLAIM, "TRIPOD+AI": TRIPOD_AI}


def fill_in(results: Results, conclusions: Conclusions) -> dict[str, list[dict[str, Any]]]:
    """Answers both checklists.

    Returns:
        One dict per item (number, item, answer), by the checklist's name.
    """
    return {
        name: [{**item, "answer": item["answer"](results, conclusions)} for item in items]
        for name, items in CHECKLISTS.items()
    }
