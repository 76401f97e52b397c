"""What comes next is prepared while the consumer is busy, and no more than that."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace

import pytest
import torch

from fla.ahead import Ahead, AheadEvalLoader, AheadTrainLoader
from fla.batch import Batch, Step
from fla.errors import DataError

NUM_STEPS = 4
WAIT_S = 10.0


def batch_of(number: int) -> Batch:
    return Batch(
        sample_ids=(str(number),),
        references=(str(number),),
        frame_lengths=torch.tensor([1]),
        labels=torch.tensor([[number]]),
        frames=torch.full((1, 3, 2, 2), float(number)),
    )


class Steps:
    """Steps of two batches, which are numbered through."""

    num_steps = NUM_STEPS
    num_batches = NUM_STEPS

    def __init__(self, *, fails_at: int = -1) -> None:
        self.fails_at = fails_at
        self.was_closed = False
        self.given = 0

    def epoch(self, epoch: int, *, first_step: int = 0) -> Iterator[Step[Batch]]:
        try:
            for number in range(first_step, NUM_STEPS):
                if number == self.fails_at:
                    raise DataError(f"clip {number} does not decode.")
                self.given += 1
                batches = (batch_of(2 * number), batch_of(2 * number + 1))
                yield Step(micro_batches=batches, num_tokens=number)
        finally:
            self.was_closed = True

    def __iter__(self) -> Iterator[Batch]:
        return map(batch_of, range(NUM_STEPS))


def encode(batch: Batch) -> Batch:
    assert batch.frames is not None
    return replace(batch, frames=None, features=batch.frames[:, :, 0, 0] * 10)


@pytest.fixture
def open_ahead() -> Iterator[Callable[..., Ahead]]:
    opened: list[Ahead] = []

    def open_one(prepare: Callable[[Batch], Batch] = encode, device: str = "cpu") -> Ahead:
        opened.append(Ahead(prepare, device=device))
        return opened[-1]

    yield open_one
    for ahead in opened:
        ahead.close()


def values(step: Step[Batch]) -> list[float]:
    return [float(batch.features[0, 0]) for batch in step.micro_batches]


def test_steps_arrive_prepared_and_in_order(open_ahead):
    loader = AheadTrainLoader(Steps(), open_ahead())

    steps = list(loader.epoch(0, first_step=1))

    assert [values(step) for step in steps] == [[20.0, 30.0], [40.0, 50.0], [60.0, 70.0]]
    assert [step.num_tokens for step in steps] == [1, 2, 3]
    assert all(batch.frames is None for step in steps for batch in step.micro_batches)


def test_an_evaluation_is_prepared_ahead_too(open_ahead):
    batches = list(AheadEvalLoader(Steps(), open_ahead()))

    assert [batch.sample_ids for batch in batches] == [("0",), ("1",), ("2",), ("3",)]
    assert all(batch.features is not None for batch in batches)


def test_encoding_of_the_next_step_begins_before_the_consumer_is_done_with_this_one(open_ahead):
    begun = [threading.Event() for _ in range(2 * NUM_STEPS)]

    def note(batch: Batch) -> Batch:
        begun[int(batch.sample_ids[0])].set()
        return encode(batch)

    loader = AheadTrainLoader(Steps(), open_ahead(note))

    for number, _ in enumerate(loader.epoch(0)):
        # The consumer has this step and does not let it go before the next one is begun.
        if number + 1 < NUM_STEPS:
            assert begun[2 * (number + 1)].wait(WAIT_S)


def test_no_more_than_one_step_is_prepared_ahead(open_ahead):
    steps = Steps()
    loader = AheadTrainLoader(steps, open_ahead())

    with closing(loader.epoch(0)) as epoch:
        next(epoch)
        time.sleep(0.1)

        assert steps.given == 2


def test_an_error_arrives_in_the_consumer_with_its_type_and_after_the_steps_before_it(open_ahead):
    loader = AheadTrainLoader(Steps(fails_at=2), open_ahead())
    seen = []

    with pytest.raises(DataError, match=r"^clip 2 does not decode\.$"):
        for step in loader.epoch(0):
            seen.append(step.num_tokens)

    assert seen == [0, 1]


def test_an_error_of_the_encoder_arrives_too(open_ahead):
    def fail(batch: Batch) -> Batch:
        raise RuntimeError(f"out of memory at {batch.sample_ids[0]}")

    with pytest.raises(RuntimeError, match="out of memory at 0"):
        next(AheadTrainLoader(Steps(), open_ahead(fail)).epoch(0))


def test_an_epoch_left_early_closes_the_loader_below(open_ahead):
    steps = Steps()
    epoch = AheadTrainLoader(steps, open_ahead()).epoch(0)
    next(epoch)

    epoch.close()

    assert steps.was_closed


def test_closing_leaves_no_thread_behind():
    before = set(threading.enumerate())
    ahead = Ahead(encode, device="cpu")
    epoch = AheadTrainLoader(Steps(), ahead).epoch(0)
    next(epoch)
    assert {thread.name for thread in set(threading.enumerate()) - before} == {"ahead_0"}

    ahead.close()

    assert set(threading.enumerate()) == before


def test_the_callers_modes_do_not_reach_the_encoder(open_ahead):
    seen: list[bool] = []

    def note(batch: Batch) -> Batch:
        seen.append(torch.is_autocast_enabled("cpu"))
        return encode(batch)

    with torch.autocast("cpu", torch.bfloat16):
        list(AheadEvalLoader(Steps(), open_ahead(note)))

    assert seen == [False] * NUM_STEPS


def test_waiting_for_the_encoder_is_measured(open_ahead):
    def slow(batch: Batch) -> Batch:
        time.sleep(0.02)
        return encode(batch)

    loader = AheadTrainLoader(Steps(), open_ahead(slow))
    begin_s = time.monotonic()

    list(loader.epoch(0))

    assert 2 * NUM_STEPS * 0.02 <= loader.waited_s <= time.monotonic() - begin_s


def test_the_thread_is_on_the_gpu_of_its_rank(monkeypatch: pytest.MonkeyPatch):
    taken: list[tuple[str, str]] = []
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: None)
    monkeypatch.setattr(
        torch.cuda,
        "set_device",
        lambda device: taken.append((threading.current_thread().name, device)),
    )
    ahead = Ahead(lambda batch: batch, device="cuda:3")

    next(AheadTrainLoader(Steps(), ahead).epoch(0))
    ahead.close()

    assert taken == [("ahead_0", "cuda:3")]


@pytest.mark.gpu
def test_features_of_a_side_stream_are_whole_when_they_are_used(open_ahead):
    weight = torch.randn(2048, 2048, device="cuda")

    def slow(batch: Batch) -> Batch:
        batch = batch.to("cuda")
        assert batch.frames is not None
        value = batch.frames[0, 0, 0, 0]
        features = torch.full((2048, 2048), float(value), device="cuda")
        for _ in range(20):
            features = (features @ weight).clamp(-1, 1) * 0 + value
        return replace(batch, frames=None, features=features)

    loader = AheadTrainLoader(Steps(), open_ahead(slow, device="cuda"))

    for epoch in range(5):
        for number, step in enumerate(loader.epoch(epoch)):
            for index, batch in enumerate(step.micro_batches):
                assert (batch.features == 2 * number + index).all()
