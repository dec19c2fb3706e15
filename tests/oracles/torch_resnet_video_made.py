"""Makes torch_resnet_video.npz: the logits of PyTorch for the weights and clips of `torch_resnet_video`.

Command, where PyTorch is installed: PYTHONPATH=tests python tests/oracles/torch_resnet_video_made.py
"""

import numpy as np
import torch
from torch import nn

from oracles import torch_resnet_video


class Block(nn.Module):
    """A residual block under the names of 3D-ResNets-PyTorch."""

    def __init__(self, before, base, stride, kind, groups):
        super().__init__()
        self.stride, self.kind, three = stride, kind, kind == "resnext"
        self.after = 4 * base if three else base
        inner = 2 * base if three else base
        first = {"kernel_size": 1} if three else {"kernel_size": 3, "stride": stride, "padding": 1}
        self.conv1 = nn.Conv3d(before, inner, bias=False, **first)
        self.bn1 = nn.BatchNorm3d(inner)
        second = stride if three else 1
        self.conv2 = nn.Conv3d(inner, inner, 3, stride=second, padding=1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm3d(inner)
        if three:
            self.conv3 = nn.Conv3d(inner, self.after, 1, bias=False)
            self.bn3 = nn.BatchNorm3d(self.after)
        if before != self.after and kind != "basic_a":
            self.downsample = nn.Sequential(
                nn.Conv3d(before, self.after, 1, stride=stride, bias=False), nn.BatchNorm3d(self.after)
            )

    def forward(self, inputs):
        outputs = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(inputs)))))
        if self.kind == "resnext":
            outputs = self.bn3(self.conv3(torch.relu(outputs)))
        if hasattr(self, "downsample"):
            inputs = self.downsample(inputs)
        elif inputs.shape != outputs.shape:
            inputs = nn.functional.avg_pool3d(inputs, 1, self.stride)
            inputs = nn.functional.pad(inputs, (0,) * 7 + (self.after - inputs.shape[1],))
        return torch.relu(inputs + outputs)


class Network(nn.Module):
    """A network for clips [B, 3, T, H, W] under the names of 3D-ResNets-PyTorch."""

    def __init__(self, blocks, block, width, cardinality, stem, num_classes):
        super().__init__()
        steps = 3 if stem == "plain" else 7
        self.conv1 = nn.Conv3d(3, width, (steps, 7, 7), stride=(1, 2, 2), padding=(steps // 2, 3, 3), bias=False)
        self.bn1 = nn.BatchNorm3d(width)
        self.maxpool = nn.Identity() if stem == "plain" else nn.MaxPool3d(3, stride=2, padding=1)
        before = width
        for stage, count in enumerate(blocks):
            layers = []
            for index in range(count):
                stride = 2 if stage and not index else 1
                layers.append(Block(before, width * 2**stage, stride, block, cardinality))
                before = layers[-1].after
            setattr(self, f"layer{stage + 1}", nn.Sequential(*layers))
        self.fc = nn.Linear(before, num_classes)

    def forward(self, inputs):
        outputs = self.maxpool(torch.relu(self.bn1(self.conv1(inputs))))
        for stage in range(1, 5):
            outputs = getattr(self, f"layer{stage}")(outputs)
        return self.fc(outputs.mean((2, 3, 4)))


def main():
    inputs = torch.from_numpy(torch_resnet_video.clips().transpose(0, 4, 1, 2, 3).copy()).double()
    found = {}
    for name, shape in torch_resnet_video.SMALL.items():
        network = Network(**shape, num_classes=5)
        tensors = {key: torch.from_numpy(value) for key, value in torch_resnet_video.draw(**shape).items()}
        missing, unknown = network.load_state_dict(tensors, strict=False)
        assert not unknown and all(key.endswith("num_batches_tracked") for key in missing), (missing, unknown)
        with torch.no_grad():
            found[name] = network.double().eval()(inputs).numpy()
    np.savez(torch_resnet_video.TORCH, **found)


if __name__ == "__main__":
    main()
