"""The round loop.

In every federated round all sites validate the weights they receive and the sampled ones train them further,
in one message. So the server learns how good the weights of a round are together with their successors, and
one evaluate-only exchange follows the last round. Then the selected weights go out once more, and every site
answers with counts and sums on its personal models.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from flwr.app import RecordDict
from flwr.serverapp import Grid

from common import protocol
from common.config import Settings
from common.errors import FederationError, ModelError, StorageError
from common.files import storage_errors
from common.generic import GenericModel, load_generic, save_generic
from common.logs import Stage, say, stage
from common.model import build_model
from common.protocol import RoundPlan, RunPlan
from common.seeding import stream, torch_stream
from common.weights import pack, schema_of
from server.aggregation import next_weights
from server.exchange import Activations, Sites, ask, listed
from server.replies import Replies, sentences_of
from server.schedule import Evaluation, Selection, best, learning_rate, select, should_stop
from server.state import BEST, LAST, STORY, Head, State, Story, load_state, read_story, save_state


@dataclass(frozen=True)
class FederationResult:
    """What a federation ended with.

    Attributes
    ----------
    model : the generic model, also in ``best.safetensors``.
    selection : the federated round it comes from, the rule that chose it, its validation loss.
    sites : names of the sites that took part.
    personalize : each site's counts and sums, by site.
    """

    model: GenericModel
    selection: Selection
    sites: tuple[str, ...]
    personalize: Mapping[str, Mapping[str, Any]]


class Federation:
    """A federation of sites, from the first weights to personalized models.

    Parameters
    ----------
    grid : Flower's connection to the sites.
    settings : settings of the run; the sites must share those that prepare data.
    out : folder for ``best.safetensors``, ``last.safetensors`` and ``server.json``. What an interrupted run
        of the same settings left there is taken up; a finished one is returned without asking anybody.
    name : name of the run, which selects the frozen cohort of that name at every site.
    personalize : ask the sites to personalize after training.
    fresh : forget what is in ``out``.
    names : registered name by node id, where sites are registered; a node may use no other.
    activations : when each node last came online; see ``server.exchange.Restarts``.
    heads : last known head of each site's ledger, from earlier runs; what comes is compared with it.
    """

    def __init__(
        self,
        grid: Grid,
        settings: Settings,
        out: Path,
        name: str,
        *,
        personalize: bool = True,
        fresh: bool = False,
        names: Mapping[int, str] | None = None,
        activations: Activations | None = None,
        heads: Mapping[str, Head] | None = None,
    ) -> None:
        self.settings, self.out, self.name = settings, out, name
        self._grid, self._personalize, self._fresh = grid, personalize, fresh
        self._activations = activations
        model = build_model(settings.model, torch_stream(settings.seed, "initial"))
        self._schema = schema_of(model)
        self._state = State(weights=pack(model))
        self._story = Story(settings, name, heads=dict(heads or {}))
        self._sites = Sites(grid, settings, names, partial(self._story.hear, step="hello"), activations)
        self._identity = {
            "name": name,
            "settings": settings.digest(),
            "schema": self._schema.digest,
            "software": protocol.software(),
        }

    def run(self) -> FederationResult:
        """Run what is not done yet.

        Raises
        ------
        FederationError
            If too few sites take part or answer; what was done so far is kept and the next run goes on.
        ConfigurationError
            If ``out`` holds another federation.
        """
        if self._take_up():
            self._story.status = "finished"
            return self._result()
        try:
            self._sites.join()
            self._tell()
            self._train()
            self._select()
            if self._personalize:
                self._personalize_sites()
        except BaseException as error:
            if isinstance(error, Exception):
                self._story.status, self._story.failure = "failed", str(error)
                self._tell_if_possible()
            else:
                self.interrupted()
            raise
        self._story.status = "finished"
        self._tell()
        return self._result()

    def interrupted(self) -> None:
        """Write down that the operator stopped the run, unless it has come to an end."""
        if self._story.status == "running":
            self._story.status = "interrupted"
            self._story.failure = "stopped by its operator; the next run goes on where it stopped"
            self._tell_if_possible()

    # --- federated training -------------------------------------------------------------------------------

    def _train(self) -> None:
        state, rounds = self._state, self.settings.federation.rounds
        with stage("Federated training", total=rounds, unit="federated round") as progress:
            progress.advance(state.round)
            while not (state.trained or self._enough()):
                self._sites.refresh()
                self._round(progress)
                save_state(self.out, state, self._identity)
                self._tell()
            if not state.trained:
                self._sites.refresh()
                self._evaluate_last(progress)
                save_state(self.out, state, self._identity)

    def _enough(self) -> bool:
        federation, state = self.settings.federation, self._state
        return state.round >= federation.rounds or should_stop(federation, state.evaluations)

    def _round(self, progress: Stage) -> None:
        """Send the weights out, fold what comes back, and replace them."""
        state, number, began = self._state, self._state.round + 1, time.monotonic()
        first = self.settings.training.learning_rate
        rate = learning_rate(first, self.settings.federation, state.evaluations, number)
        plan = self._plan(number, rate)
        asked = self._sample(number)
        round_ = self._exchange(plan, protocol.ROUND, asked)
        mean = round_.mean.mean()
        if mean is None:
            raise FederationError(
                f"federated round {number}: no site trained{listed(round_.sentences())}; a site trains if "
                "it has the training patients its own policy asks for"
            )
        self._keep_if_best(round_.evaluation(number - 1))
        state.weights = next_weights(number, mean)
        state.rounds.append(round_.summary(number, rate, asked))
        self._story.seconds[number] = round(time.monotonic() - began, 3)
        progress.advance(text=round_.sentence(len(self._sites.nodes)))

    def _evaluate_last(self, progress: Stage) -> None:
        number = self._state.round + 1
        plan = replace(self._plan(number, self.settings.training.learning_rate), train=False)
        round_ = self._exchange(plan, protocol.EVALUATE, ())
        self._keep_if_best(round_.evaluation(number - 1))
        self._state.trained = True
        progress.advance(0, round_.sentence(len(self._sites.nodes)))

    def _exchange(self, plan: RoundPlan, message_type: str, asked: tuple[str, ...]) -> Replies:
        """Ask every site; the sampled ones train."""
        contents = {train: self._request(replace(plan, train=train)) for train in (True, False)}
        requests = {name: (node, contents[name in asked]) for name, node in self._sites.nodes.items()}
        replies = Replies(self._schema)
        timeout_s = self.settings.federation.round_timeout_s
        step = "round" if message_type == protocol.ROUND else "evaluate"
        for answer in ask(self._grid, requests, message_type, timeout_s, str(plan.round), self._activations):
            self._story.hear(answer.site, answer.ledger, step, plan.round)
            replies.add(answer.site, answer.content, answer.failure, trains=answer.site in asked)
        if len(replies.answered) < self.settings.federation.min_sites:
            raise FederationError(
                f"federated round {plan.round}: {len(replies.answered)} of {len(requests)} sites answered, "
                f"{self.settings.federation.min_sites} must{listed(replies.sentences())}"
            )
        if replies.failures:
            say(f"federated round {plan.round}, no use of{listed(replies.sentences())}")
        return replies

    def _sample(self, number: int) -> tuple[str, ...]:
        """Choose the sites that train, by name, from the stream of this round."""
        names = sorted(self._sites.nodes)
        federation = self.settings.federation
        count = min(len(names), max(federation.min_sites, math.ceil(federation.fraction * len(names))))
        chosen = stream(self.settings.seed, "sample", number).permutation(len(names))[:count]
        return tuple(names[index] for index in sorted(chosen))

    def _keep_if_best(self, evaluation: Evaluation) -> None:
        """Remember the validation of the present weights, and the weights if none were better."""
        state = self._state
        state.evaluations.append(evaluation)
        chosen = best(state.evaluations, self.settings.federation.min_validation_patients)
        if chosen is evaluation:
            state.best = state.weights

    def _plan(self, number: int, rate: float) -> RoundPlan:
        training = self.settings.training.model_copy(update={"learning_rate": rate})
        return RoundPlan(**vars(self._run_plan()), round=number, train=True, training=training)

    def _run_plan(self) -> RunPlan:
        settings = self.settings
        return RunPlan(
            name=self.name,
            seed=settings.seed,
            schema=self._schema.digest,
            preprocessing=settings.preprocessing_digest(),
            model=settings.model,
        )

    def _request(self, plan: RoundPlan) -> RecordDict:
        return protocol.request(plan, self._state.weights)

    # --- after training -----------------------------------------------------------------------------------

    def _select(self) -> None:
        state = self._state
        selection = select(self.settings.federation, state.evaluations, state.round)
        weights = state.weights if selection.round == state.round or state.best is None else state.best
        story = {
            "run": self.name,
            "seed": self.settings.seed,
            "settings_sha256": self.settings.digest(),
            "round": selection.round,
            "rule": selection.rule,
            "validation_loss": selection.loss,
            "validation_patients": selection.patients,
        }
        model = GenericModel(weights, self.settings.model, self._schema.digest, story)
        save_generic(self.out / BEST, model)
        self._story.selection, self._story.sha256 = selection, weights.digest()
        self._tell()
        say(f"generic model: weights of federated round {selection.round}, {selection.rule}")

    def _personalize_sites(self) -> None:
        """Send the selected weights to the sites that have not answered yet."""
        model = load_generic(self.out / BEST)
        content = protocol.request(self._run_plan(), model.weights)
        done = self._story.personalize
        requests = {name: (node, content) for name, node in self._sites.nodes.items() if name not in done}
        self._story.personalize_failures = {}
        timeout_s = self.settings.federation.personalize_timeout_s
        with stage("Personalization", total=len(requests), unit="site") as progress:
            for answer in ask(
                self._grid, requests, protocol.PERSONALIZE, timeout_s, "personalize", self._activations
            ):
                self._story.hear(answer.site, answer.ledger, "personalize")
                if answer.content is None:
                    self._story.personalize_failures[answer.site] = answer.failure or "site_error"
                else:
                    done[answer.site] = dict(answer.content.metric_records["metrics"])
                self._tell()
                progress.advance(text=answer.site)
        if not done:
            failures = sentences_of(self._story.personalize_failures)
            raise FederationError(f"no site personalized{listed(failures)}")

    # --- files --------------------------------------------------------------------------------------------

    def _take_up(self) -> bool:
        """Go on from what ``out`` holds; True if nothing is left to do."""
        with storage_errors(self.out):
            self.out.mkdir(parents=True, exist_ok=True)
            if self._fresh:
                for name in (LAST, BEST):
                    (self.out / name).unlink(missing_ok=True)
                    (self.out / name).with_suffix(".json").unlink(missing_ok=True)
                (self.out / STORY).unlink(missing_ok=True)
        state = load_state(self.out, self._identity)
        if state is None:
            return False
        self._state = state
        story = read_story(self.out, self.settings, self.name)
        if story is None:
            return False
        self._story.sites = tuple(story["sites"])
        self._story.go_on_from(story)
        self._story.seconds = {entry["round"]: entry["seconds"] for entry in story["rounds"]}
        selected = story["selected"]
        if not state.trained or selected is None:
            return False
        # Personal results hold for the selected weights only.
        if selected["sha256"] == _digest_of(self.out / BEST):
            self._story.personalize = story["personalize"]
            self._story.personalize_failures = story["personalize_failures"]
        chosen = {key: value for key, value in selected.items() if key != "sha256"}
        self._story.selection, self._story.sha256 = Selection(**chosen), selected["sha256"]
        asked = set(self._story.personalize) >= set(self._story.sites) or not self._personalize
        return bool(story["status"] == "finished" and asked and _digest_of(self.out / BEST))

    def _tell(self) -> None:
        """Write ``server.json``."""
        self._story.sites = tuple(sorted({*self._story.sites, *self._sites.nodes}))
        self._story.refused = self._sites.refused
        self._story.absent = tuple(self._sites.missing())
        self._story.write(self.out, self._state)

    def _tell_if_possible(self) -> None:
        with suppress(StorageError):  # a full disk must not hide what happened
            self._tell()

    def _result(self) -> FederationResult:
        if self._story.selection is None:
            raise FederationError(f"{self.out / STORY} names no selected model; start anew with fresh=true")
        return FederationResult(
            model=load_generic(self.out / BEST),
            selection=self._story.selection,
            sites=self._story.sites,
            personalize=self._story.personalize,
        )


def _digest_of(path: Path) -> str | None:
    try:
        return load_generic(path).weights.digest()
    except ModelError:
        return None
