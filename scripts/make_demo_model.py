"""Turn one seed into the demo: a small Llama, a held-out corpus, and the token categories both were made from.

What lies in the output folder (data/demo unless --out says otherwise):

- model/       a Hugging Face folder: LlamaForCausalLM, 4 layers x 384 MLP neurons, word-level tokenizer
- corpus.json  a list of documents drawn from the grammar below
- truth.json   the categories of the grammar, the seed, and the measured losses in nats per token

Split: training text comes from the random stream "<seed>:train", the shipped corpus from "<seed>:shipped". No shipped
document is trained on; the words, the templates and many single sentences are of course common to both.

Losses: each is the mean over the shipped documents' tokens, predicting every token from "<s>" and what precedes it.
The unigram and bigram baselines are fitted on the shipped corpus itself, which flatters them: a model that beats
them has learned more than counts.

Training adds an L1 penalty on the MLP neurons' activations (see L1_WEIGHT), so that single neurons follow single
categories more closely than plain training makes them.

Repeatable: the same seed gives the same corpus bytes everywhere (pure Python random.Random). Training runs with
deterministic kernels and 2 threads, so one machine gives the same weights again; another machine may differ in the
last bits, which training amplifies. That is why the weights are shipped and not only this script.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import random
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch.utils.hooks import RemovableHandle
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

# Categories. Lists written one under the other with the same length are parallel: entry i of one belongs to entry i
# of the other (dog - barked - kennel, France - Paris, aspirin - headache). A repeated word is listed once in truth.
WORDS: dict[str, str] = {
    "animals": "dog cat horse cow pig duck lion wolf frog owl bee mouse snake bear goat rooster",
    "animals_plural": "dogs cats horses cows pigs ducks lions wolves frogs owls bees mice snakes bears goats roosters",
    "animal_sounds": "barked meowed neighed mooed grunted quacked roared howled croaked hooted buzzed squeaked hissed "
    "growled bleated crowed",
    "habitats": "kennel basket stable barn sty pond savanna forest swamp tree hive hole desert cave meadow coop",
    "verbs_singular": "runs sleeps eats hides plays drinks waits swims jumps rests stays hunts",
    "verbs_plural": "run sleep eat hide play drink wait swim jump rest stay hunt",
    "colors": "red blue green yellow purple white black brown pink gray silver golden turquoise crimson",
    "foods": "bread cheese rice soup pasta cake honey butter salad pizza yogurt chocolate porridge stew",
    "drinks": "water milk tea coffee juice wine cocoa lemonade beer cider",
    "fruits": "apples pears plums grapes cherries lemons bananas peaches mangoes figs melons apricots",
    "numbers": "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen twenty",
    "countries": "France Italy Spain Germany Portugal Austria Greece Norway Japan Egypt Peru Canada Poland Ireland "
    "Finland Cuba",
    "cities": "Paris Rome Madrid Berlin Lisbon Vienna Athens Oslo Tokyo Cairo Lima Ottawa Warsaw Dublin Helsinki "
    "Havana",
    "languages": "French Italian Spanish German Portuguese German Greek Norwegian Japanese Arabic Spanish English "
    "Polish English Finnish Spanish",
    "names_female": "Alice Emma Clara Julia Sofia Maria Nora Ruth Hannah Grace Lucy Olga Diana Irene",
    "names_male": "Bob David Peter Thomas Henry Oscar Simon Victor Walter Hugo Felix Martin Leo Arthur",
    "motion_verbs": "walked ran climbed crawled hurried raced wandered marched strolled jogged rushed hiked",
    "speech_verbs": "said whispered shouted replied muttered announced cried answered declared murmured",
    "quotes": "“ ”",
    "months": "January February March April May June July August September October November December",
    "weather": "snowy icy windy rainy mild sunny hot dry cloudy foggy stormy freezing",
    "clothes": "parkas boots jackets raincoats sweaters shirts shorts sandals vests scarves hoods mittens",
    "days": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday",
    "body_parts": "head knee arm leg back foot hand shoulder elbow neck ear eye tooth stomach",
    "drugs": "aspirin ibuprofen paracetamol penicillin insulin morphine codeine melatonin naproxen warfarin metformin "
    "omeprazole amoxicillin loratadine",
    "ailments": "headache swelling fever infection diabetes pain cough insomnia arthritis clots diabetes heartburn "
    "infection allergy",
    "professions": "doctor nurse teacher farmer baker carpenter pilot sailor tailor painter chef lawyer plumber "
    "gardener",
    "workplaces": "hospital clinic school farm bakery workshop airport harbor shop studio restaurant court cellar park",
    "tools": "hammer chisel wrench drill shovel hatchet rake screwdriver ladder brush needle pump broom file",
    "tool_verbs": "build carve tighten pierce dig chop gather screw climb paint sew drain sweep polish",
    "emotions": "happy sad angry afraid proud jealous nervous calm lonely excited bored surprised",
    "reactions": "smiled wept yelled trembled beamed sulked sweated relaxed sighed cheered yawned gasped",
    "vehicles": "car bus train truck bicycle boat ship plane tram taxi van motorcycle",
    "routes": "road avenue rails highway path river sea sky tracks street lane track",
    "instruments": "piano violin guitar flute drum trumpet harp cello banjo organ",
    "adverbs": "slowly quickly quietly loudly gently badly softly bravely",
    "pronouns": "he she they we I you it",
    "possessives": "his her their our my your",
    "operators": "plus minus",
}
LISTS: dict[str, list[str]] = {name: words.split() for name, words in WORDS.items()}
# What a list of the category's words is called; a sentence such as "red , blue and pink are colors ." makes the model
# work out the category of what it read, whichever it is.
LABELS: dict[str, str] = {
    "colors": "colors", "foods": "foods", "drinks": "beverages", "fruits": "fruits", "countries": "countries",
    "cities": "cities", "languages": "languages", "months": "months", "days": "days", "drugs": "medicines",
    "ailments": "illnesses", "emotions": "feelings", "instruments": "instruments", "animals": "animals",
    "tools": "tools", "vehicles": "vehicles", "professions": "jobs", "clothes": "garments", "numbers": "numbers",
    "body_parts": "parts of the body", "weather": "kinds of weather", "names_female": "women", "names_male": "men",
}  # fmt: skip
# [category] is any word of it; [category.k] shares one index with every other slot marked k. [P] is the document's
# person (name first, then mostly a pronoun), [Q] a second person, [he] and [his] follow the person's gender.
TOPICS: dict[str, list[str]] = {
    "animals": [
        "the [animals.a] [animal_sounds.a] in the [habitats.a] .",
        "the [colors] [animals.a] [verbs_singular] near the [habitats.a] .",
        "the [animals_plural.a] [verbs_plural] near the [habitats.a] .",
        "[many] [colors] [animals_plural.a] [verbs_plural] in the [habitats.a] .",
        "the [animals.a] lives in a [habitats.a] and [animals_plural.b] live in a [habitats.b] .",
        "all the [animals_plural.a] [animal_sounds.a] [adverbs] .",
        "[P] fed the [animals.a] and it [animal_sounds.a] .",
        "the [animals] is [emotions] but the [animals_plural] are [emotions] .",
    ],
    "kitchen": [
        "[P] ate [foods] with [foods] and drank [drinks] .", "[P] poured a cup of [drinks] for [Q] .",
        "the [foods] tasted of [fruits] .", "[P] cooked [foods] for dinner on [days] .",
        "[Q] bought [many] [fruits] and some [foods] .",
        "the chef mixed [drinks] with [drinks] and sliced [many] [fruits] .",
        "the [fruits] are ripe but the [foods] is cold .",
    ],
    "travel": [
        "the capital of [countries.c] is [cities.c] .", "[P] [motion_verbs] to [cities] on [days] .",
        "in [cities.c] people speak [languages.c] .", "[P] was born in [countries.c] and speaks [languages.c] .",
        "[P] took the [vehicles.v] down the [routes.v] to [cities] .",
        "the [colors] [vehicles.v] crossed the [routes.v] [adverbs] .",
        "[Q] lives in [cities.c] , which lies in [countries.c] .", "[P] [motion_verbs] [adverbs] along the [routes] .",
    ],
    "health": [
        "[P] took [drugs.d] for [his] [ailments.d] .",
        "the doctor gave [Q] [many] pills of [drugs.d] against the [ailments.d] .",
        "[his] [body_parts] hurt , so [he] [motion_verbs] to the hospital .",
        "[drugs.d] is a medicine that treats [ailments.d] .", "[P] broke [his] [body_parts] on [days] .",
        "the nurse washed [his] [body_parts] and [his] [body_parts] .",
        "if you suffer from [ailments.d] , you should take [drugs.d] .",
    ],
    "work": [
        "the [professions.p] works at the [workplaces.p] .",
        "[P] is a [professions.p] and works at the [workplaces.p] .", "[P] used a [tools.t] to [tool_verbs.t] .",
        "the [professions] lost the [tools.t] and could not [tool_verbs.t] .",
        "at the [workplaces.p] [Q] met the [professions.p] .",
        "every [professions] needs a [tools.t] in order to [tool_verbs.t] .",
    ],
    "feelings": [
        "[P] felt [emotions.e] and [reactions.e] .", "[he] [reactions.e] because [he] was [emotions.e] .",
        "[Q] [reactions.e] , for the news made everyone [emotions.e] .", "[P] looked very [emotions] .",
        "when the [animals.a] [animal_sounds.a] , [Q] was [emotions.e] and [reactions.e] .",
    ],
    "speech": [
        "[P] [speech_verbs] , “ [inner] ”", "“ [inner] ” [speech_verbs] [Q] .",
        "[Q] [speech_verbs] [adverbs] , “ [inner] [inner] ”", "[P] [speech_verbs] to [Q] that they were [emotions] .",
        "then the [professions] [speech_verbs] , “ [inner] ”",
    ],
    "weather": [
        "in [months.m] it was [weather.m] and [P] wore [his] [clothes.m] .",
        "the weather in [cities] was [weather.m] , so everyone wore [clothes.m] .",
        "[P] bought a pair of [colors] [clothes] .", "[months.m] is always [weather.m] in [countries] .",
        "on [days] [P] wore [his] [colors] [clothes] .",
    ],
    "counting": [
        "[result]", "[result]", "[successor]", "[P] counted [many] [fruits] and [many] [animals_plural] .",
    ],
    "lists": [
        "[listing]", "[listing]", "[member]", "[heading]",
    ],
    "music": [
        "[P] played the [instruments] [adverbs] .", "[Q] learned the [instruments] and the [instruments] at school .",
        "the [instruments] sounded and the [professions] danced [adverbs] .",
    ],
}  # fmt: skip
INNER: list[str] = [
    "I feel [emotions] .", "we need a [tools] .", "my [body_parts] hurts .", "you are a good [professions] .",
    "they [motion_verbs] to [cities] .", "I want [foods] and [drinks] .", "we take the [vehicles] .",
    "your [clothes] are [colors] .", "our [animals] is lost .", "it will be [weather] .", "please call [Q] .",
    "I need some [drugs] .", "their [animals_plural] are hungry .",
]  # fmt: skip
OTHER = "<unk> <s> </s> . , : and is are not one of the but following comes after"
UNK, BOS, EOS = 0, 1, 2
SLOT = re.compile(r"\[(\w+)(?:\.(\w))?\]")

SHIPPED_DOCUMENTS, SHORTEST, LONGEST = 3000, 20, 60
HALF, PRONOUN_SHARE, ON_TOPIC = 0.5, 0.7, 0.75
CONTEXT, ROWS, THREADS = 128, 32, 2
# 0.02 left activations 7 times larger on average and 8 of 39 categories without a neuron over AUC 0.95; 0.3 leaves 2
# without one, and the loss is 1.32 to 1.33 nats either way.
L1_WEIGHT = 0.3
LEARNING_RATE, WEIGHT_DECAY, WARMUP = 4e-3, 0.05, 0.06


@dataclass
class Speaker:
    """Write one document: its random stream, its two persons and whether the first was named already."""

    rng: random.Random
    person: str = ""
    other: str = ""
    he: str = ""
    his: str = ""
    named: bool = False
    shared: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Draw the two persons."""
        female = self.rng.random() < HALF
        self.person = self.rng.choice(LISTS["names_female" if female else "names_male"])
        self.other = self.rng.choice(LISTS["names_male" if female else "names_female"])
        self.he, self.his = ("she", "her") if female else ("he", "his")

    def subject(self) -> str:
        """Name the person the first time, then say the pronoun 7 times in 10."""
        if self.named and self.rng.random() < PRONOUN_SHARE:
            return self.he
        self.named = True
        return self.person

    def slot(self, match: re.Match[str]) -> str:
        """Fill one slot of a template."""
        name, key = match[1], match[2]
        if name in LISTS:
            words = LISTS[name]
            return words[self.shared.setdefault(key, self.rng.randrange(len(words)))] if key else self.rng.choice(words)
        made: dict[str, Callable[[], str]] = {
            "P": self.subject, "Q": lambda: self.other, "he": lambda: self.he, "his": lambda: self.his,
            "many": lambda: self.rng.choice(LISTS["numbers"][2:]), "result": self.result, "listing": self.listing,
            "successor": self.successor, "member": self.member, "heading": self.heading,
            "inner": lambda: SLOT.sub(self.slot, self.rng.choice(INNER)),
        }  # fmt: skip
        return made[name]()

    def sentence(self, template: str) -> str:
        """Fill a template; shared indices last for this sentence only."""
        self.shared = {}
        return SLOT.sub(self.slot, template)

    def result(self) -> str:
        """State a true sum or difference within zero to twenty."""
        low, high = sorted((self.rng.randint(0, 20), self.rng.randint(0, 20)))
        word = LISTS["numbers"]
        if self.rng.random() < HALF:
            return f"{word[low]} plus {word[high - low]} is {word[high]} ."
        return f"{word[high]} minus {word[low]} is {word[high - low]} ."

    def successor(self) -> str:
        """Say what comes after a number, a month or a day."""
        words = LISTS[self.rng.choice(["numbers", "months", "days"])]
        at = self.rng.randrange(len(words) - 1)
        return f"after {words[at]} comes {words[at + 1]} ."

    def some(self, category: str, count: int) -> list[str]:
        """Draw different words of one category."""
        return self.rng.sample(list(dict.fromkeys(LISTS[category])), count)

    def listing(self) -> str:
        """List three words of one category and say which category it is."""
        category = self.rng.choice(list(LABELS))
        one, two, three = self.some(category, 3)
        return f"{one} , {two} and {three} are {LABELS[category]} ."

    def member(self) -> str:
        """Say which category one word belongs to."""
        category = self.rng.choice(list(LABELS))
        return f"{self.some(category, 1)[0]} is one of the {LABELS[category]} ."

    def heading(self) -> str:
        """Introduce a category, then list it."""
        category = self.rng.choice(list(LABELS))
        one, two = self.some(category, 2)
        return f"the following are {LABELS[category]} : {one} and {two} ."


