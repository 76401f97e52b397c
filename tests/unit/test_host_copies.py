"""Copies of a checkpoint's state: what training does next does not reach them."""

from collections import OrderedDict

import torch

from fla.host_copies import copy_to_host


def test_a_copy_stays_as_it_was():
    state = {"module": OrderedDict(w=torch.ones(2)), "steps": [3, (torch.zeros(1),)], "lr": 0.1}

    copied = copy_to_host(state)
    state["module"]["w"].mul_(7)
    state["steps"][1][0].add_(1)

    assert copied["module"]["w"].tolist() == [1, 1]
    assert copied["steps"] == [3, (torch.zeros(1),)]
    assert (type(copied["module"]), copied["lr"]) == (OrderedDict, 0.1)


def test_tied_tensors_are_copied_once():
    shared = torch.ones(4)

    copied = copy_to_host({"embedding": shared, "head": shared})

    assert copied["embedding"] is copied["head"]


def test_of_a_view_only_its_part_is_copied():
    copied = copy_to_host([torch.arange(1000)[10:12]])

    assert copied[0].untyped_storage().nbytes() == 16


def test_parameters_stay_parameters():
    parameter = torch.nn.Parameter(torch.ones(1))

    copied = copy_to_host([parameter])[0]

    assert isinstance(copied, torch.nn.Parameter)
    assert copied is not parameter


def test_small_objects_are_copied_too():
    state = {"scaler": {"factors": {1, 2}}}

    copied = copy_to_host(state)
    state["scaler"]["factors"].add(3)

    assert copied == {"scaler": {"factors": {1, 2}}}
