"""What is set on a node's widgets: their defaults, or for a second trial what lies beside them.

Many nodes do nothing at their defaults, as a strength of 0, so that a trial of these alone says
nothing of them.
"""

from __future__ import annotations

import math
from typing import Any

from node_benches import STEPS
from node_sockets import Socket

# widgets that set how much is computed, or what is drawn; all others keep their defaults
SIDES = ("width", "height", "target_width", "target_height")
SMALL = {"steps": STEPS, "length": 5, "video_frames": 5, "frames_number": 5, "seconds": 1.0}
SMALL |= {"cfg": 3.0, "seed": 4, "noise_seed": 4}
NOTHING_SET = {"INT": 0, "FLOAT": 0.0, "STRING": "", "BOOLEAN": False}
PROMPT = "a cat to the left of a red balloon on a blue background"
WIDGETS = (*NOTHING_SET, "COMBO")

SHARE = 3  # a number is moved by this part of the way that it has, or of itself where that is less
STAYS = SMALL.keys() - {"cfg"}  # in a second trial
# what no range says, by type and name: blocks that every model of the benches has, a part of the
# sampling in which steps lie, tiles smaller than the picture, a change that a step stays under
BLOCKS = {("STRING", name): "1, 2" for name in ("layers", "double_layers", "blocks")}
SAID: dict[tuple[str, str], Any] = BLOCKS | {("FLOAT", "start_percent"): 0.1}
SAID |= {("FLOAT", "end_percent"): 0.9, ("INT", "tile_size"): 32}
SAID |= {("FLOAT", "reuse_threshold"): 2.0}


def widget(name: str, socket: Socket, side: int) -> Any:
    """What is set where nothing is connected.

    Args:
        side: pixels of the picture's sides.
    """
    options = socket.options
    if socket.kind == "COMBO":
        default = options.get("default")
        return default if default in socket.choices else socket.choices[0]
    small = SMALL | dict.fromkeys(SIDES, side)
    if name in small and not isinstance(options.get("default"), str):
        low, high = options.get("min", 0), options.get("max", small[name])
        return min(max(small[name], low), high)
    default = options.get("default", options.get("min"))
    if socket.kind == "STRING" and options.get("multiline") and not default:
        return PROMPT
    return NOTHING_SET[socket.kinds[0]] if default is None else default


def moved(name: str, socket: Socket, value: Any) -> Any:
    """Another value than this one: the next choice, the other of two, a number beside it."""
    if name in SIDES and socket.kind == "INT":
        return max(value // 2, socket.options.get("min", 1))
    if name in STAYS:
        return value
    if (socket.kind, name) in SAID:
        said = SAID[socket.kind, name]
        return said if isinstance(said, str) else max(said, socket.options.get("min", said))
    if socket.kind == "COMBO":
        return socket.choices[(socket.choices.index(value) + 1) % len(socket.choices)]
    if socket.kind == "BOOLEAN":
        return not value
    if socket.kind in ("INT", "FLOAT") and not isinstance(value, str):
        return _beside(socket, value)
    return value


def _beside(socket: Socket, value: float) -> float:
    """A number towards its largest, or towards its smallest where it is the largest."""
    low, high = (socket.options.get(end, far) for end, far in (("min", 0), ("max", math.inf)))
    end = high if high > value else low
    way = min(abs(end - value), max(abs(value), 1)) / SHARE
    if socket.kind == "INT":
        step = socket.options.get("step", 1)
        way = int(min(max(round(way / step), 1) * step, abs(end - value)))
        return value + (way if end > value else -way)
    return round(value + math.copysign(way, end - value), 3)
