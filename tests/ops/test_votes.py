"""ops/votes.py: weights of teachers, written out by hand."""

import math

import pytest

from attar.core.errors import AttarError
from attar.ops.votes import Votes


def test_weights_follow_from_priors_as_written_out():
    votes = Votes(priors=(63.0, 65.3, 68.5), prior_temperature=5.0)
    raised = [math.exp(prior / 5) for prior in (63.0, 65.3, 68.5)]
    assert votes.weights_of((None, 0.1, 0.9), "--here") == pytest.approx([each / sum(raised) for each in raised])


def test_without_priors_weights_follow_from_measured_accuracy_in_percent():
    measured = Votes(prior_temperature=20.0).weights_of((0.5, 0.9), "--here")
    assert measured == pytest.approx((1 / (1 + math.exp(2)), math.exp(2) / (1 + math.exp(2))))
    assert measured == pytest.approx(Votes(priors=(50, 90), prior_temperature=20).weights_of((None, None), "--here"))


def test_given_weights_count_and_large_priors_overflow_nothing():
    assert Votes(weights=(3, 1)).weights_of((0.5, 0.9), "--here") == (0.75, 0.25)
    assert Votes(priors=(99.0, 1.0), prior_temperature=0.01).weights_of((None, None), "--here") == (1.0, 0.0)


def test_an_unknown_accuracy_is_refused():
    with pytest.raises(AttarError, match=r"of teacher 1 is not known.*--recover\.weights, or --recover\.priors"):
        Votes().weights_of((0.5, None), "--recover")


@pytest.mark.parametrize(
    ("votes", "policy", "words"),
    [
        (Votes(priors=(50.0,)), "weighted", r"--recover.priors has 1 priors for 2 teachers"),
        (Votes(weights=(1.0, 2.0, 3.0)), "weighted", r"--recover.weights has 3 weights for 2 teachers"),
        (Votes(priors=(50.0, 60.0)), "mean", r"--recover.priors is only used with --recover.committee weighted"),
        (Votes(priors=(1.0, 2.0), weights=(1.0, 2.0)), "weighted", r"cannot be combined; leave one of them out"),
    ],
)
def test_what_does_not_fit_is_refused(votes: Votes, policy: str, words: str):
    with pytest.raises(AttarError, match=words):
        votes.refuse_unfit(policy, 2, "--recover", "--recover.committee")
