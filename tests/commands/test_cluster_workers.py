"""Which worker of a cluster gets which training, on a client that is none; test_cluster.py has a real cluster."""

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from tumorboard.base.errors import InputError
from tumorboard.commands import cluster as module
from tumorboard.commands.cluster import Cluster, check_cluster, run_on_cluster
from tumorboard.commands.cluster_worker import Order, Outcome, WorkerFacts, package_digest
from tumorboard.commands.own_checkout import Entry
from tumorboard.commands.run import app

Step = Callable[["FakeClient"], None]


class FakeFuture:
    def __init__(self) -> None:
        self.status, self.outcome, self.error = "pending", Outcome(0, None, None), RuntimeError()

    def result(self, timeout: float) -> Outcome:
        assert timeout
        return self.outcome

    def exception(self) -> Exception:
        return self.error

    def cancel(self) -> None:
        self.status = "cancelled"


class FakeClient:
    """Does one step whenever the run waits; notes what is submitted to whom."""

    def __init__(self, workers: dict[str, dict[str, float]], steps: list[Step]) -> None:
        self.workers, self.steps, self.status = workers, steps, "running"
        self.facts: dict[str, Any] = {}
        self.orders: list[tuple[str, str, Any]] = []  # worker, stage, resources
        self.futures: dict[str, FakeFuture] = {}  # the latest of each stage

    def __enter__(self) -> "FakeClient":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def subscribe_topic(self, *_: object) -> None:
        pass

    def scheduler_info(self, **_: object) -> dict[str, Any]:
        return {"workers": {}}  # as it is between two questions, where Dask has asked for the cluster's totals

    @property
    def scheduler(self) -> SimpleNamespace:
        return SimpleNamespace(identity=self.identity)

    def identity(self, n_workers: int) -> dict[str, Any]:
        assert n_workers == -1
        return {"workers": {address: {"resources": each} for address, each in self.workers.items()}}

    def sync(self, function: Callable[..., Any], *, callback_timeout: float, **options: Any) -> Any:
        assert callback_timeout == module.WAIT_SECONDS, "a scheduler that hangs is a lost one"
        return function(**options)

    def run(self, _: object, marker: str, workers: list[str], on_error: str) -> dict[str, Any]:
        assert on_error == "return"
        sees = Path(marker).exists()
        return {
            each: self.facts.get(each, WorkerFacts(f"host-{each}", "1", package_digest(), sees)) for each in workers
        }

    def submit(self, _: object, order: Order, *, workers: list[str], resources: Any, **_options: object) -> FakeFuture:
        self.orders.append((*workers, order.stage, resources))
        self.futures[order.stage] = FakeFuture()
        return self.futures[order.stage]

    def wait(self, _: float) -> None:
        self.steps.pop(0)(self)


def ends(*stages: str) -> Step:
    def step(client: FakeClient) -> None:
        for stage in stages:
            client.futures[stage].status = "finished"

    return step


def loses(worker: str) -> Step:
    return lambda client: client.workers.pop(worker) and None


