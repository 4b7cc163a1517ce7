"""The service: `bentoml serve service:svc`. Pictures come in over HTTP, digits with probabilities go out.

BentoML starts the workers, batches what arrives together, builds the image and has the system routes; digits.front
speaks HTTP on the two routes that carry pictures. What is here joins the two, and finds the model in the store.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import gc
import logging
import os
import platform
import re
import shutil
import signal
import tempfile
from collections.abc import AsyncGenerator, Awaitable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import bentoml
import bentoml.serving
import numpy as np
import onnxruntime
from _bentoml_impl.server.app import ServiceAppFactory
from _bentoml_sdk import Service
from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml._internal.context import server_context
from bentoml._internal.utils import circus
from bentoml.exceptions import BentoMLException, NotFound
from numpy.typing import NDArray
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.staticfiles import StaticFiles

from deploy.oci.image import ServingImage
from digits import connection, listener
from digits.batching import Batching
from digits.classifier import CLASSES, Classifier, ModelError, model_file
from digits.exchange import App
from digits.express import Express
from digits.front import Front
from digits.openapi import Picture, PictureAnswer, describe
from digits.settings import Settings, SettingsError, load
from digits.telemetry import Telemetry, forget_the_dead
from digits.thumbnails import SIDE
from digits.workers import cores

log = logging.getLogger("bentoml.digits")
HERE = Path(__file__).resolve().parent
NAME = "digits"
SYSTEM_ROUTES = frozenset(
    {"/", "/docs", "/docs.json", "/schema.json", "/livez", "/readyz", "/healthz", "/metrics", "/ui"}
)
PAGE = HERE / "ui"
MOST_WORKERS = 8  # unless more are asked for: each holds 130 MB
INLINE = 32  # pictures that may be scored in the event loop, which stands still for 7 ms then
ATTENDING_SECONDS = 1.0
METRICS_FOLDER = "digits-metrics-"  # and the supervisor's process id, and something that nobody can foretell
LONGEST = 90  # bytes of that folder's name; of a socket's, the system takes 107
BEGAN_WITH = "_DIGITS_BEGAN_WITH"  # the variable that tells workers the tag of the first model
WARM_UP = 8  # calls of the model before the first request
SAFE_HEADERS = {"x-content-type-options": "nosniff", "referrer-policy": "no-referrer"}
PAGE_HEADERS = SAFE_HEADERS | {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self';"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "permissions-policy": "camera=(self), geolocation=(), microphone=()",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-cache",  # asked again each time, answered 304 while unchanged
}
# BentoML's page of the API would load a tag manager and badges from elsewhere, into the origin where the key is kept.
DOCS_HEADERS = SAFE_HEADERS | {
    "content-security-policy": (
        "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; base-uri 'none';"
        " frame-ancestors 'none'"
    ),
}


def workers() -> int:
    """As many as were asked for, or one for each core."""
    return SETTINGS.workers or min(cores(), MOST_WORKERS)


def shared_folder() -> Path:
    """Where a worker shares what it counts with the others, as BentoML tells it."""
    return Path(os.environ["PROMETHEUS_MULTIPROC_DIR"])


def supervisor() -> int:
    """The process that started this worker; it may have gone before the worker could have asked for its parent."""
    return int(shared_folder().name.removeprefix(METRICS_FOLDER).split("-")[0])


@functools.cache
def folder_to_share() -> Path:
    """A new folder for what the workers share, that no other user can write to; gone when this process ends."""
    folder = Path(tempfile.mkdtemp(prefix=f"{METRICS_FOLDER}{os.getpid()}-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def arbiter(watchers: list[Any], *, threaded: bool = False, **options: Any) -> Any:
    """What starts the workers and ends them, as BentoML makes it, but for two things.

    It listens to its own user alone: BentoML has two ports on loopback, by which anybody on the machine may have any
    command run. And SIGHUP, which comes when its terminal is closed, ends it: it would begin anew instead.
    """
    folder, hung_up = folder_to_share(), signal.getsignal(signal.SIGHUP)
    if len(os.fsencode(folder)) > LONGEST:
        raise StartError(f"{folder.parent} is too long a name for the folder of a socket: set TMPDIR to a shorter one")
    kind = circus.ThreadedArbiter if threaded else circus.Arbiter
    options = {"check_delay": 10, **options}  # BentoML's
    made = kind(watchers, endpoint=f"ipc://{folder}/orders", pubsub_endpoint=f"ipc://{folder}/news", **options)
    made.ctrl.sys_hdl.handle_hup = made.ctrl.sys_hdl.quit
    if hung_up is signal.SIG_IGN:  # nohup
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    return made


class StartError(BentoMLException):
    """Ends the start with one line."""


def settings_or_error() -> Settings:
    try:
        return load(os.environ)
    except SettingsError as error:
        raise StartError(str(error)) from None


SETTINGS = settings_or_error()


@dataclass(frozen=True)
class Loaded:
    """One model of the store, loaded and checked."""

    classifier: Classifier
    tag: str
    name: str
    provenance: dict[str, Any] = field(repr=False)


def find(tag: str) -> bentoml.Model:
    """The stored model with that tag; without a version, the newest of that name. Raises StartError."""
    try:
        model = bentoml.models.get(tag)
        if ":" in tag and tag not in (str(model.tag), f"{model.tag.name}:latest"):  # BentoML takes a tag's beginning
            raise NotFound(tag)
        return model
    except NotFound:
        store = BentoMLContainer.bentoml_home.get()
        asked = f"model {tag!r}" if ":" in tag else f"model called {tag!r}"
        raise StartError(f"there is no {asked} in the BentoML store {store}; train one with `make train`") from None
    except Exception as error:  # its description is a file, which may hold anything, or may not be read
        why = f"{error}".partition("\n")[0] or type(error).__name__
        raise StartError(f"model {tag!r} in the BentoML store can't be read: {why}; import it again") from None


def readable() -> list[bentoml.Model]:
    """The stored models that have a description, newest first."""
    found = []
    for folder in Path(BentoMLContainer.model_store_dir.get(), NAME).glob("*/"):
        with contextlib.suppress(StartError):
            found.append(find(f"{NAME}:{folder.name}"))
    return sorted(found, key=lambda model: model.creation_time, reverse=True)


def asked() -> bentoml.Model:
    """The model to begin with: the one of the settings, the one that a Bento was packed with, or the newest.

    Where no newer one is followed, it is what the service began with, for a worker that starts again too.
    """
    if BEGAN_WITH in os.environ and (SETTINGS.model or not SETTINGS.reload_seconds):
        with contextlib.suppress(StartError):  # it may have been deleted meanwhile
            return find(os.environ[BEGAN_WITH])
    packed = str(svc.bento.info.all_models[0].tag) if svc.bento else NAME
    return find(SETTINGS.model or packed)


def load_model(model: bentoml.Model, bento: str) -> Loaded:
    """Loads model.onnx out of a stored model, whatever folders are around it. Raises StartError."""
    file = model_file(Path(model.path))
    if file is None:
        raise StartError(f"the stored model {model.tag} has no .onnx file; import it again with the promote step")
    try:
        classifier = Classifier(file, SETTINGS.model_threads)
    except ModelError as error:
        raise StartError(f"the stored model {model.tag} can't be served: {error}") from None
    known = {**classifier.metadata, **{str(key): value for key, value in (model.info.metadata or {}).items()}}
    expected = known.get("sha256")
    if expected and expected != classifier.sha256:
        raise StartError(
            f"the stored model {model.tag} has been altered: sha256 {classifier.sha256}, registered as {expected!s}"
        )
    name = f"{NAME}:{known.get('version') or model.tag.version!s}"
    if not re.fullmatch(r"[\w.:+-]{1,100}", name, re.ASCII):  # it goes into a header of every answer
        raise StartError(f"the stored model {model.tag} calls itself {name!r}, expected letters, digits and . + - _")
    facts = (
        "version",
        "model_id",
        "run_id",
        "git_commit",
        "dirty",
        "dataset",
        "fingerprint",
        "trained_at",
        "precision",
        "parameters",
    )
    provenance = {
        "model": name,
        "tag": str(model.tag),
        "bento": bento,
        **{fact: known.get(fact) for fact in facts},
        "sha256": classifier.sha256,
        "threshold": classifier.threshold,
        "photograph_threshold": classifier.photograph_threshold,
        "segmenter": classifier.segmenter.sha256 if classifier.segmenter else None,
        "metadata": known,
        "libraries": {
            "python": platform.python_version(),
            "bentoml": bentoml.__version__,
            "onnxruntime": onnxruntime.__version__,
            "numpy": np.__version__,
        },
    }
    return Loaded(classifier, str(model.tag), name, provenance)


class Application(ServiceAppFactory):  # type: ignore[misc]
    """BentoML's application with the front before it, the page beside it and no middleware on every request."""

    front: Front
    queue: Batching
    collecting: asyncio.Task[Response] | None = None

    def __call__(self) -> Any:
        app = super().__call__()
        app.add_route("/ui", self.index_page)  # Starlette's own redirection forgets the path of a proxy
        app.mount("/ui", GZipMiddleware(Page(directory=PAGE, html=True)), name="ui")
        app.add_route("/docs", self.docs_page, name="docs")
        return app

    def asgi(self) -> App:
        """The whole: CORS where asked for, the front, BentoML's routes."""
        names = server_context.bento_name, server_context.bento_version
        telemetry = Telemetry(BentoMLContainer.metrics_client.get(), self.name, *names)
        current = lambda: self.instance.current  # noqa: E731
        self.front = Front(
            self(), self.infer, current, SETTINGS, telemetry, SYSTEM_ROUTES, ("/ui/", "/static_content/")
        )
        if not SETTINGS.cors_origins:
            return self.front
        exposed, methods = ["X-Digits-Model", "Retry-After"], ["GET", "POST"]
        allowed = ["Content-Type", "X-API-Key", "Authorization", "X-Digits-Explain"]
        return CORSMiddleware(self.front, SETTINGS.cors_origins, methods, allowed, expose_headers=exposed)

    @property
    def instance(self) -> Any:
        return self._service_instance

    @property
    def middlewares(self) -> list[Any]:
        # BentoML's metrics label by raw path, and its access log and time limit are the front's business here. What
        # stays is what does something that was asked for: tracing, and whatever a user has added.
        traced = BentoMLContainer.config.get()["tracing"].get("exporter_type") is not None
        kept = {"ContextMiddleware", "OpenTelemetryMiddleware"} if traced else {"ContextMiddleware"}
        added = {middleware for middleware, _ in self.service.middlewares}
        return [m for m in super().middlewares if m.cls.__name__ in kept or m.cls in added]

    async def index_page(self, _: Request) -> Response:
        return RedirectResponse("ui/", 307)

    async def docs_page(self, request: Request) -> Response:
        page: Response = await super().index_page(request)
        page.headers.update(DOCS_HEADERS)
        return page

    async def openapi_spec_view(self, _: Request) -> Response:
        return self.api

    @functools.cached_property
    def api(self) -> Response:
        """It never changes, and takes 20 ms to write."""
        return JSONResponse(describe(self.service.openapi_spec.asdict(), bool(SETTINGS.api_key)))

    async def schema_view(self, _: Request) -> Response:
        return self.schema

    @functools.cached_property
    def schema(self) -> Response:
        return JSONResponse(self.service.schema())

    async def metrics(self, _: Request) -> Response:
        """Scrapes that come together share one answer, which takes 30 ms of a core."""
        if self.collecting is None or self.collecting.done():
            self.collecting = asyncio.create_task(self.collected())
        return await asyncio.shield(self.collecting)

    async def collected(self) -> Response:
        await self.front.telemetry.settle()
        client = BentoMLContainer.metrics_client.get()
        return Response(await asyncio.to_thread(client.generate_latest), media_type=client.CONTENT_TYPE_LATEST)

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Any) -> AsyncGenerator[None, None]:
        async with super().lifespan(app):
            self.queue = self.batching()
            for _ in range(WARM_UP):
                await self.infer(np.zeros((1, SIDE, SIDE), np.uint8))
            self.announce()
            gc.collect()
            gc.freeze()  # 100,000 objects of imported libraries need not be walked through again and again
            gc.set_threshold(50_000, 20, 100)
            tasks = [asyncio.create_task(self.follow()), asyncio.create_task(self.attend())]
            yield
            for task in tasks:
                task.cancel()
            self.front.telemetry.flush()

    @functools.cached_property
    def express(self) -> Express:
        put = lambda images, errand: self.queue.put(images, errand)  # noqa: E731  # there will be one when pictures come
        return Express(self.front, put, self.scored)

    async def infer(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32], Loaded]:
        """One request's candidates through the batching queue; again where a switch came between their batches."""
        rows = await self.queue(images)
        while rows[0, -1] != rows[-1, -1]:
            rows = await self.queue(images)
        return self.scored(rows)

    def scored(self, rows: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32], Loaded]:
        """What the rows of `predict` say: probabilities, digitness and the model."""
        return rows[:, :CLASSES], rows[:, CLASSES], self.instance.generations[int(rows[0, -1])]

    def batching(self) -> Batching:
        """What is batched is BentoML's `predict`; when, digits.batching says.

        BentoML's own queue looks for work once a millisecond and waits on purpose, as long as its estimate of the model
        makes that worth while: docs/log.md has both side by side. Its histogram of batch sizes is kept.
        """
        names = server_context.worker_index, "predict", server_context.bento_version, server_context.bento_name
        sizes = self.adaptive_batch_size_hist.labels(self.name, *names)
        predict = self.instance.predict.local
        thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        loop = asyncio.get_running_loop()

        # With a worker for each core, a thread would only take turns with the loop. Where there are more cores it works
        # beside it, but for one picture the way there and back takes longer than the model.
        most_inline = INLINE if workers() >= cores() else 1

        async def inline(images: NDArray[np.uint8]) -> NDArray[np.float32]:
            rows: NDArray[np.float32] = predict(images)
            return rows

        def score(images: NDArray[np.uint8]) -> Awaitable[NDArray[np.float32]]:
            sizes.observe(len(images))
            return inline(images) if len(images) <= most_inline else loop.run_in_executor(thread, predict, images)

        return Batching(score, SETTINGS.max_batch_size, beside=most_inline == 1)

    def announce(self) -> None:
        loaded = self.instance.current
        self.front.telemetry.model(loaded.name, loaded.tag, str(loaded.provenance["precision"]))
        log.info("answering with %s from %s", loaded.name, loaded.tag)

    async def attend(self) -> None:
        """Ends with the supervisor, however that ended: a worker on its own would hold the port."""
        while server_context.worker_index is None or os.getppid() == supervisor():
            await asyncio.sleep(ATTENDING_SECONDS)
        log.warning("the process that started this worker is gone: it ends too")
        shutil.rmtree(shared_folder(), ignore_errors=True)
        os.kill(os.getpid(), signal.SIGTERM)

    async def follow(self) -> None:
        """Moves to the store's newest model whenever there is another, without a request noticing."""
        told = ""
        while self.instance.follows and SETTINGS.reload_seconds:
            await asyncio.sleep(SETTINGS.reload_seconds)
            try:
                newest = await asyncio.to_thread(find, NAME)  # 10 ms of YAML
                if str(newest.tag) != self.instance.current.tag:
                    self.instance.take(await asyncio.to_thread(load_model, newest, self.instance.bento))
                    self.announce()
                told = ""
            except Exception as error:  # the model that works goes on working, and the other may be mended
                word = f"staying with {self.instance.current.tag}: {error}"
                if word != told:
                    log.warning("%s", word)
                told = word


