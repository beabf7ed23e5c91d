from __future__ import annotations

import torch

from reproduce.execution.metrics import topk_correct


def test_classes_are_ranked_and_compared_with_the_label() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0, 2.0, -1.0, -2.0], [5.0, 4.0, 3.0, 2.0, 1.0, 0.0]])
    classes, correct = topk_correct(logits, torch.tensor([3, 5]))
    assert classes.tolist() == [[1, 3, 2, 0, 4], [0, 1, 2, 3, 4]]
    assert correct.tolist() == [[False, True, False, False, False], [False] * 5]


def test_fewer_than_five_classes_are_all_ranked() -> None:
    classes, correct = topk_correct(torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([0]))
    assert classes.tolist() == [[2, 1, 0]]
    assert correct.tolist() == [[False, False, True]]