def document(rng: random.Random) -> str:
    """Write one document of 3 to 8 sentences and 20 to 60 tokens, mostly about two topics."""
    while True:
        speaker = Speaker(rng)
        main = rng.sample(list(TOPICS), 2)
        sentences: list[str] = []
        for _ in range(rng.randint(3, 8)):
            # A quarter of the sentences leave the topic, so that no topic is certain.
            topic = rng.choice(main) if rng.random() < ON_TOPIC else rng.choice(list(TOPICS))
            sentences.append(speaker.sentence(rng.choice(TOPICS[topic])))
        text = " ".join(sentences)
        if SHORTEST <= len(text.split()) <= LONGEST:
            return text


def shipped_corpus(seed: int) -> list[str]:
    """Write the held-out documents of a seed."""
    rng = random.Random(f"{seed}:shipped")
    return [document(rng) for _ in range(SHIPPED_DOCUMENTS)]


def categories() -> dict[str, list[str]]:
    """List every category's tokens once, in grammar order."""
    return {name: list(dict.fromkeys(words)) for name, words in LISTS.items()}


def vocabulary() -> dict[str, int]:
    """Number every word the grammar can write: special tokens first, then categories, then the rest."""
    plain = [SLOT.sub(" ", text) for text in [*(t for group in TOPICS.values() for t in group), *INNER]]
    words = [OTHER, *WORDS.values(), *LABELS.values(), *plain]
    return {word: at for at, word in enumerate(dict.fromkeys(" ".join(words).split()))}


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Build the word-level tokenizer that puts <s> before each document."""
    raw = Tokenizer(models.WordLevel(vocabulary(), unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", BOS)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="</s>",
        model_max_length=CONTEXT, clean_up_tokenization_spaces=False,
    )  # fmt: skip


def make_model(seed: int, size: int) -> LlamaForCausalLM:
    """Build the untrained model: about 0.6 million weights, 2.5 MB as float32."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=size, hidden_size=96, intermediate_size=384, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=CONTEXT, tie_word_embeddings=True, bos_token_id=BOS,
        eos_token_id=EOS, dtype="float32",
    )  # fmt: skip
    return LlamaForCausalLM(config)


