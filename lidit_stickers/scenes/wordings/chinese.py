"""The wide Chinese grammar, and sentences that mix Chinese and English."""

from __future__ import annotations

import re
from random import Random

from .. import chinese, english
from ..kinds import KNOWN_KINDS
from ..request import Item, SceneRequest
from .nouns import TRAINED_NOUNS
from .phrases import phrase
from .trained import TRAINED

LENGTHS = {None: 0.5, (8, 20): 0.25, (20, 34): 0.25}  # characters to be reached
PAIR = "一对"  # of two things
NUMBERS = {
    1: ("一", "一", "一", "1"),
    2: ("两", "两", "2"),
    3: ("三", "三", "3"),
    4: ("四", "四", "4"),
}
SIZES = {"small": ("小", "很小的", "小小的"), "big": ("大", "很大的", "大大的", "巨大的")}
AFTER_SHARE = 0.2  # of coloured groups whose colour comes after the noun
RELATIONS = {
    "left of": ("{a}在{b}的左边", "左边有{a},右边有{b}", "{b}在{a}的右侧", "最左边{a},最右边{b}"),
    "right of": ("{a}在{b}的右边", "右边有{a},左边有{b}", "{b}在{a}的左侧", "最右边{a},最左边{b}"),
    "above": ("{a}在{b}的上方", "上面有{a},下面有{b}", "{b}在{a}底下", "顶部{a},底部{b}"),
    "below": ("{a}在{b}的下方", "下面有{a},上面有{b}", "{a}在{b}底下", "底部{a},顶部{b}"),
}
PLACES = {
    "middle": ("中间有{a}", "{a}在正中央"),
    "left": ("左边有{a}", "{a}在左侧"),
    "right": ("右边有{a}", "{a}在右侧"),
    "top": ("上方有{a}", "{a}在顶部"),
    "bottom": ("下方有{a}", "{a}在底部"),
}
JOINS = ("和", "与", "、", ",", "还有")
BACKGROUNDS = (
    "{scene},背景是{bg}",
    "{scene},{bg}背景",
    "{bg}背景,{scene}",
    "背景为{bg},{scene}",
    "{scene},周围全是{bg}",
    "{scene}。背景是{bg}的",
)
FORMS = (
    "{scene}",
    "{scene}",
    "画面里有{scene}",
    "请画{scene}",
    "我想看{scene}",
    "给我画一张图:{scene}",
    "图中是{scene}",
    "能画{scene}吗?",
    "可以看到{scene}",
    "贴纸,{scene}",
)
TAGS = tuple(
    "杰作 高质量 细节丰富 贴纸 扁平设计 矢量图 可爱 卡通 简洁 高清 线条清晰 插画 童话风 明快 "
    "无文字 无水印 专业 手绘 柔和 图标".split()
)
STORIES = (
    "那是一个{mood}的{time},{who}{did}。",
    "{who}一直想要一张{mood}的图。",
    "在{mood}的{time},{who}总是{did}。",
    "整体感觉很{mood}。",
    "这张图送给{who}。",
    "听说{who}{did},大家都很高兴。",
    "{time}过去以后,{who}还在想这件事。",
    "请画得{mood}一些,不要太复杂。",
)
SLOTS = {
    "mood": tuple("安静 温暖 快乐 神秘 普通 忙碌 悠闲 奇怪 明亮 平和".split()),
    "time": tuple("早晨 傍晚 下午 夜晚 夏天 冬天 周末 假期 春天 秋天".split()),
    "who": tuple("奶奶 老画家 我的朋友 老师 妹妹 邻居 孩子们 叔叔 一位诗人 全家人".split()),
    "did": tuple("听音乐 谈天气 唱老歌 写信 散步 做饭 看窗外 讲故事 睡午觉 忘了时间".split()),
}


def group(item: Item, rng: Random) -> str:
    """Noun phrase: 两辆红色的汽车, 一辆汽车(红色)."""
    kind = KNOWN_KINDS[item.kind]
    size = rng.choice(SIZES[item.size]) if item.size else ""
    number = rng.choice(NUMBERS[item.count]) + kind.measure
    if item.count == 2 and not size and rng.random() < 0.15:
        number = PAIR
    if item.colour is None:
        return f"{number}{size}{kind.chinese}"
    colour = chinese.COLOUR_WORDS[item.colour]
    if rng.random() < AFTER_SHARE:
        return f"{number}{size}{kind.chinese}({colour})"
    return f"{number}{size}{colour}{rng.choice(('的', '的', ''))}{kind.chinese}"


