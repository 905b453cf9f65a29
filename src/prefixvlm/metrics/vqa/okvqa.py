"""VQA accuracy of stemmed answers, for OK-VQA (Marino et al. 2019).

The references of OK-VQA v1.1 are stemmed already, by a program that was never published. The rules and exceptions here
are OpenFlamingo's reconstruction (open_flamingo/eval/ok_vqa_utils.py @2843d1f). LAVIS's spaCy lemmas give other scores.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

from prefixvlm.metrics.vqa.accuracy import vqa_accuracy

_INSTALL = (
    'run `pip install "nltk>=3.9" inflection` and '
    "`python -m nltk.downloader punkt_tab averaged_perceptron_tagger_eng wordnet`"
)

# Words of the references that the rules below stem otherwise than the original program did.
_EXCEPTIONS_TEXT = """
    adhesives:adhesive alertness:alert alpes:alp apartments:apart are:are awning:awn backpackers:backpack badness:bad
    baldness:bald bases:base batter's:batter belongings:belong blindness:blind boy's:boy braves:brave
    brightness:bright browsing:brows buildings:build casings:case caves:cave charioteering:chariot childrens:children
    christmas:christmas circuses:circus clothes:cloth clothing:cloth coding:code conducter:conduct conferences:confer
    coniferous:conifer containers:contain controllers:control corgie:corgi couponing:coupon creame:cream crepte:crept
    cumulis:cumuli curiousity:curious dangerous:danger daughter's:daughter decorations:decor designers:design
    dining:dine directions:direct domino's:domino doves:dove drives:drive drunkenness:drunken earing:ear earnings:earn
    eatting:eat electicity:elect electronics:electron elevators:elev emirates:emir expressions:express farmer's:farmer
    firefighters:firefight firefighting:firefight glaced:glace gloves:glove gondoliere:gondolier graves:grave
    haircutting:haircut hamburgers:hamburg hawke:hawk hearding:heard hell's:hell hornes:horn illness:ill jeans:jean
    kid's:kid kindergartener:kindergarten kiting:kite las:las leaves:leaf lenses:lens lowes:low markings:mark
    married:married mating:mate meetings:meet men's:men microwaves:microwave minerals:miner mopeds:mope morning:morn
    mountainous:mountain mustange:mustang nationals:nation overseas:oversea oxygenize:oxygen paintings:paint
    paned:pane paring:pare pease:peas personals:person pies:pie piping:pipe plating:plate playfulness:play
    polarizing:polar police:police pooping:poop porche:porch potatoe:potato professionals:profession
    projections:project propellers:propel protesters:protest pudding:pud purring:pure quantas:quanta rabbies:rabbi
    raines:rain reflections:reflect regent's:regent reminders:remind reporters:report revelations:revel riding:ride
    ringe:ring ripeness:ripe rodeoing:rodeo routes:rout sadness:sad sautee:saute scrapbooking:scrapbook settings:set
    shelves:shelve sickness:sick skateboarders:skateboard smugness:smug socializing:social sometimes:sometime
    staring:stare stockings:stock striping:stripe sunbathing:sunbath sunblocker:sunblock suspenders:suspend
    swining:swine teasing:teas teething:teeth tenning:ten tennis:tennis texting:text ties:tie toileting:toilet
    tomatoe:tomato toppings:top transitions:transit travelers:travel travellers:travel urinating:urine
    vacationing:vacate vandalizers:vandal vastness:vast vegas:vegas veteran's:veteran wading:wade walle:wall
    waves:wave weddings:wed wetness:wet wilderness:wilder womens:women yes:yes
"""
EXCEPTIONS = dict(pair.split(":") for pair in _EXCEPTIONS_TEXT.split())


def okvqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """Return the VQA accuracy of the stemmed prediction, 0 to 1. answers: the field `answer`, not `raw_answer`."""
    return vqa_accuracy(stem(prediction), answers)


@lru_cache(maxsize=1 << 17)
def stem(text: str) -> str:
    """Return the stemmed tokens of a text, joined by single spaces.

    Raises ValueError, with the commands to run, if NLTK, its data or inflection is not installed.
    """
    try:
        import inflection
        import nltk

        lemmatizer = nltk.stem.WordNetLemmatizer()
        tagged = nltk.pos_tag(nltk.tokenize.word_tokenize(text))
        return " ".join(stem_words(tagged, lambda word: lemmatizer.lemmatize(word, "v"), inflection.singularize))
    except ImportError as error:
        raise ValueError(f"the score okvqa needs the package {error.name}: {_INSTALL}") from error
    except LookupError as error:
        raise ValueError(f"the score okvqa needs data of NLTK that is not here: {_INSTALL}") from error


def stem_words(
    tagged: Iterable[tuple[str, str]], lemmatise_verb: Callable[[str], str], singularise: Callable[[str], str]
) -> list[str]:
    """Stem each word: an exception, else the verb's lemma of a word in -ing, else the singular of a plural noun.

    tagged: words with their Penn Treebank tags.
    """
    stems: list[str] = []
    for word, tag in tagged:
        if word in EXCEPTIONS:
            stems.append(EXCEPTIONS[word])
        elif word.endswith("ing"):  # whatever its tag: a single word such as "surfing" is often tagged as a noun
            stems.append(lemmatise_verb(word))
        else:
            stems.append(singularise(word) if tag.startswith(("NNS", "NNPS")) else word)
    return stems