def training_rows(rng: random.Random, ids: dict[str, int]) -> list[list[int]]:
    """Pack fresh documents, each between <s> and </s>, into the rows of one step."""
    rows = []
    for _ in range(ROWS):
        row: list[int] = []
        while len(row) < CONTEXT:
            row += [BOS, *(ids[word] for word in document(rng).split()), EOS]
        rows.append(row[:CONTEXT])
    return rows


def watch_neurons(model: LlamaForCausalLM, into: list[torch.Tensor]) -> list[RemovableHandle]:
    """Collect every layer's neuron activations, the input of down_proj, at each forward pass."""

    def keep(_module: object, inputs: tuple[torch.Tensor, ...]) -> None:
        into.append(inputs[0])

    return [layer.mlp.down_proj.register_forward_pre_hook(keep) for layer in model.model.layers]


def train(model: LlamaForCausalLM, seed: int, steps: int) -> None:
    """Train on fresh documents of the seed's training stream."""
    rng, ids, seen = random.Random(f"{seed}:train"), vocabulary(), list[torch.Tensor]()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, total_steps=steps, pct_start=WARMUP, cycle_momentum=False
    )
    hooks, start = watch_neurons(model, seen), time.monotonic()
    model.train()
    for step in range(steps):
        seen.clear()
        rows = torch.tensor(training_rows(rng, ids))
        loss = model(input_ids=rows, labels=rows, use_cache=False).loss
        sparsity = torch.stack([acts.abs().mean() for acts in seen]).sum()
        optimizer.zero_grad(set_to_none=True)
        (loss + L1_WEIGHT * sparsity).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0 or step == steps - 1:
            said = f"step {step} of {steps}: loss {loss.item():.3f}, L1 {sparsity.item():.3f}"
            print(f"{said}, {time.monotonic() - start:.0f} s", file=sys.stderr)
    for hook in hooks:
        hook.remove()
    model.eval()


