import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision import ops

from maskwise import boxes

coordinates = st.floats(-500, 500, width=32)


@st.composite
def box_lists(draw, least_side=0.0):
    rows = draw(
        st.lists(
            st.tuples(coordinates, coordinates, st.floats(least_side, 300), st.floats(least_side, 300)), max_size=6
        )
    )
    corner, side = torch.tensor(rows, dtype=torch.float32).reshape(-1, 4).split(2, 1)
    return torch.cat([corner, corner + side], 1)


@given(box_lists(least_side=1), st.sampled_from([boxes.WEIGHTS, (10.0, 10.0, 5.0, 5.0)]))
def test_decode_is_the_inverse_of_encode(some, weights):
    references = some.flip(0)
    back = boxes.decode(boxes.encode(some, references, weights), references, weights)
    near = (boxes.sides(some) / boxes.sides(references) < 1000 / 16).all(1)
    torch.testing.assert_close(back[near], some[near], atol=0.05, rtol=1e-4)


def test_a_wild_prediction_is_held_in_check():
    wild = boxes.decode(torch.full((1, 4), 1e4), torch.tensor([[0.0, 0, 16, 16]]))
    assert wild.isfinite().all()
    torch.testing.assert_close(boxes.sides(wild), torch.tensor([[1000.0, 1000.0]]))


@given(box_lists(), box_lists())
def test_iou_is_symmetric_and_equals_torchvision(some, others):
    value = boxes.iou(some, others)
    assert ((value >= 0) & (value <= 1 + 1e-5)).all()
    torch.testing.assert_close(value, boxes.iou(others, some).T)
    expected = torch.nan_to_num(ops.box_iou(some, others))
    torch.testing.assert_close(value, expected, atol=1e-4, rtol=1e-3)


@given(box_lists())
def test_flips_undo_themselves_and_conventions_come_back(some):
    for there in (boxes.flip_horizontal, boxes.flip_vertical):
        torch.testing.assert_close(there(there(some, 640.0), 640.0), some, atol=1e-3, rtol=0)
    torch.testing.assert_close(boxes.to_continuous(boxes.to_inclusive(some)), some, atol=1e-3, rtol=0)


@given(box_lists())
def test_clipped_boxes_are_inside(some):
    clipped = boxes.clip(some, (40, 60))
    assert ((clipped >= 0) & (clipped <= torch.tensor([60.0, 40, 60, 40]))).all()


def test_the_legacy_convention_counts_pixels_inclusively():
    one_pixel = torch.tensor([[3.0, 4, 4, 5]])
    assert boxes.to_inclusive(one_pixel).tolist() == [[3, 4, 3, 4]]
    assert boxes.at_least(one_pixel, 0.5).tolist() == [True]
    assert boxes.at_least(one_pixel, 1).tolist() == [False]
    assert boxes.scale(one_pixel, x=2, y=3).tolist() == [[6, 12, 8, 15]]