class Page(StaticFiles):
    """The page for people, with headers that let it do what it does and nothing else."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers.update(PAGE_HEADERS)
        return response


class Server(Service[Any]):  # type: ignore[misc]
    """A BentoML service that is served by the application above."""

    def inject_config(self) -> None:
        super().inject_config()
        # BentoML empties one folder of counters at each start: two services of one store would erase each other's.
        if server_context.worker_index is None:
            # In a container BentoML does not start a dead worker again, and ends only when the last one is gone.
            bentoml.serving.running_inside_container = lambda: False  # type: ignore[assignment]
            BentoMLContainer.prometheus_multiproc_dir.set(str(folder_to_share()))
            circus.create_standalone_arbiter = arbiter

    def to_asgi(self, is_main: bool = True) -> Any:
        self.inject_config()
        shares, worker = None, server_context.worker_index
        if worker is not None:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the supervisor hears it too
            folder = shared_folder()
            folder.mkdir(mode=0o700, exist_ok=True)  # a system that tidies up may have taken it,
            if folder.stat().st_uid != os.geteuid():  # and another user its name
                raise StartError(f"{folder} is another user's: start the service again")
            forget_the_dead(folder)
            shares = listener.Shares(folder / "connections", worker - 1)
        listener.install(shares, SETTINGS.idle_seconds, SETTINGS.max_connections)
        application = Application(self, is_main=is_main)
        asgi = application.asgi()
        connection.install(application.express)
        return asgi


class Digits:
    """Reads handwritten digits. POST a picture to /predict; the page for people is at /ui/."""

    # What `bentoml build` packs, by its exact tag. Workers pack nothing, and what is newest now may not be readable.
    stored = bentoml.models.BentoModel(os.environ.get(BEGAN_WITH) or find(SETTINGS.model or NAME).tag)

    def __init__(self) -> None:
        self.bento = str(svc.bento.tag) if svc.bento else ""
        self.follows = not SETTINGS.model and not svc.bento
        self.generations: dict[int, Loaded] = {}
        self.latest = -1
        self.take(self.first())

    @bentoml.on_deployment  # type: ignore[untyped-decorator]
    @staticmethod
    def check() -> None:
        """Runs once, before any worker: a model that can't be served ends the start here."""
        model = asked()
        load_model(model, "")
        os.environ[BEGAN_WITH] = str(model.tag)

    def first(self) -> Loaded:
        """What a worker begins with. One that starts again while the newest can't be served takes the one before it.

        Raises StartError.
        """
        try:
            return load_model(asked(), self.bento)
        except StartError as error:
            if not self.follows:
                raise
            log.warning("%s", error)
            for model in readable():
                with contextlib.suppress(StartError):
                    return load_model(model, self.bento)
            raise

    def take(self, loaded: Loaded) -> None:
        """Answers with this model from the next batch on; batches under way finish with theirs."""
        older, newer = self.latest, self.latest + 1
        self.generations = {older: self.generations.get(older, loaded), newer: loaded}  # first: a thread may be scoring
        self.latest = newer

    @property
    def current(self) -> Loaded:
        return self.generations[self.latest]

    @bentoml.api(  # type: ignore[untyped-decorator]
        batchable=True,
        max_batch_size=max(2, SETTINGS.max_batch_size),  # BentoML's decorator takes no 1
        input_spec=Picture,
        output_spec=PictureAnswer,
    )
    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Scores whatever came together: (n, 28, 28) in; (n, 12) out: probabilities, digitness, the model's number."""
        number = self.latest
        probabilities, digitness = self.generations[number].classifier.scores(images)
        marks = np.full((len(images), 1), number, np.float32)
        return np.concatenate([probabilities, digitness[:, None], marks], axis=1)


svc = bentoml.service(
    name=NAME,
    service_class=Server,
    workers=workers(),
    image=ServingImage(  # type: ignore[call-arg]  # BentoML's Image has no types to inherit
        base_image="python:3.11-slim",
        python_version="3.11",  # the builder's own else, which uv would have to fetch into the image
        lock_python_packages=False,
        models=(str(Digits.stored.tag),),
    ),
    labels={"project": "digits"},
)(Digits)
