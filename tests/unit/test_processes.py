"""Work on all cores: results in order, and Ctrl-C answered by the caller alone."""

import signal

from fla.data.processes import map_on_all_cores


def square(number: int) -> int:
    return number * number


def ignores_ctrl_c(_: int) -> bool:
    return signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_results_come_in_the_order_of_the_items():
    assert list(map_on_all_cores(square, range(7), at_once=2)) == [0, 1, 4, 9, 16, 25, 36]
    assert list(map_on_all_cores(square, [])) == []


def test_ctrl_c_is_for_the_caller_and_not_for_the_workers():
    # Tests that a shell has put in the background inherit that it is ignored.
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        in_workers = list(map_on_all_cores(ignores_ctrl_c, range(4)))
        afterwards = signal.getsignal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, inherited)

    assert in_workers == [True] * 4
    assert afterwards is signal.default_int_handler
