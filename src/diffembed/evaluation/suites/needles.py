"""Facts to hide in a haystack, each with a question that asks for it in other words; names of people, and months.

Data. `{place}` is filled with one of `PLACES`; a fact and its question share the place, and few words beside it.
All facts are invented.
"""


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


PLACES = _words(
    "Aarhus Bergen Bilbao Cork Dresden Fez Ghent Hobart Ioannina Jaipur Kyoto Lugano Malmo Nantes Odessa Porto Quito "
    "Riga Salta Tartu Uppsala Valparaiso Wellington Zadar"
)

FACTS = (
    (
        "The best almond cake in {place} is sold by a bakery that opens only on Tuesdays.",
        "When can one buy the finest nut pastry in {place}?",
    ),
    (
        "In {place} the night ferry leaves from the green pier behind the fish market.",
        "Where do boats depart after dark in {place}?",
    ),
    (
        "The oldest clock in {place} runs eleven minutes fast and nobody corrects it.",
        "How wrong is the antique timepiece of {place}?",
    ),
    (
        "Visitors to {place} are given a paper lantern when they pass the north gate.",
        "What do tourists receive on entering {place}?",
    ),
    (
        "The mayor of {place} keeps bees on the roof of the town hall.",
        "Which animals does the head of the city council of {place} look after?",
    ),
    (
        "A barber in {place} cuts hair for free while it is raining.",
        "In what weather does a haircut cost nothing in {place}?",
    ),
    (
        "The library of {place} lends umbrellas as well as books.",
        "What besides reading matter can be borrowed in {place}?",
    ),
    (
        "In {place} the trams are painted yellow on even days and blue on odd days.",
        "What decides the colour of public transport in {place}?",
    ),
    (
        "The university of {place} teaches the history of salt in a cellar.",
        "Where are lectures about a mineral given in {place}?",
    ),
    (
        "Every bridge in {place} carries the name of a vegetable.",
        "What are the river crossings of {place} called after?",
    ),
    (
        "The choir of {place} sings only songs about the moon.",
        "What is the single theme of the vocal group of {place}?",
    ),
    (
        "A retired pilot repairs violins in the harbour of {place}.",
        "Who mends string instruments in {place}?",
    ),
    (
        "The hospital of {place} was built around a pear tree.",
        "What stands in the middle of the clinic of {place}?",
    ),
    (
        "In {place} letters are still delivered by a woman on a white horse.",
        "How does the mail arrive in {place}?",
    ),
    (
        "The football team of {place} has played barefoot since its first season.",
        "What do the athletes of {place} not wear?",
    ),
    (
        "The museum of {place} owns three thousand door handles.",
        "What kind of collection is shown to the public in {place}?",
    ),
    (
        "Bread in {place} is baked with sea water.",
        "Which unusual liquid goes into the dough in {place}?",
    ),
    (
        "The judge of {place} decides quarrels between neighbours with a game of chess.",
        "How are local disputes settled in {place}?",
    ),
    (
        "The lighthouse of {place} is looked after by twin sisters.",
        "Who tends the signal for ships at {place}?",
    ),
    (
        "In {place} the schools close when the cherry trees bloom.",
        "What natural event gives children a holiday in {place}?",
    ),
    (
        "The railway station of {place} has a platform that no train has ever used.",
        "What was constructed for travellers in {place} without need?",
    ),
    (
        "A cook in {place} serves soup in hollowed turnips.",
        "Which root replaces the bowl in a restaurant of {place}?",
    ),
    (
        "The theatre of {place} gives its plays at sunrise.",
        "At what hour does the drama begin in {place}?",
    ),
    (
        "The well of {place} was dug by a single soldier in nine years.",
        "How long did one man need to reach water in {place}?",
    ),
    (
        "Shops in {place} accept buttons as small change.",
        "What may be used instead of coins in {place}?",
    ),
    (
        "The weather station of {place} is run by pupils of the third grade.",
        "Who measures rain and wind in {place}?",
    ),
    (
        "In {place} the new year begins with a race of wheelbarrows.",
        "Which contest opens January in {place}?",
    ),
    (
        "The cathedral of {place} has a spiral staircase with no central pillar.",
        "What is remarkable about the way up in the church of {place}?",
    ),
    (
        "A dentist in {place} plays the accordion to calm the patients.",
        "How are people soothed during treatment in {place}?",
    ),
    (
        "The market of {place} sells honey from lavender fields only in October.",
        "In which month is a purple flower's sweetness on sale in {place}?",
    ),
    (
        "The tallest house of {place} leans because it stands on oak barrels.",
        "Why is a building crooked in {place}?",
    ),
    (
        "In {place} dogs ride the cable car without a ticket.",
        "Who travels for nothing up the mountain in {place}?",
    ),
    (
        "The fire brigade of {place} rings a copper bell cast from old coins.",
        "What was melted to make the alarm of {place}?",
    ),
    (
        "The park of {place} is watered at midnight by a gardener with a lamp.",
        "When do the lawns get a drink in {place}?",
    ),
    (
        "A tailor in {place} sews a hidden pocket into every coat for good luck.",
        "What secret do jackets from {place} contain?",
    ),
    (
        "The newspaper of {place} prints its front page upside down on leap days.",
        "What happens to the press in {place} every four years?",
    ),
    (
        "In {place} the tax on windows is paid in apples.",
        "Which fruit do house owners hand to the treasury in {place}?",
    ),
    (
        "The observatory of {place} found a comet with a telescope made of cardboard.",
        "With which cheap instrument did astronomers succeed in {place}?",
    ),
    (
        "The canal of {place} is drained each spring to look for lost bicycles.",
        "What are people searching for on the dry waterway bed of {place}?",
    ),
    (
        "A widow in {place} knows how to weave ropes from nettles.",
        "Which stinging plant becomes cord in {place}?",
    ),
    (
        "The prison of {place} has been a hotel for poets since the great flood.",
        "Who sleeps nowadays in the former jail of {place}?",
    ),
    (
        "The statue in the main square of {place} wears a scarf in winter.",
        "Which garment protects the monument of {place} from the cold?",
    ),
    (
        "In {place} coffee is stirred with a stick of cinnamon by law.",
        "What must replace the spoon in a hot drink in {place}?",
    ),
    (
        "The swimming pool of {place} is heated by the ovens of a brick factory.",
        "Where does the warmth for bathers come from in {place}?",
    ),
    (
        "A glassblower in {place} makes bottles that whistle when they are empty.",
        "Which vessels produce a sound in {place}?",
    ),
    (
        "The vineyard of {place} is ploughed by two oxen named Salt and Pepper.",
        "What are the working animals among the grapes of {place} called?",
    ),
    (
        "The bank of {place} keeps its gold under a dance floor.",
        "Above what treasure do couples waltz in {place}?",
    ),
    (
        "In {place} the street lamps are lit by the winner of the weekly lottery.",
        "Who brings light to the roads in the evening in {place}?",
    ),
    (
        "The bookbinder of {place} glues with a paste of rice and garlic.",
        "What is the adhesive for volumes made of in {place}?",
    ),
    (
        "The town wall of {place} has a door so low that even children must bend.",
        "Which entrance forces everybody to stoop in {place}?",
    ),
)
"""(fact, question) pairs; as many as LongEmbed asks queries per length."""

