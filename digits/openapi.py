"""What /docs.json says about the routes that carry pictures: BentoML's OpenAPI document in, the completed one out."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

BINARY = {"type": "string", "format": "binary"}
ERRORS = {
    400: "No image, or one that is empty, cut short or in a broken form.",
    401: "An API key is asked for and missing or wrong.",
    405: "Another method than this one.",
    408: "The body took longer than the time limit.",
    413: "A body, or a number of pictures, beyond the limit.",
    415: "A Content-Type or Content-Encoding that is not accepted.",
    422: "An image that can't be used: animated, or with too many pixels.",
    431: "Headers of more than 64 KiB, or more than 200 of them.",
    500: "A fault of the service.",
    503: "Busy; Retry-After says when to ask again.",
    504: "No answer within the time limit.",
}


ABOUT = "Reads the handwritten digit in any picture, or says that it can stand behind none."
KEYS = {
    "X-API-Key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "bearer": {"type": "http", "scheme": "bearer"},
}


class Picture(BaseModel):
    """One picture."""

    # "file" is what BentoML's own client looks for: it then sends a form. OpenAPI is told of a binary string.
    image: str = Field(description="the image file", json_schema_extra={"type": "file", "format": "binary"})


class PictureAnswer(BaseModel):
    """What is said about one picture."""

    digit: int = Field(ge=0, le=9, description="the best guess")
    probability: float = Field(ge=0, le=1, description="its calibrated probability among the ten digits")
    probabilities: list[float] = Field(min_length=10, max_length=10, description="of 0 to 9; they sum to 1")
    accepted: bool = Field(description="false where the picture holds no digit that the model can stand behind")
    model: str = Field(description="the model that answered; GET /model tells its provenance")
    seen: str | None = Field(default=None, description="with ?explain=1: the 28×28 PNG that the model saw, base64")
    milliseconds: float | None = Field(default=None, description="with ?explain=1: from the headers to this answer")


def describe(spec: dict[str, Any], keyed: bool = False) -> dict[str, Any]:
    """Adds what a generated document can't know: bodies that are the image itself, the batch route, every error and,
    where an API key is asked for (`keyed`), how it is sent."""
    error = {
        "type": "object",
        "required": ["code", "message"],
        "properties": {"code": {"type": "string"}, "message": {"type": "string"}},
    }
    answer = PictureAnswer.model_json_schema()
    failure = {"type": "object", "title": "Failure", "required": ["error"], "properties": {"error": error}}
    batch = {
        "type": "object",
        "title": "PictureAnswers",
        "required": ["results"],
        "properties": {"results": {"type": "array", "items": {"anyOf": [_ref("PictureAnswer"), _ref("Failure")]}}},
    }
    schemas = {"PictureAnswer": answer, "Failure": failure, "PictureAnswers": batch}
    one: dict[str, Any] = {media: {"schema": BINARY} for media in ("image/*", "application/octet-stream")}
    one["multipart/form-data"] = {"schema": {"type": "object", "required": ["image"], "properties": {"image": BINARY}}}
    many = {"type": "object", "required": ["images"], "properties": {"images": {"type": "array", "items": BINARY}}}
    paths = {
        "/predict": _post("predict", "Read the digit in one picture, of any size and format.", one, "PictureAnswer"),
        "/predict_batch": _post(
            "predict_batch",
            "Read many pictures; one that can't be read never spoils its neighbours.",
            {"multipart/form-data": {"schema": many}},
            "PictureAnswers",
        ),
        "/model": {
            "get": {
                "tags": ["Service APIs"],
                "operationId": "digits__model",
                "description": "Where the answers come from: model, run, data, commit, libraries.",
                "responses": {
                    "200": {"description": "The provenance.", "content": {"application/json": {}}},
                    **_failures(401, 405, 431, 500),
                },
            }
        },
    }
    if keyed:
        for operations in paths.values():
            for operation in operations.values():
                operation["security"] = [{way: []} for way in KEYS]
    info = {"title": "Digits", "description": ABOUT, "version": spec["info"]["version"]}
    components = {"schemas": schemas, "securitySchemes": KEYS if keyed else {}}
    return {**spec, "info": info, "paths": {**spec["paths"], **paths}, "components": components}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _post(name: str, description: str, content: dict[str, Any], answer: str) -> dict[str, Any]:
    given = {"description": "The answer.", "content": {"application/json": {"schema": _ref(answer)}}}
    explain = {"name": "explain", "in": "query", "schema": {"type": "string", "enum": ["0", "1"]}}
    operation = {
        "tags": ["Service APIs"],
        "operationId": f"digits__{name}",
        "description": description,
        "parameters": [explain],
        "requestBody": {"required": True, "content": content},
        "responses": {"200": given, **_failures(*ERRORS)},
    }
    return {"post": operation}


def _failures(*statuses: int) -> dict[str, Any]:
    content = {"application/json": {"schema": _ref("Failure")}}
    return {str(status): {"description": ERRORS[status], "content": content} for status in statuses}
