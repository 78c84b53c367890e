"""What a training step holds does not follow the number of objects: measured in processes of their own."""

import subprocess
import sys

import pytest

STEP = """
import sys, threading
import psutil, torch
from maskwise.data.synthetic.scenes import Scenes
from maskwise.methods import METHODS
from maskwise.structures import Images

count = int(sys.argv[2])
scene = Scenes(size=(1024, 1024), count=(count, count), radius=(8, 14), overlap=0).scene(0)
assert len(scene.targets) == count
images = Images.batch([torch.from_numpy(scene.pixels.transpose(2, 0, 1).copy()) / 255])
entry = METHODS[sys.argv[1]]
model = entry.build(entry.config(num_classes=8, backbone="resnet18")).train()
process, done = psutil.Process(), threading.Event()
rss = [process.memory_info().rss]


def watch():
    while not done.wait(0.002):
        rss.append(process.memory_info().rss)


watching = threading.Thread(target=watch)
watching.start()
sum(model(images, [scene.targets]).values()).backward()
done.set()
watching.join()
print(max(rss) - rss[0])
"""


def held(method: str, count: int) -> int:
    done = subprocess.run([sys.executable, "-c", STEP, method, str(count)], check=True, capture_output=True, text=True)
    return int(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["mask_rcnn", "ms_rcnn", "embed_mask"])
def test_375_objects_need_no_more_than_a_third_more_than_10(method):
    assert held(method, 375) <= 1.3 * held(method, 10)
