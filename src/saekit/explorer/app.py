"""The API, as a FastAPI application: what each address answers."""

import hashlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any

from fastapi import Body, FastAPI, Header, Query, Request, Response
from fastapi import Path as InPath
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from saekit.core.errors import SaekitError
from saekit.core.text import seen
from saekit.explorer import schemas
from saekit.explorer.asking import Asking
from saekit.explorer.files import PageFiles
from saekit.explorer.jobs import Board
from saekit.explorer.labels import Labels
from saekit.explorer.problems import MEDIA, Problem, to_json
from saekit.explorer.security import API, Gate
from saekit.explorer.views import MOST_ROWS, USUAL_ROWS, Views, version

Name = Annotated[str, InPath(min_length=1, max_length=500)]
Latent = Annotated[int, InPath(ge=0, le=schemas.LARGEST)]
Number = Annotated[int, InPath(ge=1, le=2**53 - 1)]
Match = Annotated[str | None, Header(max_length=100)]
NUMBERS = r"^[0-9]{1,9}(,[0-9]{1,9})*$"
PROBLEM = {"model": schemas.ProblemBody, "content": {MEDIA: {}}, "description": "A problem."}
PROBLEMS: dict[int | str, dict[str, Any]] = {
    code: PROBLEM for code in (400, 401, 403, 404, 405, 409, 412, 413, 415, 421, 422, 429, 503)
}


class Server:
    """What the API answers from.

    Args:
        views: of the folder.
        board: of jobs.
        gate: who is let in.
        files: of the pages.
    """

    def __init__(self, views: Views, board: Board, gate: Gate, files: PageFiles):
        self.views, self.board, self.gate, self.files = views, board, gate, files
        self.asking = Asking(views)

    @property
    def labels(self) -> Labels:
        """What readers wrote."""
        return self.views.labels


def build(server: Server) -> FastAPI:
    """Return the application."""
    app = FastAPI(
        title="saekit explorer",
        version="1",
        description="What the latents of the SAEs in a folder mean.",
        openapi_url=None,  # the file is in the repository; nothing is served that no page needs
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        responses=PROBLEMS,
    )
    _errors(app)
    _session(app, server)
    _reading(app, server)
    _writing(app, server)
    _jobs(app, server)
    _pages(app, server)
    return app


def answer(request: Request, value: Any, status: int = 200, tag: str | None = None) -> Response:
    """Return a value as JSON; where the reader has it already, that alone.

    Args:
        request: what is answered.
        value: JSON-ready.
        status: of HTTP.
        tag: what tells this state of it from others; None: a digest of the answer.
    """
    body = to_json(value)
    own = tag or f'"{hashlib.sha256(body).hexdigest()[:24]}"'
    if request.method in ("GET", "HEAD") and status == 200 and own in _known(request):
        return Response(status_code=304, headers={"ETag": own})
    return Response(body, status, {"ETag": own}, "application/json")


def _known(request: Request) -> list[str]:
    """Return the states that a reader has."""
    return [one.strip() for one in request.headers.get("if-none-match", "").split(",")]


def _problem(problem: Problem) -> Response:
    return Response(problem.body(), problem.status, media_type=MEDIA)


def _errors(app: FastAPI) -> None:
    @app.exception_handler(SaekitError)
    async def _own(_: Request, error: SaekitError) -> Response:
        return _problem(Problem.of(error))

    @app.exception_handler(Exception)
    async def _failed(_: Request, error: Exception) -> Response:
        return _problem(Problem(500, "The server failed; its terminal says why."))

    @app.exception_handler(RequestValidationError)
    async def _invalid(_: Request, error: RequestValidationError) -> Response:
        said = [schemas.told(one)[:200] for one in error.errors()[:5]]
        text = "; ".join(said).encode("utf-8", "replace").decode()
        return _problem(Problem(422, f"The request is not valid: {text}."))

    @app.exception_handler(HTTPException)
    async def _http(_: Request, error: HTTPException) -> Response:
        said = {404: "There is nothing at this address.", 405: "This address has no such method."}
        return _problem(Problem(error.status_code, said.get(error.status_code, error.detail)))


def _session(app: FastAPI, server: Server) -> None:
    @app.post(f"{API}/session", status_code=204)
    def open_session(given: schemas.Token) -> Response:
        """Take the token of the address that the terminal shows; a cookie comes back."""
        value = server.gate.open_session(given.token)
        found = Response(status_code=204)
        found.set_cookie(server.gate.cookie, value, path="/", httponly=True, samesite="strict")
        return found

    @app.delete(f"{API}/session", status_code=204)
    def close_session(request: Request) -> Response:
        """End the session of this browser."""
        server.gate.close_session(request.cookies.get(server.gate.cookie, ""))
        found = Response(status_code=204)
        found.delete_cookie(server.gate.cookie, path="/", httponly=True, samesite="strict")
        return found


