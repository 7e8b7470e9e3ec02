"""Copies of pipelines' parts."""

from __future__ import annotations

import tiny
import torch
from copies import copier


def test_copies_have_tensors_of_their_own_which_stand_at_as_many_places():
    unet = tiny.unet2d()
    unet.same = unet.conv_in.weight
    make = copier({"unet": unet, "again": unet})
    one, two = make(), make()
    assert one["unet"] is one["again"] and one["unet"].same is one["unet"].conv_in.weight
    with torch.no_grad():
        one["unet"].conv_in.weight.zero_()
    for other in (unet, two["unet"]):
        assert other.conv_in.weight.any() and other.conv_in.weight is not one["unet"].conv_in.weight
    assert all(torch.equal(a, b) for a, b in zip(two["unet"].parameters(), unet.parameters(), strict=True))
    assert two["unet"].config == unet.config and two["unet"].conv_in.weight.requires_grad