def mixed_group(item: Item, rng: Random) -> str:
    """A group in either language, or a Chinese measure before an English noun."""
    chance = rng.random()
    if chance < 0.4:
        return phrase(item, TRAINED_NOUNS[item.kind], TRAINED, rng).text
    if chance < 0.75:
        return group(item, rng)
    kind = KNOWN_KINDS[item.kind]
    words = [word for word in (item.size, item.colour) if word]
    noun = rng.choice(TRAINED_NOUNS[item.kind])[0]
    return f"{rng.choice(NUMBERS[item.count])}{kind.measure}{' '.join([*words, noun])}"


def word(request: SceneRequest, rng: Random) -> str:
    """One Chinese wording of the request."""
    scene = _scene(request, [group(item, rng) for item in request.items], rng)
    if request.background is not None:
        bg = chinese.COLOUR_WORDS[request.background]
        scene = rng.choice(BACKGROUNDS).format(scene=scene, bg=bg)
    return _told(rng.choice(FORMS).format(scene=scene), rng)


def mixed(request: SceneRequest, rng: Random) -> str:
    """One wording of the request with Chinese and English in it."""
    return _in_both(request, [mixed_group(item, rng) for item in request.items], rng)


def halves(request: SceneRequest, rng: Random, english_first: bool) -> str:
    """One wording whose things, and then its background, are told in both languages by turns."""
    by_turns, groups = english_first, []
    for item in request.items:
        told = phrase(item, TRAINED_NOUNS[item.kind], TRAINED, rng).text
        groups.append(told if by_turns else group(item, rng))
        by_turns = not by_turns
    return _in_both(request, groups, rng, english_background=by_turns)


def _in_both(
    request: SceneRequest,
    groups: list[str],
    rng: Random,
    english_background: bool | None = None,  # None = by chance
) -> str:
    if rng.random() < 0.5 or request.place is not None:
        scene = _scene(request, groups, rng)
    elif request.relation is not None:
        scene = rng.choice(english.RELATION_WORDS[request.relation]).format(
            a=groups[0], b=groups[1]
        )
    else:
        scene = rng.choice((", ", " and ", " with ")).join(groups)
    if request.background is not None:
        if english_background is None:
            english_background = rng.choice((False, True))
        templates = english.BACKGROUND_WORDS if english_background else BACKGROUNDS
        colours = chinese.COLOUR_WORDS
        bg = request.background if english_background else colours[request.background]
        scene = rng.choice(templates).format(scene=scene, bg=bg)
    form = rng.choice(FORMS if rng.random() < 0.5 else ("{scene}", *english.OPENINGS))
    text = form.format(scene=scene) if "{scene}" in form else form + scene
    return _told(text, rng)


def _scene(request: SceneRequest, groups: list[str], rng: Random) -> str:
    if request.relation is not None:
        return rng.choice(RELATIONS[request.relation]).format(a=groups[0], b=groups[1])
    if request.place is not None:
        return rng.choice(PLACES[request.place]).format(a=groups[0])
    return rng.choice(JOINS).join(groups)


def _told(text: str, rng: Random) -> str:
    """The text with praise or story around it, up to a length that chance decides."""
    bounds = rng.choices(tuple(LENGTHS), tuple(LENGTHS.values()))[0]
    target, tagged = rng.randint(*bounds) if bounds else 0, rng.random() < 0.4
    while len(text) < target:
        first = rng.random() < 0.5
        more = rng.choice(TAGS) if tagged else _story(rng)
        between = "," if tagged else "" if first else "。"
        text = f"{more}{between}{text}" if first else f"{text}{between}{more}"
    wide = text.translate(chinese.WIDE)
    return re.sub(r"([\u3002\uff0c\uff1f])[\u3002\uff0c]+", r"\1", wide)


def _story(rng: Random) -> str:
    filled = {slot: rng.choice(choices) for slot, choices in SLOTS.items()}
    return rng.choice(STORIES).format_map(filled)
