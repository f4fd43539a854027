"""Short lists of words of prompts for pictures; ours, so under this project's licence."""

from __future__ import annotations


def _list(text: str) -> tuple[str, ...]:
    return tuple(" ".join(part.split()) for part in text.split(","))


COLOURS = _list(
    "red, blue, green, yellow, orange, purple, pink, brown, black, white, grey, golden, "
    "silver, turquoise, crimson, beige, teal, violet, navy blue, lime green, ivory, maroon, "
    "lavender, amber"
)
MATERIALS = _list(
    "wooden, metal, glass, stone, plastic, paper, leather, marble, ceramic, knitted, bronze, "
    "rusty, crystal, velvet, brick, clay, concrete, woollen, porcelain, bamboo, ice, chrome, "
    "copper, straw"
)
SIZES = _list("tiny, small, large, huge, tall, short, wide, thin, giant, miniature, long, round")
NUMBERS = _list("two, three, four, five, six, seven, eight, nine, ten, a dozen, many, a few")
RELATIONS = _list(
    "to the left of, to the right of, above, below, in front of, behind, next to, on top of, "
    "under, inside, between two walls near, far behind, leaning against, surrounded by, "
    "facing, holding"
)
PLACES = _list(
    "in a forest, on a beach, in a kitchen, at a market, on a mountain, in the desert, under "
    "water, in an old library, on a rooftop, in a garden, at a train station, in outer space, "
    "in the snow, on a wooden table, in a museum, by a lake, in a narrow street, in a field "
    "of flowers, on the moon, in a workshop, at a harbour, inside a cave, on a stage, in a "
    "greenhouse"
)
TIMES = _list(
    "at sunrise, at noon, at dusk, at night, in the early morning, in winter, in autumn, in "
    "spring, during a storm, on a foggy day, under a full moon, after the rain, in bright "
    "sunlight"
)
STYLES = _list(
    "oil painting, watercolour, pencil sketch, pixel art, 3d render, photograph, comic panel, "
    "woodcut, stained glass, low poly, charcoal drawing, anime, ukiyo-e print, flat vector "
    "icon, sticker, isometric illustration, art deco poster, pop art, impressionist painting, "
    "mosaic, claymation, paper collage, line art, children's book illustration, blueprint, "
    "linocut, technical diagram, cinematic still, polaroid, macro photograph, surrealist "
    "painting, graffiti"
)
LIGHTS = _list(
    "soft lighting, dramatic lighting, golden hour, backlit, neon lights, studio lighting, "
    "candlelight, volumetric light, rim light, hard shadows, overcast light, moonlight, high "
    "contrast, low key"
)
VIEWS = _list(
    "close-up, wide shot, from above, from below, side view, front view, bird's-eye view, "
    "portrait, full body, shallow depth of field, fisheye lens, 85mm, symmetrical "
    "composition, centred, macro"
)
QUALITIES = _list(
    "highly detailed, sharp focus, 8k, masterpiece, best quality, minimalist, intricate, "
    "muted colours, vibrant colours, grainy film, matte, glossy, trending, award-winning, "
    "clean background, textured"
)
ACTIONS = _list(
    "sits, stands, sleeps, lies, waits, glows, floats, falls, hangs, spins, burns, melts, "
    "rests, leans, shines, hides, moves, drifts, breaks, rises"
)
PERSONS = _list(
    "an old man, an old woman, a girl, a boy, a child, a young woman, a young man, a couple, "
    "a grandmother, a traveller, a stranger, two friends, a family, a crowd"
)
DEEDS = _list(
    "carries, paints, looks at, repairs, finds, sells, builds, draws, holds, throws, hides, "
    "cleans, opens, points at, dreams of, walks past, runs from, buys, photographs, collects, "
    "drops, lifts"
)
FEELINGS = _list(
    "peaceful, mysterious, cheerful, lonely, tense, nostalgic, dreamlike, gloomy, festive, solemn"
)
MOMENTS = _list(
    "Then, Later, Suddenly, Meanwhile, Nearby, In the distance, At last, In the background, "
    "In the foreground, On the left, On the right, At the top, At the bottom, In the middle"
)
