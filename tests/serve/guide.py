"""A small guide to a coast, written for the tests of the page: what is searched, compared and read there."""

from pathlib import Path

GUIDE = {
    "tides.md": """# Tides

The sea rises and falls twice a day because the moon pulls at the water on the near side of the earth more strongly than
at the earth itself, and least of all at the water on the far side. Two bulges form, and the coast turns through both.

When sun and moon stand in one line, their pulls add up: high water is at its highest and low water at its lowest. These
are spring tides, and they come with every new and every full moon. A week later the two pull at right angles, and the
difference is small: neap tides.

The shape of the shore does the rest. A bay that narrows piles the water up, while an inland sea hardly notices the moon.
Nobody should walk out on the flats without a table: the water returns through the channels first, and cuts off the way
back before it wets the ground one stands on.
""",
    "weather.md": """# Weather at sea

Fog forms when warm, moist air drifts over cold water and is cooled until it can no longer hold its vapour. It comes
without wind, often within minutes, and a skipper who can no longer see the bow slows down, sounds the horn and listens.

A falling barometer announces a storm hours before the first cloud. If it drops more than three hectopascals in three
hours, boats are better off in the harbour than on their way to it.

In summer the land warms faster than the sea. Air rises over it, and a breeze blows in from the water in the afternoon;
at night, when the land has cooled, it turns around.
""",
    "birds.md": """# Birds of the coast

Arctic terns travel farther than any other animal. They breed in the far north, leave when the days grow short, and spend
the southern summer at the edge of the antarctic ice. In a year they see more daylight than any other creature.

Oystercatchers open mussels with a beak like a chisel. Young ones learn it from their parents, and it takes them most of a
year: some stab between the shells, others hammer until one of them breaks.

Puffins dig burrows in the turf of the cliffs and lay a single egg. They carry a dozen sand eels crosswise in the beak,
held in place by spines on the tongue, so that the beak can open for the next one.
""",
    "bread.md": """# Bread on a small boat

Dough rises because yeast eats sugar and gives off gas, which the gluten of the flour holds in bubbles. On board it is
never warm enough, so the dough is mixed in the evening and left to rise in the engine room until morning.

Without an oven, bread can be baked in a pan with a lid, over a low flame, turned once. It is flat and heavy and gone
before it is cold. Old bread is cut thin and dried; it keeps for weeks in a tin.
""",
    "knots.md": """# Knots

A bowline makes a loop that does not slip and that can be untied after any load. It holds a boat to a ring, and a person
who fell overboard; every sailor ties it behind the back and in the dark.

To join two ropes of unequal thickness, take a sheet bend: the thick rope is bent into a bight, the thin one goes through
it, around and under itself. Under a jerking load the double form is safer.

A cleat hitch secures a halyard so that it can be let go at once. One turn around the foot, a figure of eight, a last
turn locked under itself: more turns only make it slower to free.
""",
    "safety.md": """# When somebody goes overboard

Shout, throw a lifebuoy, and point: one person does nothing else but point at the swimmer, for a head between waves is
lost from sight within seconds. Stop the boat to windward, let it drift down, and bring the person in on the lee side.

Cold water kills before drowning does. In the first minute the breath cannot be held, after ten the hands no longer grip,
and after an hour the heart gives up. A person who was hauled out is laid flat, wrapped, and given nothing strong to drink.

Flares, a whistle and a lamp belong to every life jacket. Red means distress, white means here I am.
""",
    "navigation.md": """# Finding the way

A compass shows magnetic north, which lies aside from the true one by an angle that the chart gives for the place and the
year. Iron on board pulls the needle further: a table by the helm says how much, for every heading.

Without satellites a position is found by bearings. Take two landmarks, draw both lines on the chart, and the boat lies
where they cross. A third line shows how far to trust the other two.

At night each lighthouse is known by its rhythm. The chart says how many flashes, of which colour, in how many seconds, and
one counts before one believes.
""",
    "lighthouse.md": """# Keeping a lighthouse

The tower stands on the outermost rock, forty metres above the highest tide. It was lit for the first time in the autumn
after three ships had been lost in one night, and it has been dark only twice since then.

The first keepers burned whale oil, later paraffin. Every evening they carried the cans up two hundred steps, trimmed the
wicks and polished the soot from the glass. A lamp that smoked was noted in the book, and the inspector read the book.

The light itself is small. What makes it carry for twenty miles is the lens around it: rings of glass prisms, each ground
to bend the rays into one flat beam. It weighs two tons, floats in a trough of mercury, and can be turned with a finger.

A clockwork turned the lens. Its weight sank through the middle of the tower, and somebody had to wind it up again every
four hours, all night, all year. Whoever slept through it was dismissed, however hard the week had been.

Supplies came by boat once a month if the sea allowed it. In the winter of the long storms it did not for nine weeks, and
the three men lived on dried fish, rain water and the potatoes that they had planted behind the wall.

Loneliness was the true work. Two keepers who quarrelled in October had to share a table until spring. The service learned
to send three, so that there was always one to talk to, and paid for books.

Birds were drawn to the beam on overcast nights in autumn. In the morning they lay around the tower in hundreds, thrushes
and starlings above all. Since the beam was narrowed and its colour changed, far fewer strike the glass.

In fog the light is useless, and sound takes its place. First a bell was struck by hand, then a cannon fired every quarter
of an hour, at last a siren driven by compressed air, which could be heard for seven miles and made sleep impossible.

Electricity came late, from a diesel engine in the cellar. A bulb no larger than a fist replaced the burner, and a motor
replaced the weight. The keepers stayed, to look after the engine.

Then a cable was laid, and a relay that lights a second bulb when the first one burns out. The last keeper locked the door
on a morning in March, and posted the key to the mainland.

Today the rooms can be rented by the week. Guests carry their water up the same steps, and at dusk, when the lamp comes on
by itself, most of them climb to the gallery and say nothing for a while.
""",
}


def write_guide(folder: Path) -> Path:
    """The guide as files of a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in GUIDE.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder
