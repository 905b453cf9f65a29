"""The official VQA table of contractions, from spellings with a missing apostrophe to the correct ones.

Data of GT-Vision-Lab/VQA, PythonEvaluationTools/vqaEvaluation/vqaEval.py @a013f00: 120 entries.
"""

_SPELLINGS = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
    he's how'd how'll how's I'd've I'm I've isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've
    needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll
    somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd
    there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll
    what're what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't
    would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""

# Each spelling has a key for every apostrophe that can be missing. The errors are the original's: keys with capitals
# never match, since words are in lower case, two entries change nothing, and "somebody'd" is reversed.
CONTRACTIONS = {
    word[:place] + word[place + 1 :]: word
    for word in _SPELLINGS.split()
    for place, letter in enumerate(word)
    if letter == "'"
} | {"let's": "let's", "she's": "she's", "somebody'd": "somebodyd"}
