"""Chinese wordings of scene requests: a finite grammar."""

from __future__ import annotations

from random import Random

from .kinds import KNOWN_KINDS
from .request import Item, SceneRequest

NUMBERS = {1: "一", 2: "两", 3: "三", 4: "四"}
COLOUR_WORDS = {
    "red": "红色",
    "orange": "橙色",
    "yellow": "黄色",
    "green": "绿色",
    "blue": "蓝色",
    "purple": "紫色",
    "pink": "粉色",
    "white": "白色",
}
SIZE_WORDS = {"small": ("很小的", "小小的"), "big": ("很大的", "大大的")}
OPENINGS = ("", "", "图片:", "画", "请画")  # the last two only before objects
BACKGROUND_WORDS = (
    "{bg}背景上的{scene}",
    "{scene},{bg}背景",
    "{scene},{bg}背景",
    "{scene},背景是{bg}的",
    "在{bg}背景上,{scene}",
    "{bg}的背景,{scene}",
)
PAIR_WORDS = ("{a}和{b}", "{a}和{b}", "{a}与{b}", "{a}、{b}")
RELATION_WORDS = {
    "left of": ("{a}在{b}的左边", "{a}在{b}左侧", "左边是{a},右边是{b}", "{b}的左边有{a}"),
    "right of": ("{a}在{b}的右边", "{a}在{b}右侧", "右边是{a},左边是{b}", "{b}的右边有{a}"),
    "above": ("{a}在{b}的上面", "{a}在{b}上方", "上面是{a},下面是{b}", "{b}的上面有{a}"),
    "below": ("{a}在{b}的下面", "{a}在{b}下方", "下面是{a},上面是{b}", "{b}的下面有{a}"),
}
WIDE = str.maketrans(",:", "\uff0c\uff1a")  # Chinese punctuation


def word(request: SceneRequest, rng: Random) -> str:
    """One wording of the request."""
    phrases = [_phrase(item, rng) for item in request.items]
    if request.relation is not None:
        scene = rng.choice(RELATION_WORDS[request.relation]).format(a=phrases[0], b=phrases[1])
    elif len(phrases) == 2:
        scene = rng.choice(PAIR_WORDS).format(a=phrases[0], b=phrases[1])
    else:
        scene = "、".join(phrases[:-1]) + ("和" if len(phrases) > 1 else "") + phrases[-1]
    if request.background is not None:
        words = BACKGROUND_WORDS if request.relation is None else BACKGROUND_WORDS[1:]
        bg = COLOUR_WORDS[request.background]
        return rng.choice(words).format(scene=scene, bg=bg).translate(WIDE)
    openings = OPENINGS if request.relation is None else OPENINGS[:3]
    return (rng.choice(openings) + scene).translate(WIDE)


def _phrase(item: Item, rng: Random) -> str:
    """Noun phrase: 一辆红色的汽车."""
    kind = KNOWN_KINDS[item.kind]
    size = "" if item.size is None else rng.choice(SIZE_WORDS[item.size])
    colour = "" if item.colour is None else COLOUR_WORDS[item.colour] + "的"
    return f"{NUMBERS[item.count]}{kind.measure}{size}{colour}{kind.chinese}"
