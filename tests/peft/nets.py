"""CNNs as people write them: each a way in which a capture could go wrong."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

CHANNELS, LENGTH, CLASSES = 6, 24, 5


class Functional(nn.Module):
    """Everything by functions, a bare kernel included; and a value that is used in place."""

    def __init__(self):
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(8, CHANNELS, 3) / 4)
        self.conv = nn.Conv1d(8, 8, 4)
        self.norm = nn.BatchNorm1d(8)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x):
        x = functional.conv1d(x, self.kernel, padding=1)
        x = functional.leaky_relu(x, 0.1)
        y = self.norm(self.conv(functional.pad(x, (1, 2))))
        y += x
        kept = functional.relu(y, inplace=True)
        pooled = functional.max_pool1d(
            functional.dropout(kept, 0.5, self.training), 3, 2, padding=1
        )
        mean = functional.adaptive_avg_pool1d(pooled, 1).squeeze(-1)
        return self.head(torch.cat([mean, y.mean(dim=-1)], dim=1))


class Shared(nn.Module):
    """One convolution called twice, another one with its kernel, and one under two names."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv1d(CHANNELS, 8, 3, padding=1)
        self.twice = nn.Conv1d(8, 8, 3, padding=1)
        self.alias = self.twice
        self.tied = nn.Conv1d(8, 8, 3, padding=1, bias=False)
        self.tied.weight = self.twice.weight
        self.norm = nn.BatchNorm1d(8)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.relu(self.norm(self.alias(torch.relu(self.twice(x)))))
        return self.head(self.tied(x).mean(dim=-1))


class PreActivation(nn.Module):
    """Batch norm before the convolution, residuals around both, pooling that averages."""

    def __init__(self, activation=nn.ReLU):
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, stride=2, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(8) for _ in range(2))
        self.convs = nn.ModuleList(
            [
                nn.Conv2d(8, 8, 3, padding="same", dilation=2),
                nn.Conv2d(8, 8, 3, padding=1, groups=8),
            ]
        )
        self.activation = activation()
        self.pool = nn.AvgPool2d(2, ceil_mode=True)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x):
        x = self.stem(x.unsqueeze(1))
        for norm, conv in zip(self.norms, self.convs, strict=True):
            x = x + conv(self.activation(norm(x)))
        return self.head(torch.flatten(self.pool(x).mean(dim=(2, 3)), 1))


class Excited(nn.Module):
    """Squeeze and excitation: a product of feature maps has no lean form."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(CHANNELS, 8, 5, padding=2)
        self.norm = nn.BatchNorm1d(8)
        self.squeeze = nn.Conv1d(8, 8, 1)
        self.last = nn.Conv1d(8, 8, 3, padding=1, padding_mode="circular")
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x):
        x = functional.silu(self.norm(self.conv(x)))
        x = x * torch.sigmoid(self.squeeze(x.mean(dim=-1, keepdim=True)))
        return self.head(functional.hardswish(self.last(x)).amax(dim=-1))


class Viewed(nn.Module):
    """Flattens by `view`, which maps that lie innermost in memory do not allow."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(CHANNELS, 4, 3, stride=3)
        self.head = nn.Linear(4 * LENGTH // 3, CLASSES)

    def forward(self, x):
        x = torch.relu(self.conv(x))
        return self.head(x.view(x.size(0), -1))


class Deciding(Shared):
    """Decides by the values of its input: nothing that could be captured."""

    def forward(self, x):
        return super().forward(x if x.sum() > 0 else -x)


class Counting(Shared):
    """Depends on more than its input."""

    calls = 0

    def forward(self, x):
        self.calls += 1
        return super().forward(x) * self.calls


class Sized(nn.Module):
    """Sizes of the input, a scale for each layer, a bare scalar, and a linear map by function."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.rand(8, 1))
        self.scalar = nn.Parameter(torch.tensor(0.7))
        self.stem = nn.Conv1d(CHANNELS, 8, 3, padding=1)
        self.conv = nn.Conv1d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x):
        windows, _, length = x.shape
        frozen = torch.tanh(self.stem(x)) * self.scale + self.scalar
        y = torch.relu(self.conv(frozen)).view(windows, 8, length)
        y = nn.functional.linear(y.transpose(1, 2), self.conv.weight[:, :, 0]).transpose(1, 2)
        return self.head(y.mean(dim=-1).view(x.size(0), -1))


class Overwriting(nn.Module):
    """What works in place and has no lean form, and dropout that does behind a view."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv1d(CHANNELS, 8, 3, padding=1)
        self.conv = nn.Conv1d(8, 8, 3, padding=1)
        self.elu = nn.ELU(inplace=True)
        self.drop = nn.Dropout(0.3, inplace=True)
        self.head = nn.Linear(8 * LENGTH, CLASSES)

    def forward(self, x):
        y = self.elu(self.stem(x).mul_(1.5))
        y = torch.relu_(self.conv(y).clamp_(max=2.0))
        return self.head(self.drop(input=self.drop(y.flatten(1))))


class Tied(nn.Module):
    """The bias of a convolution is the shift of the batch norm behind it; another has none."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv1d(CHANNELS, 8, 3, padding=1)
        self.norm = nn.BatchNorm1d(8)
        self.norm.bias = self.stem.bias
        self.conv = nn.Conv1d(8, 8, 3, padding=1)
        self.plain = nn.BatchNorm1d(8)
        self.plain.register_parameter("bias", None)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x):
        y = torch.relu(self.norm(self.stem(x)))
        return self.head(torch.relu(self.plain(input=self.conv(y))).mean(dim=-1))


class Masked(nn.Module):
    """The mask of the input, which is no number of a window, is needed behind the first layer."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv1d(CHANNELS, 8, 3, padding=1)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x):
        present = (x != 0).any(dim=1, keepdim=True)
        return self.head((torch.relu(self.stem(x)) * present).mean(dim=-1))