def _reading(app: FastAPI, server: Server) -> None:  # noqa: C901 - one function an address
    views = server.views

    @app.get(f"{API}/meta")
    def meta(request: Request) -> Response:
        """Say what is served, and which jobs there are."""
        found = {
            "version": version(),
            "folder": str(views.library.folder),
            "read_only": server.labels.read_only,
            "read_only_why": server.labels.why,
            "jobs": {"model_loaded": server.board.model},
            "kinds": schemas.kinds(),
        }
        return answer(request, found)

    @app.get(f"{API}/library")
    def library(request: Request) -> Response:
        """List the SAEs, runs and studies of the folder."""
        return answer(request, views.all())

    @app.get(f"{API}/saes/{{sae}}")
    def sae(request: Request, sae: Name) -> Response:
        """Show an SAE."""
        return answer(request, views.sae(sae))

    @app.get(f"{API}/saes/{{sae}}/columns")
    def columns(
        request: Request, sae: Name, names: Annotated[str, Query(max_length=2000)]
    ) -> Response:
        """Give some columns of the table of latents whole; names with commas between them."""
        return answer(request, views.columns(sae, [n for n in names.split(",") if n]))

    @app.get(f"{API}/saes/{{sae}}/latents")
    def latents(
        request: Request,
        sae: Name,
        where: Annotated[str, Query(max_length=4000)] = "",
        limit: Annotated[int, Query(ge=1, le=MOST_ROWS)] = USUAL_ROWS,
        cursor: Annotated[str | None, Query(max_length=100)] = None,
    ) -> Response:
        """Give a page of the table of latents that a query asks for."""
        return answer(request, views.latents(sae, where, limit, cursor))

    @app.get(f"{API}/saes/{{sae}}/search")
    def search(
        request: Request,
        sae: Name,
        q: Annotated[str, Query(min_length=1, max_length=200)],
        scope: Annotated[str, Query(alias="in", max_length=10)] = "any",
        limit: Annotated[int, Query(ge=1, le=MOST_ROWS)] = USUAL_ROWS,
    ) -> Response:
        """Find latents by a text: that they are on at, that is near them, or that they promote."""
        return answer(request, views.search(sae, q, scope, limit))

    @app.get(f"{API}/saes/{{sae}}/latents/{{latent}}")
    def latent(request: Request, sae: Name, latent: Latent) -> Response:
        """Show all that is known of a latent, its panels among it."""
        tag, body = views.latent_answer(sae, latent)
        if tag in _known(request):  # told before anything is read
            return Response(status_code=304, headers={"ETag": tag})
        return Response(body(), 200, {"ETag": tag}, "application/json")

    @app.get(f"{API}/saes/{{sae}}/previews")
    def previews(
        request: Request,
        sae: Name,
        latents: Annotated[str, Query(pattern=NUMBERS, max_length=4000)],
    ) -> Response:
        """Give what latents fire on and promote; their numbers with commas between them."""
        return answer(request, views.previews(sae, [int(n) for n in latents.split(",")]))

    @app.get(f"{API}/runs/{{run}}")
    def run(request: Request, run: Name) -> Response:
        """Show how a run stands."""
        return answer(request, views.run(run))

    @app.get(f"{API}/studies/{{study}}")
    def study(request: Request, study: Name) -> Response:
        """Show what a study found."""
        return answer(request, views.study(study))