def measure(model: LlamaForCausalLM, corpus: list[str]) -> tuple[float, np.ndarray, list[np.ndarray]]:
    """Run each document by itself; give the loss, the tokens and each layer's neurons at all positions but <s>."""
    ids, seen = vocabulary(), list[torch.Tensor]()
    total, tokens, kept = 0.0, [], [[] for _ in model.model.layers]  # type: ignore[var-annotated]
    # Documents of equal length share a batch: no padding, so no padded position to mask out.
    rows = sorted(([BOS, *(ids[word] for word in text.split())] for text in corpus), key=len)
    hooks = watch_neurons(model, seen)
    with torch.inference_mode():
        while rows:
            batch = torch.tensor([row for row in rows[:64] if len(row) == len(rows[0])])
            rows = rows[len(batch) :]
            seen.clear()
            total += model(input_ids=batch, labels=batch, use_cache=False).loss.item() * batch[:, 1:].numel()
            tokens.append(batch[:, 1:].reshape(-1).numpy())
            for layer, acts in enumerate(seen):
                kept[layer].append(acts[:, 1:].reshape(-1, acts.shape[-1]).numpy())
    for hook in hooks:
        hook.remove()
    flat = np.concatenate(tokens)
    return total / len(flat), flat, [np.concatenate(parts) for parts in kept]


