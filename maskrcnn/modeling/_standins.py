"""Until the operators are merged."""
import torch
from torch import Tensor
import torchvision

def nms(boxes, scores, real, iou_threshold, count):
    index = boxes.new_zeros(len(boxes), count, dtype=torch.int64)
    number = boxes.new_zeros(len(boxes), dtype=torch.int64)
    for b in range(len(boxes)):
        rows = real[b].nonzero()[:, 0]
        kept = rows[torchvision.ops.nms(boxes[b, rows], scores[b, rows], iou_threshold)[:count]]
        index[b, : len(kept)] = kept
        number[b] = len(kept)
    return index, number

def match(truth, truth_real, boxes, low, high, low_quality, floor):
    from maskrcnn.modeling.matching import match_boxes
    out = []
    for i in range(len(truth)):
        rows = truth[i][truth_real[i]]
        out.append(match_boxes(rows, boxes if boxes.dim() == 2 else boxes[i], low, high, low_quality=low_quality, floor=floor))
    return torch.stack([o[0] for o in out]), torch.stack([o[1] for o in out])
