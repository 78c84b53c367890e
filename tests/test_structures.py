import pickle

import pytest
import torch

from maskwise.masks import Masks
from maskwise.structures import Images, Instances, Parts, Targets


def squares(n, size=(20, 30)):
    dense = torch.zeros(n, *size, dtype=torch.bool)
    for i in range(n):
        dense[i, i : i + 4, 2 * i : 2 * i + 5] = True
    return Masks.from_dense(dense)


def targets(n=3):
    parts = Parts(masks=squares(4), labels=torch.arange(4), owner=torch.tensor([0, 2, 2, 1]))
    return Targets.from_masks(
        squares(n), torch.arange(n), depth=torch.arange(n), keypoints=torch.rand(n, 5, 3), parts=parts
    )


def instances(scores):
    n = len(scores)
    ranks = torch.tensor(scores)
    return Instances(
        boxes=squares(n).boxes(),
        labels=torch.arange(n),
        scores=ranks,
        quality=ranks,
        mask_scores=ranks,
        masks=squares(n),
    )


def test_a_batch_pads_to_one_size_and_remembers_each():
    images = Images.batch([torch.ones(3, 20, 50), torch.ones(3, 33, 10)], originals=[(40, 100), (33, 10)])
    assert images.pixels.shape == (2, 3, 64, 64)
    assert images.sizes == ((20, 50), (33, 10))
    assert images.scale(0) == (2.0, 2.0)
    assert images.inside().sum((1, 2)).tolist() == [20 * 50, 33 * 10]
    assert (images.pixels[:, 0] == images.inside()).all()


def test_a_batch_is_of_pictures_in_0_to_1():
    with pytest.raises(ValueError, match=r"0\.\.1.*picture 1 is torch\.uint8.*255"):
        Images.batch([torch.ones(3, 4, 4), torch.ones(3, 4, 4, dtype=torch.uint8)])
    with pytest.raises(ValueError, match="at least one picture"):
        Images.batch([])


def test_padding_is_zero_after_normalisation():
    images = Images.batch([torch.rand(3, 20, 50)])
    normal = images.normalized((0.5, 0.4, 0.3), (0.2, 0.2, 0.1))
    assert (normal[~images.inside()[:, None].expand_as(normal)] == 0).all()
    torch.testing.assert_close(normal[0, 2, :20, :50], (images.pixels[0, 2, :20, :50] - 0.3) / 0.1)


def test_choosing_instances_keeps_all_their_fields_together():
    chosen = targets()[torch.tensor([2, 0])]
    assert chosen.labels.tolist() == chosen.depth.tolist() == [2, 0]
    assert (chosen.masks.dense() == squares(3).dense()[[2, 0]]).all()
    assert chosen.parts.owner.tolist() == [1, 0, 0]
    assert chosen.parts.labels.tolist() == [0, 1, 2]
    assert len(targets()[targets().labels > 5]) == 0


@pytest.mark.parametrize("several", [squares(3), targets(), instances([0.9, 0.5, 0.3])], ids=lambda s: type(s).__name__)
def test_one_after_another_they_are_pieces_of_one(several):
    def bits(piece):
        return (piece if isinstance(piece, Masks) else piece.masks).dense()

    pieces = list(several)
    assert [type(piece) for piece in pieces] == [type(several)] * 3
    assert [len(piece) for piece in pieces] == [1, 1, 1]
    assert torch.equal(torch.cat([bits(piece) for piece in pieces]), bits(several))
    assert torch.equal(bits(several[-1]), bits(several)[2:])
    assert torch.equal(bits(several[torch.tensor(1)]), bits(several)[1:2])
    with pytest.raises(IndexError, match="3"):
        several[3]
    with pytest.raises(TypeError, match="a position, a slice, a list"):
        several[torch.zeros(1, 1, dtype=torch.int64)]


def test_they_are_equal_to_themselves_alone():
    """Whether tensors are equal has no one answer."""
    for make in (squares, targets, lambda n: instances([0.5] * n), lambda n: Images.batch([torch.ones(3, 4, 4)] * n)):
        one, other = make(2), make(2)
        assert one in [other, one]
        assert one not in [other]
        assert len({one, other, one}) == 2


def test_instances_are_ranked_by_mask_score_and_ties_keep_their_order():
    assert instances([0.2, 0.9, 0.9, 0.5]).ranked().labels.tolist() == [1, 2, 3, 0]


def test_boxes_are_tight_around_masks():
    assert targets().boxes.tolist() == [[0, 0, 5, 4], [2, 1, 7, 5], [4, 2, 9, 6]]


def test_empty_ones_have_the_right_shapes():
    assert len(Targets.none((4, 5))) == len(Instances.none((4, 5))) == 0
    assert Instances.none((4, 5)).boxes.shape == (0, 4)


def test_fields_of_different_length_are_refused_with_both_numbers():
    two = squares(2)
    with pytest.raises(ValueError, match=r"number of instances differs: .*labels 2, masks 3"):
        Targets(boxes=two.boxes(), labels=torch.arange(2), masks=squares(3), crowd=torch.zeros(2).bool())
    with pytest.raises(ValueError, match="number of pictures differs"):
        Images(pixels=torch.zeros(2, 3, 4, 4), sizes=((4, 4),), originals=((4, 4),))


def test_shapes_are_checked_while_tests_run():
    with pytest.raises(Exception, match="boxes"):
        Targets(boxes=torch.zeros(1, 5), labels=torch.zeros(1).long(), masks=squares(1), crowd=torch.zeros(1).bool())


def test_they_travel_between_processes_and_devices():
    again = pickle.loads(pickle.dumps(targets())).to("cpu")
    assert (again.masks.dense() == targets().masks.dense()).all()
    assert again.parts.owner.tolist() == [0, 2, 2, 1]
