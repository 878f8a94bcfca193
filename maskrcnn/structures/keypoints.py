"""What the keypoints of a data set are called, and what belongs together.

Legend: J = keypoints an instance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class KeypointSchema:
    """J keypoints of an instance.

    names: J names.
    skeleton: pairs of places in [0, J) to be joined by a line in pictures.
    """

    names: tuple[str, ...]
    skeleton: tuple[tuple[int, int], ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    @property
    def mirror(self) -> tuple[int, ...]:
        """For each keypoint, the one that takes its place in a mirror: left_* and right_* change places.

        Raises:
            ValueError: a name has no counterpart, as left_eye without right_eye.
        """
        places = {name: j for j, name in enumerate(self.names)}
        out = []
        for name in self.names:
            other = _counterpart(name)
            if other not in places:
                raise ValueError(
                    f"the keypoint {name!r} has no counterpart {other!r}, so it cannot be mirrored"
                )
            out.append(places[other])
        return tuple(out)


def _counterpart(name: str) -> str:
    """``left_eye`` <-> ``right_eye``, ``eye_left`` <-> ``eye_right``; any other name is its own."""
    for this, that in (("left", "right"), ("right", "left")):
        if name.startswith(f"{this}_"):
            return that + name[len(this) :]
        if name.endswith(f"_{this}"):
            return name[: -len(this)] + that
    return name


#: COCO's persons (Lin et al. 2014; ``categories`` of person_keypoints_*.json).
COCO_PERSON = KeypointSchema(
    (
        "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder",
        "left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee",
        "right_knee", "left_ankle", "right_ankle",
    ),
    (
        (15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8), (7, 9),
        (8, 10), (1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6),
    ),
)  # fmt: skip


def known_skeleton(count: int) -> Sequence[tuple[int, int]]:
    """The lines to draw where a data set's own are not at hand: COCO's for 17 keypoints, else none."""
    return COCO_PERSON.skeleton if count == len(COCO_PERSON) else ()