def _writing(app: FastAPI, server: Server) -> None:  # noqa: C901 - one function an address
    labels, views = server.labels, server.views

    def key(sae: str, latent: int) -> str:
        entry = views.library.sae(sae)
        index = views.index(entry)
        from saekit.explorer.views import check_latent

        check_latent(index, latent)
        return views.label_key(entry) or index.weights

    at = f"{API}/saes/{{sae}}/latents/{{latent}}/label"

    @app.get(at)
    def get_label(request: Request, sae: Name, latent: Latent) -> Response:
        """Give the label of a latent; its ETag is what a change must name."""
        found = labels.get(key(sae, latent), latent)
        if found is None:
            raise Problem(404, f"Latent {latent} has no label.")
        return answer(request, found._asdict(), tag=found.tag)

    @app.put(at)
    def put_label(
        request: Request, sae: Name, latent: Latent, given: schemas.NewLabel, if_match: Match = None
    ) -> Response:
        """Write the label of a latent; with If-Match in the place of the one named."""
        text = given.text.strip()
        if not seen(text):
            raise Problem(400, "A label has one character or more that can be seen.")
        weights = key(sae, latent)
        made = labels.put(weights, latent, text, note=given.note, by=given.by, match=if_match)
        return answer(request, made._asdict(), tag=made.tag)

    @app.delete(at, status_code=204)
    def delete_label(sae: Name, latent: Latent, if_match: Match = None) -> Response:
        """Remove the label of a latent."""
        labels.remove(key(sae, latent), latent, if_match)
        return Response(status_code=204)

    @app.get(f"{API}/labels")
    def export(request: Request) -> Response:
        """Give all labels, notes, lists and saved views, as the import takes them."""
        return answer(request, labels.export())

    @app.post(f"{API}/labels")
    def restore(request: Request, given: schemas.Exported) -> Response:
        """Take labels, lists and saved views that were exported."""
        return answer(request, labels.restore(given.model_dump(), replace=given.replace))

    @app.get(f"{API}/lists")
    def lists(request: Request) -> Response:
        """Give every list, without what is in it."""
        return answer(request, {"lists": labels.lists()})

    @app.post(f"{API}/lists", status_code=201)
    def make_list(request: Request, given: schemas.NewList) -> Response:
        """Make a list."""
        made = given.model_dump()
        return answer(request, labels.make_list(made["name"], made["note"], made["items"]), 201)

    @app.get(f"{API}/lists/{{number}}")
    def get_list(request: Request, number: Number) -> Response:
        """Give a list with what is in it."""
        found = labels.get_list(number)
        return answer(request, found, tag=f'"{found["version"]}"')

    @app.patch(f"{API}/lists/{{number}}")
    def change_list(
        request: Request, number: Number, given: schemas.ListChange, if_match: Match = None
    ) -> Response:
        """Change a list."""
        changes = {k: v for k, v in given.model_dump().items() if v is not None}
        found = labels.change_list(number, changes, if_match)
        return answer(request, found, tag=f'"{found["version"]}"')

    @app.delete(f"{API}/lists/{{number}}", status_code=204)
    def delete_list(number: Number) -> Response:
        """Remove a list."""
        labels.remove_list(number)
        return Response(status_code=204)

    @app.get(f"{API}/views")
    def saved(request: Request) -> Response:
        """Give the saved views: addresses of the pages, each under a name."""
        return answer(request, {"views": labels.views()})

    @app.post(f"{API}/views", status_code=201)
    def save_view(request: Request, given: schemas.NewView) -> Response:
        """Keep an address of the pages under a name."""
        return answer(request, labels.save_view(given.name, given.address), 201)

    @app.patch(f"{API}/views/{{number}}")
    def rename_view(request: Request, number: Number, given: schemas.ViewName) -> Response:
        """Call a saved view something else."""
        return answer(request, labels.rename_view(number, given.name))

    @app.delete(f"{API}/views/{{number}}", status_code=204)
    def delete_view(number: Number) -> Response:
        """Remove a saved view."""
        labels.remove_view(number)
        return Response(status_code=204)


def _jobs(app: FastAPI, server: Server) -> None:
    board = server.board

    @app.post(f"{API}/jobs", status_code=202)
    def add(request: Request, given: Annotated[schemas.NewJob, Body()]) -> Response:
        """Ask for a job; the answer names it."""
        asked = given.model_dump()
        kind = asked.pop("kind")
        job = board.add(kind, asked, server.asking.arguments(kind, asked))
        return answer(request, {"id": job.id}, 202)

    @app.get(f"{API}/jobs")
    def jobs(request: Request) -> Response:
        """List the jobs that are kept, the newest first, without their results."""
        return answer(request, {"jobs": [job.record(whole=False) for job in board.all()]})

    @app.get(f"{API}/jobs/{{job}}")
    def get(request: Request, job: Annotated[str, InPath(max_length=100)]) -> Response:
        """Give a job, with its result once there is one."""
        return answer(request, board.get(job).record())

    @app.delete(f"{API}/jobs/{{job}}")
    def cancel(request: Request, job: Annotated[str, InPath(max_length=100)]) -> Response:
        """Cancel a job; one that is over stays as it is."""
        return answer(request, board.cancel(job).record(whole=False))


def _pages(app: FastAPI, server: Server) -> None:
    def page(path: str) -> Callable[[Request], Awaitable[Response]]:
        async def read(request: Request) -> Response:
            found = server.files.get(path)
            if found is None:
                raise Problem(404, "There is nothing at this address.")
            headers = {"ETag": found.tag, "Cache-Control": "no-cache"}
            if found.tag in request.headers.get("if-none-match", ""):
                return Response(status_code=304, headers=headers)
            return Response(found.data, headers=headers, media_type=found.media)

        return read

    for path in server.files.paths():
        app.add_route(path, page(path), methods=["GET", "HEAD"], include_in_schema=False)


def openapi(folder: Path) -> dict[str, Any]:
    """Return what the API is, for the file in the repository.

    Args:
        folder: any; nothing of it is in the answer.
    """
    from saekit.explorer.library import Library

    labels = Labels(folder / "none.db", read_only=True)
    gate = Gate(["127.0.0.1:80"], lambda link: None)
    views = Views(Library(folder), labels)
    return build(Server(views, Board(), gate, PageFiles())).openapi()
