"""The vocabulary of the sticker scenes: kinds of object, colours and backgrounds, with words."""

from __future__ import annotations

from dataclasses import dataclass

COLOURS: dict[str, tuple[float, float, float]] = {  # name -> hue, saturation, value in [0, 1]
    "red": (0.995, 0.85, 0.88),
    "orange": (0.075, 0.92, 0.98),
    "yellow": (0.142, 0.82, 0.98),
    "green": (0.345, 0.72, 0.66),
    "blue": (0.590, 0.80, 0.86),
    "purple": (0.770, 0.62, 0.74),
    "pink": (0.920, 0.46, 1.00),
}
BACKGROUNDS: dict[str, tuple[int, int, int]] = {  # name -> pastel RGB, 0..255
    "yellow": (255, 238, 150),
    "blue": (172, 212, 250),
    "green": (180, 232, 178),
    "pink": (255, 192, 212),
    "purple": (208, 186, 244),
    "white": (252, 252, 252),
}
ALL = tuple(COLOURS)

Noun = tuple[str, str]  # singular, plural


@dataclass(frozen=True)
class ObjectKind:
    """One kind of object: its emoji and the words for it."""

    key: str
    emoji: str
    nouns: tuple[Noun, ...]  # the first is the name, the others are trained synonyms
    unseen: tuple[Noun, ...]  # synonyms that no training caption uses
    chinese: str
    measure: str  # Chinese measure word
    natural: str | None = None  # colour of the glyph as the font has it, if it has one name
    colours: tuple[str, ...] = ()  # colours it can be drawn in; empty: never coloured

    @property
    def name(self) -> str:
        """The plain English name, singular."""
        return self.nouns[0][0]


def nouns_of(words: str) -> tuple[Noun, ...]:
    """Read 'car/cars auto' as (('car', 'cars'), ('auto', 'autos')); '_' stands for a space."""
    pairs = (word.replace("_", " ").partition("/") for word in words.split())
    return tuple((one, many or one + "s") for one, _, many in pairs)


def _kind(
    key: str,
    emoji: str,
    nouns: str,
    unseen: str,
    chinese: str,
    natural: str | None = None,
    colours: tuple[str, ...] = (),
) -> ObjectKind:
    name, measure = chinese.split()
    return ObjectKind(
        key, emoji, nouns_of(nouns), nouns_of(unseen), name, measure, natural, colours
    )


