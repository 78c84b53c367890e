"""What the labels of detectors trained on COCO mean."""

from maskwise.categories import PEOPLE, Categories

_LIST = """
person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, , stop sign,
parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, , backpack, umbrella, , ,
handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard,
surfboard, tennis racket, bottle, , wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange,
broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, , dining table, , , toilet, , tv,
laptop, mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, , book, clock, vase,
scissors, teddy bear, hair drier, toothbrush
"""
"""By their ids from 1 on. Ten were given up before the data set came out."""

_NAMES = {id_: name.strip() for id_, name in enumerate(_LIST.split(","), 1)}

COCO = Categories(
    names=tuple(name for name in _NAMES.values() if name), ids=tuple(id_ for id_, name in _NAMES.items() if name)
)
COCO_WITH_GAPS = Categories(names=tuple(name or f"unused {id_}" for id_, name in _NAMES.items()))
"""torchvision's, whose labels are the ids."""


def categories(classes: int, *, keypoints: int = 0) -> Categories:
    """As many classes and keypoints as COCO has are COCO's; others have numbers."""
    if (classes, keypoints) == (len(PEOPLE), len(PEOPLE.keypoints)):
        return PEOPLE
    known = {len(each): each for each in (COCO, COCO_WITH_GAPS)}
    return known.get(classes) or Categories(names=tuple(f"class {i}" for i in range(1, classes + 1)))