def joins(worker: str) -> Step:
    return lambda client: client.workers.update({worker: {}})


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Any]]:
    """run(client, stages) runs trainings on a client."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "release_locks", lambda _: None)

    def runs(client: FakeClient, *stages: str, received: tuple[int, ...] | list[int] = ()) -> list[Any]:
        monkeypatch.setattr("tumorboard.data.workers.open_client", lambda *_: client)
        monkeypatch.setattr(module, "time", SimpleNamespace(sleep=client.wait, monotonic=lambda: 0.0))
        files = {stage: tmp_path / f"{stage}.log" for stage in stages}
        return run_on_cluster(
            files, Cluster("tcp://there:1", own_checkouts=False), [] if received is None else received
        )

    return runs


def test_a_worker_has_one_training_at_a_time_and_one_that_joins_has_the_next(run: Callable[..., list[Any]]) -> None:
    client = FakeClient({"a": {}, "b": {}}, [joins("c"), ends("t3"), ends("t1", "t2"), ends("t4"), ends("t5")])
    assert [training.state for training in run(client, "t1", "t2", "t3", "t4", "t5")] == ["done"] * 5
    assert [order[:2] for order in client.orders] == [("a", "t1"), ("b", "t2"), ("c", "t3"), ("c", "t4"), ("a", "t5")]
    assert {resources for *_, resources in client.orders} == {None}


def test_where_workers_declare_gpus_only_these_train(run: Callable[..., list[Any]]) -> None:
    client = FakeClient({"a": {}, "b": {"GPU": 1}}, [ends("t1"), ends("t2")])
    run(client, "t1", "t2")
    assert client.orders == [("b", "t1", {"GPU": 1}), ("b", "t2", {"GPU": 1})]


def test_the_training_of_a_lost_worker_is_the_next_of_another(
    run: Callable[..., list[Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    client = FakeClient({"a": {}, "b": {}}, [loses("a"), ends("t2"), ends("t1"), ends("t3")])
    assert {training.state for training in run(client, "t1", "t2", "t3")} == {"done"}
    assert [order[:2] for order in client.orders] == [("a", "t1"), ("b", "t2"), ("b", "t1"), ("b", "t3")]
    assert "queued   t1  the worker on host-a is lost\n" in capsys.readouterr().out


def test_a_training_that_loses_four_workers_has_failed(run: Callable[..., list[Any]]) -> None:
    steps = [step for worker in "abcd" for step in (loses(worker), joins(chr(ord(worker) + 1)))]
    (training,) = run(FakeClient({"a": {}}, steps), "t1")
    assert training.state == "failed"
    assert training.reason().startswith("4 workers were lost")


def test_failed_trainings_have_their_reason_and_leave_the_others(run: Callable[..., list[Any]]) -> None:
    def step(client: FakeClient) -> None:
        ends("t1", "t3")(client)
        client.futures["t1"].outcome = Outcome(1, "begun\ntrain: the loss is not finite\n", None)
        client.futures["t2"].status, client.futures["t2"].error = "error", OSError("disk full")

    first, second, third = run(FakeClient({"a": {}, "b": {}, "c": {}}, [step]), "t1", "t2", "t3")
    assert str(first) == "failed   t1  train: the loss is not finite"
    assert str(second) == "failed   t2  the worker on host-b: disk full"
    assert third.state == "done"


def test_workers_with_another_tumorboard_or_none_are_named_and_not_used(
    run: Callable[..., list[Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    client = FakeClient({"a": {}, "b": {}, "c": {}}, [ends("t1"), ends("t2")])
    client.facts = {"a": WorkerFacts("host-a", "0.9", "00", True), "b": ModuleNotFoundError("No module named 'x'")}
    run(client, "t1", "t2")
    assert {worker for worker, *_ in client.orders} == {"c"}
    said = capsys.readouterr().err
    assert "the worker a on host-a has another tumorboard (0.9)" in said
    assert "the worker b has no tumorboard, or another one (No module named 'x')" in said

    del client.workers["c"]
    with pytest.raises(InputError, match="no worker that can train this study"):
        run(client, "t3")


def test_a_worker_that_needs_a_checkout_is_refused_where_the_study_has_no_commit(
    run: Callable[..., list[Any]], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: object) -> None:
        raise InputError("params.yaml has changes that no commit has")

    monkeypatch.setattr(module, "publish_study", refuse)
    client = FakeClient({"a": {}, "b": {}}, [ends("t1")])
    client.facts = {"a": WorkerFacts("host-a", "1", package_digest(), False)}
    run(client, "t1")
    assert client.orders[0][0] == "b"
    assert "host-a needs a checkout of its own, but params.yaml has changes" in capsys.readouterr().err


def test_a_lost_scheduler_and_one_without_tumorboard_are_named(run: Callable[..., list[Any]]) -> None:
    client = FakeClient({"a": {}}, [lambda client: setattr(client, "status", "connecting")])
    with pytest.raises(InputError, match="the scheduler at tcp://there:1 is lost"):
        run(client, "t1")

    def fail(client: FakeClient) -> None:
        client.futures["t1"].status = "error"
        client.futures["t1"].error = RuntimeError("Error during deserialization of the task graph.")

    with pytest.raises(InputError, match="the scheduler lacks tumorboard"):
        run(FakeClient({"a": {}}, [fail]), "t1")


def test_after_a_signal_nothing_begins_and_what_runs_is_cancelled(run: Callable[..., list[Any]]) -> None:
    received: list[int] = []
    client = FakeClient({"a": {}}, [lambda _: received.append(15)])
    run(client, "t1", "t2", received=received)
    assert [stage for _, stage, _ in client.orders] == ["t1"]
    assert client.futures["t1"].status == "cancelled"


def test_a_result_that_cannot_be_fetched_fails_its_training(
    run: Callable[..., list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: object) -> None:
        raise InputError("the DVC remote lacks some of its outputs")

    def step(client: FakeClient) -> None:
        ends("t1")(client)
        client.futures["t1"].outcome = Outcome(0, "epoch 1/1\n", Entry("key", "value", "text"))

    monkeypatch.setattr(module, "take_result", refuse)
    (training,) = run(FakeClient({"a": {}}, [step]), "t1")
    assert str(training) == "failed   t1  the DVC remote lacks some of its outputs"
    assert training.log.read_text().startswith("epoch 1/1\n")


def test_a_scheduler_that_does_not_answer_and_options_of_this_machine_are_refused_first(closed_address: str) -> None:
    with pytest.raises(InputError, match=f"--scheduler: no Dask scheduler answers at {closed_address} within 1 s"):
        check_cluster(Cluster(closed_address, own_checkouts=False))
    for words, message in (
        (["--scheduler", "train@cnn-0"], "'train@cnn-0' is no address, such as tcp://host:8786"),
        (["--scheduler", "tcp://a:1", "--jobs", "2"], "--jobs and --gpus divide this machine"),
        (["--own-checkouts"], "name its scheduler"),
    ):
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 1
        assert message in result.output


def test_the_locks_of_a_lost_training_are_released_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class FakeRepo:
        lock = nullcontext()
        tmp_dir = str(tmp_path)

        def __init__(self, **_: object) -> None:
            pass

        def __enter__(self) -> "FakeRepo":
            return self

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr("tumorboard.commands.trainings.Repo", FakeRepo)
    module.release_locks("train@cnn-0")  # there is no file
    lost = {"pid": 7, "cmd": "/x/cluster_worker.py train@cnn-0"}
    other = {"pid": 7, "cmd": "/x/cluster_worker.py train@my_train@cnn-0"}
    tree = {"write": {"/w/1": lost, "/w/2": other}, "read": {"/r/1": [lost, other], "/r/2": [lost]}}
    (tmp_path / "rwlock").write_text("{")
    module.release_locks("train@cnn-0")  # nor is a damaged one an error here
    (tmp_path / "rwlock").write_text(json.dumps(tree))
    module.release_locks("train@cnn-0")
    assert json.loads((tmp_path / "rwlock").read_text()) == {"write": {"/w/2": other}, "read": {"/r/1": [other]}}