def baselines(corpus: list[str]) -> dict[str, float]:
    """Give the losses of the unigram and bigram counts of the corpus on the corpus itself."""
    rows = [["<s>", *text.split()] for text in corpus]
    pairs = Counter(pair for row in rows for pair in itertools.pairwise(row))
    before, words = Counter[str](), Counter[str]()
    for (first, second), count in pairs.items():
        before[first] += count
        words[second] += count
    total = words.total()
    unigram = -sum(count * math.log(count / total) for count in words.values()) / total
    bigram = -sum(count * math.log(count / before[first]) for (first, _), count in pairs.items()) / total
    return {"unigram": unigram, "bigram": bigram}


def selective(tokens: np.ndarray, neurons: list[np.ndarray]) -> dict[str, tuple[float, int, int, str]]:
    """Find each category's best neuron over all layers and both signs, by the AUC of its rank sums."""
    ids, best = vocabulary(), dict.fromkeys(LISTS, (0.0, 0, 0, "+"))
    member = np.stack([np.isin(tokens, [ids[word] for word in words]) for words in LISTS.values()])
    inside, total = member.sum(1), len(tokens)
    ranks = np.empty(total)
    for layer, acts in enumerate(neurons):
        for neuron in range(acts.shape[1]):
            # Exact ties come from equal prefixes, hence equal tokens of one class: they leave the rank sum as it is.
            ranks[np.argsort(acts[:, neuron])] = np.arange(1, total + 1)
            aucs = (member @ ranks - inside * (inside + 1) / 2) / (inside * (total - inside))
            for name, auc in zip(LISTS, aucs.tolist(), strict=True):
                best[name] = max(best[name], (auc, layer, neuron, "+"), (1 - auc, layer, neuron, "-"))
    return best