FIRST_NAMES = _words(
    "Adela Bruno Carmen Dario Elin Farid Greta Hugo Ines Jonas Kaya Levi Mira Nils Olga Pavel Rosa Samir Tilda Umar "
    "Vera Wim Xenia Yusuf Zora"
)
LAST_NAMES = _words(
    "Abbott Barros Conti Dvorak Eriksen Fontaine Garcia Haddad Ivanov Jensen Kowalski Lindqvist Moreau Novak Okafor "
    "Petrov Quinn Rossi Schmidt Tanaka Ueda Vargas Weber Yilmaz Zhang"
)
OTHER_FIRST_NAMES = _words(
    "Anouk Bela Cecile Dmitri Esra Filip Gudrun Hamid Ilse Joao Katya Lorenz Mona Noor Oskar Petra Quentin Renate "
    "Sven Tamar Ursula Viktor Wanda Yara Zeno"
)
"""Of the development tasks: no name of a test is among them."""
OTHER_LAST_NAMES = _words(
    "Amari Brandt Castro Dufour Engel Farkas Gruber Hoang Ito Jovanovic Keller Larsen Mendes Nowak Olsson Pereira "
    "Quispe Rahman Sato Tkachenko Ulrich Visser Wagner Yamada Zeller"
)
MONTHS = _words("January February March April May June July August September October November December")
