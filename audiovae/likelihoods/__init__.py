"""Likelihoods p(x|z): what a decoder's output says about the data, as log-probability in nats.

A decoder gives P numbers for each data channel, stacked as (B, P * C, *grid): first the C of the first
parameter, then the C of the next. A config's ``kind`` names one; its ``measure`` says what its nats are of.
"""

from typing import Annotated

from pydantic import Discriminator

from audiovae.likelihoods.base import Likelihood, Measure
from audiovae.likelihoods.dequantized import Dequantized, DequantizedConfig
from audiovae.likelihoods.discrete import Bernoulli, BernoulliConfig, Categorical, CategoricalConfig
from audiovae.likelihoods.location_scale import (
    Gaussian,
    GaussianConfig,
    Laplace,
    LaplaceConfig,
    Logistic,
    LogisticConfig,
)
from audiovae.likelihoods.logistic_mixture import LogisticMixture, LogisticMixtureConfig
from audiovae.likelihoods.noise import FlowNoiseConfig, LogitNormalNoiseConfig, UniformNoiseConfig

LikelihoodConfig = Annotated[
    GaussianConfig | LaplaceConfig | LogisticConfig | BernoulliConfig | CategoricalConfig | LogisticMixtureConfig
    | DequantizedConfig,
    Discriminator("kind"),
]

__all__ = [
    "Bernoulli",
    "BernoulliConfig",
    "Categorical",
    "CategoricalConfig",
    "Dequantized",
    "DequantizedConfig",
    "FlowNoiseConfig",
    "Gaussian",
    "GaussianConfig",
    "Laplace",
    "LaplaceConfig",
    "Likelihood",
    "LikelihoodConfig",
    "Logistic",
    "LogisticConfig",
    "LogisticMixture",
    "LogisticMixtureConfig",
    "LogitNormalNoiseConfig",
    "Measure",
    "UniformNoiseConfig",
]