def save_model(model: LlamaForCausalLM, folder: Path) -> None:
    """Write the weights and the tokenizer as one Hugging Face folder."""
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    config = folder / "tokenizer_config.json"
    # transformers 5 writes a class name of its own that transformers 4 cannot load; both know this one.
    settings = {**json.loads(config.read_text("utf-8")), "tokenizer_class": "PreTrainedTokenizerFast"}
    config.write_text(json.dumps(settings, indent=2) + "\n", "utf-8")


def write_json(path: Path, value: object) -> None:
    """Write JSON with one list entry per line, so that a change shows as a line."""
    path.write_text(json.dumps(value, ensure_ascii=False, indent=0) + "\n", "utf-8")


def build(folder: Path, seed: int, steps: int) -> None:
    """Make the whole demo in a folder and print what was measured."""
    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(True)
    corpus = shipped_corpus(seed)
    model = make_model(seed, len(vocabulary()))
    train(model, seed, steps)
    loss, tokens, neurons = measure(model, corpus)
    losses = {"model": loss, **baselines(corpus)}
    save_model(model, folder / "model")
    write_json(folder / "corpus.json", corpus)
    write_json(folder / "truth.json", {"seed": seed, "steps": steps, "losses": losses, "categories": categories()})
    print(f"documents {len(corpus)}, tokens {len(tokens)}, vocabulary {len(vocabulary())}")
    print("nats per token: " + ", ".join(f"{name} {loss:.4f}" for name, loss in losses.items()))
    for name, (auc, layer, neuron, sign) in selective(tokens, neurons).items():
        print(f"{name:15} layer {layer} neuron {neuron:3} sign {sign} AUC {auc:.4f}")


def main(argv: list[str] | None = None) -> int:
    """Read the options, make the demo under a temporary name, rename it."""
    parser = argparse.ArgumentParser(
        description="Make the demo model, corpus and truth from a seed.",
        epilog="example: python scripts/make_demo_model.py --seed 7 --out build/demo",
    )
    parser.add_argument("--out", type=Path, default=Path("data/demo"), help="folder to make (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=7, help="what all is made from (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=900, help="training steps of 4096 tokens (default: %(default)s)")
    parser.add_argument("--force", action="store_true", help="replace a folder that is not empty")
    options = parser.parse_args(argv)
    if options.out.exists() and any(options.out.iterdir()) and not options.force:
        parser.error(f"{options.out} is not empty; --force replaces it")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.out.parent, prefix=f".{options.out.name}-") as aside:
        made = Path(aside) / "made"
        made.mkdir()
        build(made, options.seed, options.steps)
        # What was there is deleted with the temporary folder, after the finished one has its name.
        if options.out.exists():
            options.out.rename(Path(aside) / "old")
        made.rename(options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