_TABLE = (
    _kind("apple", "🍎", "apple", "", "苹果 个", "red", ("red", "yellow", "green")),
    _kind("banana", "🍌", "banana", "plantain", "香蕉 根"),
    _kind("grapes", "🍇", "bunch_of_grapes/bunches_of_grapes", "", "葡萄 串"),
    _kind("strawberry", "🍓", "strawberry/strawberries", "", "草莓 颗"),
    _kind("watermelon", "🍉", "slice_of_watermelon/slices_of_watermelon", "", "西瓜 块"),
    _kind("lemon", "🍋", "lemon", "", "柠檬 个"),
    _kind("pineapple", "🍍", "pineapple", "ananas/ananases", "菠萝 个"),
    _kind("carrot", "🥕", "carrot", "", "胡萝卜 根"),
    _kind("pumpkin", "🎃", "pumpkin", "jack-o'-lantern", "南瓜 个"),
    _kind("pizza", "🍕", "pizza slice_of_pizza/slices_of_pizza", "", "披萨 块"),
    _kind("hamburger", "🍔", "hamburger burger", "cheeseburger", "汉堡 个"),
    _kind("doughnut", "🍩", "doughnut donut", "", "甜甜圈 个"),
    _kind("cake", "🎂", "cake birthday_cake", "", "蛋糕 个"),
    _kind("ice_cream", "🍦", "ice_cream ice_cream_cone", "soft_serve", "冰淇淋 个"),
    _kind("cat", "🐱", "cat kitty/kitties", "feline kitten", "猫 只"),
    _kind("dog", "🐶", "dog", "puppy/puppies hound canine", "狗 只"),
    _kind("fox", "🦊", "fox/foxes", "vixen", "狐狸 只"),
    _kind("panda", "🐼", "panda panda_bear", "", "熊猫 只"),
    _kind("frog", "🐸", "frog", "toad amphibian", "青蛙 只"),
    _kind("rabbit", "🐰", "rabbit bunny/bunnies", "hare", "兔子 只"),
    _kind("lion", "🦁", "lion", "", "狮子 只"),
    _kind("pig", "🐷", "pig", "hog piglet", "猪 只"),
    _kind("monkey", "🐵", "monkey", "ape chimp", "猴子 只"),
    _kind("turtle", "🐢", "turtle", "tortoise", "乌龟 只"),
    _kind("fish", "🐟", "fish/fish", "", "鱼 条", "blue", ALL),
    _kind("butterfly", "🦋", "butterfly/butterflies", "", "蝴蝶 只", "orange", ALL),
    _kind("bee", "🐝", "bee", "honeybee bumblebee", "蜜蜂 只"),
    _kind("octopus", "🐙", "octopus/octopuses", "", "章鱼 只"),
    _kind("snail", "🐌", "snail", "", "蜗牛 只"),
    _kind("penguin", "🐧", "penguin", "", "企鹅 只"),
    _kind("owl", "🦉", "owl", "", "猫头鹰 只"),
    _kind("whale", "🐳", "whale", "", "鲸鱼 条"),
    _kind("crab", "🦀", "crab", "", "螃蟹 只"),
    _kind("chick", "🐤", "chick", "duckling", "小鸡 只"),
    _kind("elephant", "🐘", "elephant", "", "大象 头"),
    _kind("car", "🚗", "car", "automobile sedan", "汽车 辆", "red", ALL),
    _kind("bus", "🚌", "bus/buses", "coach/coaches", "公共汽车 辆"),
    _kind("rocket", "🚀", "rocket", "spaceship spacecraft/spacecraft", "火箭 枚"),
    _kind("sailboat", "⛵", "sailboat sailing_boat", "yacht", "帆船 艘"),
    _kind("bicycle", "🚲", "bicycle bike", "pushbike", "自行车 辆"),
    _kind("airplane", "✈", "airplane plane", "aircraft/aircraft jet", "飞机 架"),
    _kind("train", "🚂", "train steam_train", "locomotive", "火车 列"),
    _kind("house", "🏠", "house", "home cottage", "房子 座"),
    _kind("tree", "🌳", "tree", "oak", "树 棵"),
    _kind("cactus", "🌵", "cactus/cacti", "", "仙人掌 棵"),
    _kind("sunflower", "🌻", "sunflower", "", "向日葵 朵"),
    _kind("tulip", "🌷", "tulip", "", "郁金香 朵", "pink", ALL),
    _kind("mushroom", "🍄", "mushroom", "toadstool", "蘑菇 个", None, ALL),
    _kind("star", "⭐", "star", "", "星星 颗", "yellow", ALL),
    _kind("moon", "🌙", "moon crescent_moon", "", "月亮 个"),
    _kind("heart", "❤", "heart", "", "爱心 颗", "red", ALL),
    _kind("balloon", "🎈", "balloon", "", "气球 个", "red", ALL),
    _kind("gift", "🎁", "gift present", "gift_box/gift_boxes", "礼物 份"),
    _kind("soccer_ball", "⚽", "soccer_ball football", "", "足球 个"),
    _kind("key", "🔑", "key", "", "钥匙 把", "yellow", ALL),
    _kind("top_hat", "🎩", "top_hat", "magician's_hat", "礼帽 顶"),
    _kind("umbrella", "☂", "umbrella", "parasol brolly/brollies", "雨伞 把", None, ALL),
    _kind("guitar", "🎸", "guitar electric_guitar", "", "吉他 把", "red", ALL),
    _kind("book", "📕", "book", "novel", "书 本", "red", ALL),
    _kind("clock", "⏰", "alarm_clock clock", "", "闹钟 个", "red", ALL),
    _kind("crown", "👑", "crown", "diadem tiara", "王冠 顶"),
    _kind("robot", "🤖", "robot", "android", "机器人 个"),
    _kind("snowman", "⛄", "snowman/snowmen", "", "雪人 个"),
    _kind("teddy_bear", "🧸", "teddy_bear", "", "泰迪熊 只"),
)
KINDS: dict[str, ObjectKind] = {kind.key: kind for kind in _TABLE}  # those of the data set

# Kept out of the data set, so that a fine-tune can teach it: see `newcomer`.
NEWCOMER = _kind("traffic_light", "🚦", "traffic_light", "stoplight", "红绿灯 个")
KNOWN_KINDS: dict[str, ObjectKind] = {
    **KINDS,
    NEWCOMER.key: NEWCOMER,
}  # all that can be drawn and named
