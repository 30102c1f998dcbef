"""Client of the rewardloop decision API: ask for an action, show it, report its reward."""

from rewardloop_client.async_client import AsyncClient
from rewardloop_client.async_recommender import AsyncRecommender
from rewardloop_client.client import Client
from rewardloop_client.errors import (
    Conflict,
    FieldProblem,
    InvalidRequest,
    NotEncodable,
    NotFound,
    Refused,
    Rejected,
    RewardloopError,
    TooManyRequests,
    Unauthorized,
    Unavailable,
    UnexpectedAnswer,
)
from rewardloop_client.manager import EvalScore, ExperimentManager, Handle, Predictor, Verdict
from rewardloop_client.recommender import Choice, Recommender
from rewardloop_client.reporting import RecommenderCounters
from rewardloop_client.types import Action, RankedAction, Recommendation

__all__ = [
    "Action",
    "AsyncClient",
    "AsyncRecommender",
    "Choice",
    "Client",
    "Conflict",
    "EvalScore",
    "ExperimentManager",
    "FieldProblem",
    "Handle",
    "InvalidRequest",
    "NotEncodable",
    "NotFound",
    "Predictor",
    "RankedAction",
    "Recommendation",
    "Recommender",
    "RecommenderCounters",
    "Refused",
    "Rejected",
    "RewardloopError",
    "TooManyRequests",
    "Unauthorized",
    "Unavailable",
    "UnexpectedAnswer",
    "Verdict",
]
